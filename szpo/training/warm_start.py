"""Begin a run with preferences from elsewhere: the setting `optimizer.prior`.

Their texts' scores in the run's coordinates make the prior of its fit (`szpo.optim.
vote_regression.warm_start`). Features, limits and the file's hash are recorded when the run is
created, so that replay and verify need neither model nor file.
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
from szpo.ledger.rows import PRIOR_FAR, PRIOR_FEATURES
from szpo.models import context, loading
from szpo.optim.rules import look_ahead, regression
from szpo.optim.rules.all_votes import with_pairs
from szpo.optim.rules.registry import RULES
from szpo.optim.settings import Settings
from szpo.policies.lora_policy import LoraPolicy
from szpo.training import guard_moments
from szpo.types import Floats, Prompt

NAME: Final = "optimizer.prior"


@dataclass(frozen=True, slots=True, eq=False)
class WarmStart:
    """What a run records of the preferences that it begins with."""

    facts: Mapping[str, Any]
    """For the run's spec: file, kind, sha256, pairs, of, votes."""
    features: Floats
    """Scores of what was preferred less those of the other (n, d)."""
    far: Floats
    """(d,): beyond ± this a feature is cut."""

    def tensors(self) -> dict[str, Floats]:
        """For the run's record, by name."""
        return {PRIOR_FEATURES: self.features, PRIOR_FAR: self.far}


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


def make(
    settings: Settings, policy: LoraPolicy, found: Preferred, prompts: tuple[Prompt, ...]
) -> tuple[Settings, WarmStart]:
    """The settings with the prior that the preferences make, and what is to be recorded of them.

    ``prompts`` are those of the run: answers of the start to them say what is far.

    Raises:
        UsageError: a text is longer than the model reads, the coordinates give no scores, or none
            of the preferences differs in them.
    """
    _demand_room(policy, found)
    if found.kind == preference_files.DEMONSTRATIONS:
        found = _answer(policy, found, settings.root_seed)
    scores = policy.score_features(found.comparisons)[0]
    far = guard_moments.load_or_read(policy, prompts).far()
    features = np.round(scores, 6)  # as recorded
    if not features.any():
        raise UsageError(f"{NAME} {found.file}: no preference differs in the run's coordinates")
    warm = with_pairs(settings, features, far)
    begun = look_ahead.look_ahead(warm, regression.init(warm)).prior_votes or 0.0
    facts = {
        "file": found.file, "kind": found.kind, "sha256": found.sha256,
        "pairs": len(features), "of": found.of, "votes": round(begun, 3),
    }  # fmt: skip
    return warm, WarmStart(facts, features, far)


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
    return (
        f"prior: {facts['pairs']:,}{some} preferences from {facts['file']} ({facts['kind']}), "
        f"worth {facts['votes']:.0f} votes at the start; votes decide what they weigh later"
    )


def _demand_room(policy: LoraPolicy, found: Preferred) -> None:
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
