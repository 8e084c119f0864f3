"""Begin a run with preferences from elsewhere: the setting `optimizer.prior`.

Their texts' scores in the run's coordinates make the prior of its fit (`szpo.optim.
vote_regression.warm_start`); where these are named features, they make some likelier than others
(`szpo.optim.named_features.chances_of_pairs`). What the fit reads and the file's hash are recorded
when the run is created, so that replay and verify need neither model nor file. The votes of a run
on the same model, prompts and coordinates count as the run's own instead.
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
from szpo.optim.rules import look_ahead, regression
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
"""Settings that must be equal for votes to mean the same."""
SAID: Final = 3
"""Groups of features that are named."""


@dataclass(frozen=True, slots=True, eq=False)
class WarmStart:
    """What a run records of the preferences that it begins with."""

    facts: Mapping[str, Any]
    """For the run's spec: file, kind, sha256, pairs, of, and votes or likelier features."""
    features: Floats | None = None
    """Preferred less other: scores (n, d), or regressors of named features (n, p); None where the
    votes of a run count in full."""
    far: Floats | None = None
    """(d,): beyond ± this a score is cut."""

    def tensors(self) -> dict[str, Floats]:
        """For the run's record, by name."""
        each = {PRIOR_FEATURES: self.features, PRIOR_FAR: self.far}
        return {name: value for name, value in each.items() if value is not None}


def read(config: Config, *, scored: bool = True) -> Preferred | None:
    """Read the file that the settings name, before a model is loaded; None without one.

    ``scored``: the run's policy gives the scores of texts.

    Raises:
        UsageError: rule or policy take none, or the file cannot be used.
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
    """The settings in which an earlier run's votes count in full, or in what that run differs.

    Args:
        config: Of the run that begins.
        settings: Its optimizer's; without them an empty string where nothing else differs.
        found: The earlier run's preferences; those of any other file give an empty string.
        identity: Its ``base_sha256``, ``basis_sha256`` and ``prompts``, as a ledger has them.
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
    """How the preferences will count, before a model is loaded; ``space``: where it is stored."""
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
    """For the user, of an earlier run in which something differs."""
    return f"{found.file} differs in {differs}; its votes weigh less"


def make(
    settings: Settings,
    policy: LoraPolicy,
    found: Preferred,
    prompts: tuple[Prompt, ...],
    entries: Mapping[str, Entry] | None = None,
) -> tuple[Settings, WarmStart]:
    """The settings with the prior that the preferences make, and what is to be recorded of them.

    ``prompts`` are those of the run: answers of the start to them say what is far. ``entries``
    count its named features.

    Raises:
        UsageError: a text is longer than the model reads, the coordinates give no scores, or none
            of the preferences differs in them.
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
    begun = look_ahead.look_ahead(warm, regression.init(warm))
    facts = {
        "file": found.file, "kind": found.kind, "sha256": found.sha256,
        "pairs": len(features), "of": found.of,
    }  # fmt: skip
    if warm.features is None:
        facts["votes"] = round(begun.prior_votes or 0.0, 3)
    else:
        facts["likelier"] = _likelier(warm.features, warm.prior_chances or ())
    return warm, WarmStart(facts, features, far)


def _regressors(
    named: NamedFeatures, found: Preferred, scores: Floats, entries: Mapping[str, Entry]
) -> Floats:
    """What votes on the pairs would be fitted on (n, p), as if each had one row a side."""
    counted = shown_features.differences_of(named, found.comparisons, entries).reshape(
        len(found.comparisons), -1
    )
    x = named_features.regressors(counted, scores.reshape(len(counted), -1)[:, : named.components])
    rows = np.array([len(comparison.rows) for comparison in found.comparisons])
    return np.asarray(x * np.sqrt(rows)[:, None])


def _likelier(named: NamedFeatures, chances: tuple[float, ...]) -> dict[str, float]:
    """Groups that the pairs made twice as likely, and how likely they are now."""
    now = np.bincount(named.groups, chances)
    before = named_features.prior_of(named, 1).features()[: len(named.names)]
    grown = np.flatnonzero(now > 2 * np.bincount(named.groups, before))
    called = named_features.group_heads(named)
    order = sorted(grown.tolist(), key=lambda group: -now[group])
    return {named.names[called[group]]: round(float(now[group]), 3) for group in order[:SAID]}


def _answer(policy: LoraPolicy, found: Preferred, root_seed: int) -> Preferred:
    """Demonstrations beside the base's own answers to the same prompts."""
    shown = [comparison.rows[0] for comparison in found.comparisons]
    seed = seeds.as_seed(seeds.derive(root_seed, "prior demonstrations"))
    drawn = policy.sample([row.prompt for row in shown], seed=seed, base=True)
    rows = [replace(row, minus=own) for row, (own,) in zip(shown, drawn, strict=True)]
    both = zip(found.comparisons, rows, strict=True)
    return replace(found, comparisons=tuple(replace(c, rows=(row,)) for c, row in both))


def describe(made: WarmStart) -> str:
    """For the user, when the run begins."""
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
