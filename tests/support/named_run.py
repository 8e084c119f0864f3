"""A run in coordinates of named features without a model: z shifts the count of each mark."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from szpo import seeds
from szpo.config.optimizer import make_settings
from szpo.features import dictionary
from szpo.ledger.database import Ledger
from szpo.optim import parameters
from szpo.optim.informative import NOISE
from szpo.optim.named_features import NamedFeatures
from szpo.optim.settings import Settings
from szpo.types import FEATURE_GRID, Answer, Batch, Comparison, Floats, Prompt, Shift
from szpo.voting.applied_step import Outcome
from tests.support.quadratic import QuadraticPolicy, ValueJudge, go, new_ledger, panel_of

MARKS = {"commas": ",", "exclamations": "!", "questions": "?", "colons": ":", "you": " you"}
"""Features by name, each with the mark that is more frequent if its coordinate is larger."""
COMPONENTS = 2


def features() -> NamedFeatures:
    k = len(MARKS)
    rows = 0.8 * np.eye(k) + 0.1
    return NamedFeatures(
        tuple(MARKS),
        tuple(range(k)),
        (FEATURE_GRID,) * k,
        tuple(map(tuple, np.rint(rows * FEATURE_GRID).astype(int).tolist())),
        COMPONENTS,
        dictionary.digest(),
    )


def with_names() -> NamedFeatures:
    """The same features where each coordinate has a name, as that of an adapter."""
    k = len(MARKS)
    axes = tuple(map(tuple, (FEATURE_GRID * np.eye(k, dtype=int)).tolist()))
    names = tuple(f"more {mark}" for mark in MARKS)
    return replace(features(), components=0, coordinates=names, axes=axes)


class MarkedPolicy(QuadraticPolicy):
    """A policy whose answers have more of the marks whose coordinates are larger."""

    def rollout(
        self, prompts: Sequence[Sequence[Prompt]], shifts: Sequence[Shift], *, seed: int
    ) -> list[Batch]:
        self.rollouts += 1
        batches = []
        for asked, shift in zip(prompts, shifts, strict=True):
            z = parameters.shift(self.space, self.theta_now, shift)["z"].astype(float)
            key = seeds.derive(seed, "marks", k=shift.k)
            luck = seeds.uniform(key, len(asked) * len(z)).reshape(len(asked), len(z))
            counts = np.maximum(np.rint(3 + 1.2 * z + 3 * (luck - 0.5)), 0).astype(int)
            texts = ("Well" + "".join(m * n for m, n in zip(MARKS.values(), row, strict=True))
                     for row in counts)  # fmt: skip
            batches.append(tuple(Answer(text, tokens=2) for text in texts))
        return batches

    def score_features(self, comparisons: Sequence[Comparison]) -> Floats:
        """A substitute for a model's scores, from differences in the marks' counts."""

        def count(text: str) -> list[int]:
            return [text.count(mark) for mark in MARKS.values()]

        rows = [
            [np.subtract(count(r.plus.text), count(r.minus.text)) for r in each.rows]
            for each in sorted(comparisons, key=lambda each: (each.k, each.n))
        ]
        return np.asarray(np.mean(rows, axis=1)[:, None, :] / 2)


class Likes(ValueJudge):
    """Prefers more of a mark, ``weight`` logits for each, or fewer where that is negative."""

    def __init__(self, mark: str = "!", weight: float = 1.0):
        super().__init__()
        self.mark, self.weight = mark, weight

    def gap(self, comparison: Comparison) -> float:
        more = [r.plus.text.count(self.mark) - r.minus.text.count(self.mark)
                for r in comparison.rows]  # fmt: skip
        return self.weight * float(np.mean(more))


FEWER_COMMAS = Likes(",", -1.0)


def settings_of(**changes: Any) -> Settings:
    usual = {"features": features(), "K": 4, "N": 1, "D": 3}
    usual |= {"root_seed": 7, "layout": (("z", (len(MARKS),)),), "asking_noise": NOISE}
    return make_settings(**{**usual, **changes})


def start(folder: Path, name: str = "run.db", **changes: Any) -> tuple[Settings, Ledger]:
    settings = settings_of(**changes)
    return settings, new_ledger(folder / name, settings)


def drive(settings: Settings, ledger: Ledger, policy: Any = None, **how: Any) -> Outcome:
    """Drive the run, by default for four steps with a policy at its start."""
    own = policy or MarkedPolicy(settings)
    return go(settings, ledger, own, panel_of(ledger, judge=FEWER_COMMAS), **how)


def adoption(ledger, steps):
    """The body of an adoption of weights that were improved after the steps so far."""
    return {"steps": steps, "begun": {"steps": steps, "event": ledger.last_event()["event"] + 1}}
