"""Begin a run with preferences from elsewhere: the setting `optimizer.prior`.

The scores of their texts in the run's coordinates give the prior of its fit
(`szpo.optim.vote_regression.warm_start`). With named features, they make some features likelier
(`szpo.optim.named_features.chances_of_pairs`). The fit's inputs and the file's hash are recorded
when the run is created, so replay and verify need neither model nor file. Votes of an earlier run
with the same model, prompts and coordinates count as the run's own instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from szpo import seeds
from szpo.config.schema import Config
from szpo.data import preference_files, preferred
from szpo.data.preferred import Preferred
from szpo.errors import UsageError
from szpo.features.dictionary import Entry
from szpo.ledger.database import Ledger
from szpo.ledger.rows import PRIOR_FAR, PRIOR_FEATURES
from szpo.ledger.run_spec import recorded_settings
from szpo.models import context, loading
from szpo.optim import named_features, superseded
from szpo.optim.checked_settings import settings_to_json
from szpo.optim.named_features import NamedFeatures
from szpo.optim.rules import findings, regression
from szpo.optim.rules.all_votes import with_earlier_votes, with_pairs
from szpo.optim.rules.registry import RULES, has_two_points
from szpo.optim.settings import Settings
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.subspaces import Subspace
from szpo.replay import replay
from szpo.training import guard_moments
from szpo.types import Floats, Prompt
from szpo.voting import shown_features

NAME: Final = "optimizer.prior"
OF_COORDINATES: Final = (
    "layout", "scale", "mu", "kl_radius", "pairing", "score_share", "prior_variances",
    "prior_widths", "features", "start", "sided",
)  # fmt: skip
"""Settings that must be equal for votes of two runs to mean the same."""
SAID: Final = 3
"""Largest number of feature groups that are named."""


@dataclass(frozen=True, slots=True, eq=False)
class WarmStart:
    """The record of the preferences that a run begins with."""

    facts: Mapping[str, Any]
    """For the run's spec: file, kind, sha256, pairs, of, and full, votes or likelier features."""
    features: Floats | None = None
    """Preferred minus other: scores (n, d), or regressors of named features (n, p); None where the
    votes of a run count in full."""
    far: Floats | None = None
    """(d,): scores are clipped at ± these limits."""

    def tensors(self) -> dict[str, Floats]:
        """The tensors for the run's record, by name."""
        each = {PRIOR_FEATURES: self.features, PRIOR_FAR: self.far}
        return {name: value for name, value in each.items() if value is not None}


def read(config: Config, *, scored: bool = True) -> Preferred | None:
    """Read the file that the settings name, before a model is loaded; None without a file.

    ``scored``: the run's policy gives the scores of texts.

    Raises:
        UsageError: the rule or the policy cannot use preferences, or the file is unusable.
    """
    path = config.optimizer.prior
    if path is None:
        return None
    able = [name for name, rule in RULES.items() if rule.two_points]
    if config.rule not in able:
        raise UsageError(
            f"settings: {NAME} belongs to the rule {' or '.join(able)}; set optimizer.rule, or "
            "leave it out"
        )
    if not scored:
        raise UsageError(
            f"settings: {NAME} needs the scores of texts, which policy {config.model.name} does "
            "not give; leave it out"
        )
    return preferred.read(Path(path).expanduser())


def take_votes(
    config: Config, settings: Settings | None, found: Preferred, identity: Mapping[str, Any]
) -> tuple[Settings, WarmStart] | str:
    """The settings in which an earlier run's votes count in full, or how that run differs.

    Args:
        config: Settings of the new run.
        settings: Its optimizer settings; if None, the result is "" where nothing else differs.
        found: The preferences of an earlier run; those of any other file give "".
        identity: The new run's ``base_sha256``, ``basis_sha256`` and ``prompts``, as in a ledger.
    """
    if found.kind != preferred.LEDGER_KIND:
        return ""
    assert config.optimizer.prior is not None
    with Ledger.open(Path(config.optimizer.prior).expanduser(), readonly=True) as ledger:
        if differs := _find_difference(ledger, config, settings, identity):
            return differs
        if settings is None:
            return ""
        votes = replay.replay_state(ledger, recorded_settings(ledger)).carried.votes
    facts = {
        "file": found.file, "kind": found.kind, "sha256": found.sha256, "pairs": len(votes.steps),
        "of": found.of, "full": round(float((votes.up + votes.down).sum())),
    }  # fmt: skip
    return with_earlier_votes(settings, votes), WarmStart(facts)


def _find_difference(
    ledger: Ledger, config: Config, settings: Settings | None, identity: Mapping[str, Any]
) -> str:
    optimizer = ledger.spec["optimizer"]
    past = ledger.spec.get("config") or {"model": {}, "generation": {}}  # begun by no settings
    if superseded.find_gone(optimizer) or not has_two_points(optimizer["rule"]):
        return "its rule"
    theirs = settings_to_json(recorded_settings(ledger))
    mine = theirs if settings is None else settings_to_json(settings)
    now = config.model_dump(mode="json")
    model = ledger.row["base_sha256"] == identity["base_sha256"]
    coordinates = settings is None or ledger.row["basis_sha256"] == identity["basis_sha256"]
    same = {
        "its model": model and past["model"].get("adapter") == now["model"]["adapter"],
        "its prompts": ledger.spec["prompts"]["sha256"] == identity["prompts"],
        "the length or the temperature of answers": past["generation"] == now["generation"],
        "its coordinates": coordinates
        and all(theirs.get(name) == mine.get(name) for name in OF_COORDINATES),
        "how its votes weigh": all(
            each["weighting"] == "equal" and "forgetting" not in each for each in (theirs, mine)
        ),
    }
    return next((what for what, equal in same.items() if not equal), "")


def foretell(
    config: Config, found: Preferred, space: Subspace | None, identity: Mapping[str, Any]
) -> str:
    """How the preferences will count, before a model is loaded; ``space``: if it is stored."""
    settings, basis = None, None
    if space is not None:
        named = None if space.features is None else space.features.named()
        settings = config.optimizer_settings(space.layout, space.scale, named)
        basis = space.basis_sha256
    taken = take_votes(config, settings, found, {**identity, "basis_sha256": basis})
    if not isinstance(taken, str):
        return describe(taken[1])
    if taken:
        return describe_less(found, taken)
    full = ", in full on the same coordinates" * (found.kind == preferred.LEDGER_KIND)
    return f"{len(found.comparisons):,} preferences from {found.file} ({found.kind}){full}"


def describe_less(found: Preferred, differs: str) -> str:
    """A sentence for the user on an earlier run that differs."""
    return f"{found.file} differs in {differs}; its votes weigh less"


def make(
    settings: Settings,
    policy: LoraPolicy,
    found: Preferred,
    prompts: tuple[Prompt, ...],
    entries: Mapping[str, Entry] | None = None,
) -> tuple[Settings, WarmStart]:
    """The settings with the prior from the preferences, and the record of these.

    ``prompts`` are the run's: the start's answers to them give the limits of scores. ``entries``
    count the run's named features.

    Raises:
        UsageError: a text is longer than the model's context, the coordinates give no scores, or
            no preference differs in them.
    """
    _require_room(policy, found)
    if found.kind == preference_files.DEMONSTRATIONS:
        found = _answer(policy, found, settings.root_seed)
    features, far = policy.score_features(found.comparisons)[0], None
    if settings.features is not None:
        features = _regressors(settings.features, found, features, entries or {})
    else:
        far = guard_moments.load_or_read(policy, prompts).far()
    features = np.round(features, 6)  # as recorded
    if not features.any():
        raise UsageError(f"{NAME} {found.file}: no preference differs in the run's coordinates")
    warm = with_pairs(settings, features, far)
    facts = {
        "file": found.file, "kind": found.kind, "sha256": found.sha256,
        "pairs": len(features), "of": found.of,
    }  # fmt: skip
    if warm.features is None:
        facts["votes"] = round(findings.find(warm, regression.init(warm)).prior_votes or 0.0, 3)
    else:
        facts["likelier"] = _likelier(warm.features, warm.prior_chances or ())
    return warm, WarmStart(facts, features, far)


def _regressors(
    named: NamedFeatures, found: Preferred, scores: Floats, entries: Mapping[str, Entry]
) -> Floats:
    """The regressors of votes on the pairs (n, p), scaled as if each pair had one row a side."""
    counted = shown_features.differences_of(named, found.comparisons, entries).reshape(
        len(found.comparisons), -1
    )
    x = named_features.regressors(counted, scores.reshape(len(counted), -1)[:, : named.components])
    rows = np.array([len(comparison.rows) for comparison in found.comparisons])
    return np.asarray(x * np.sqrt(rows)[:, None])


def _likelier(named: NamedFeatures, chances: tuple[float, ...]) -> dict[str, float]:
    """Groups that the pairs made more than twice as likely, with their probabilities now."""
    now = np.bincount(named.groups, chances)
    before = named_features.prior_of(named, 1).features()[: len(named.names)]
    grown = np.flatnonzero(now > 2 * np.bincount(named.groups, before))
    called = named_features.group_heads(named)
    order = sorted(grown.tolist(), key=lambda group: -now[group])
    return {named.names[called[group]]: round(float(now[group]), 3) for group in order[:SAID]}


def _answer(policy: LoraPolicy, found: Preferred, root_seed: int) -> Preferred:
    """Pair demonstrations with the base's own answers to the same prompts."""
    shown = [comparison.rows[0] for comparison in found.comparisons]
    seed = seeds.as_seed(seeds.derive(root_seed, "prior demonstrations"))
    drawn = policy.sample([row.prompt for row in shown], seed=seed, base=True)
    rows = [replace(row, minus=own) for row, (own,) in zip(shown, drawn, strict=True)]
    both = zip(found.comparisons, rows, strict=True)
    return replace(found, comparisons=tuple(replace(c, rows=(row,)) for c, row in both))


def describe(made: WarmStart) -> str:
    """A sentence for the user when the run begins."""
    facts = made.facts
    some = "" if facts["of"] == facts["pairs"] else f" of {facts['of']:,}"
    if "full" in facts:
        same = "same model, prompts and coordinates"
        return f"{facts['full']:,} votes of {facts['file']} count in full ({same})"
    begun = f"{facts['pairs']:,}{some} preferences from {facts['file']} ({facts['kind']})"
    if "votes" in facts:
        worth = f"worth {facts['votes']:.0f} votes at the start"
        return f"{begun}, {worth}; votes decide what they weigh later"
    likelier = named_features.describe_likelier(facts["likelier"])
    return f"{begun} {likelier}; votes decide whether, and which way"


def _require_room(policy: LoraPolicy, found: Preferred) -> None:
    reader = context.reader_of(policy.loaded)
    for comparison in found.comparisons:
        for row in comparison.rows:
            before = len(policy.encode(row.prompt))
            for answer in (row.plus, row.minus):
                if reader.over(size := before + len(loading.answer_tokens(policy.loaded, answer))):
                    raise UsageError(
                        f"{NAME} {found.file}: preference {comparison.n + 1} has {size:,} tokens "
                        f"with its prompt, model {reader.name} reads {reader.most:,}; leave it out"
                    )
