"""A trained pair scorer as a judge: it votes by the mean of its scores over the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from szpo import seeds
from szpo.config.judge import Judge
from szpo.errors import IntegrityError
from szpo.intervals import share
from szpo.judges import pair_scorer
from szpo.judges.llm_judge import Opinion, by_sign, probability
from szpo.judges.pair_scorer import LabelledPair
from szpo.models import weight_files
from szpo.models.loading import Loaded
from szpo.policies.backend import Backend, LocalBackend
from szpo.types import Choice, Comparison
from szpo.voting.seats import Letter


@dataclass(frozen=True)
class ScorerJudge:
    """Votes for the batch with the higher mean score, or draws the vote with its probability."""

    backend: Backend
    """Holds the model whose features are read."""
    head: Mapping[str, Tensor]
    settings: Judge
    sha256: str
    """SHA-256 of the head's file."""

    def judge(
        self, comparison: Comparison, *, panelist: str, plus_side: Letter, key: bytes
    ) -> Choice:
        """See `szpo.evaluators.protocol.Judge`."""
        return self.opinion(comparison, panelist=panelist, plus_side=plus_side, key=key).choice

    def opinion(
        self, comparison: Comparison, *, panelist: str, plus_side: Letter, key: bytes
    ) -> Opinion:
        """One vote, its score and probability in the details."""
        if comparison.identical:
            return Opinion("tie")
        shown = tuple((r.prompt, r.plus, r.minus) for r in comparison.rows if not r.identical)
        pair = LabelledPair(shown, 0.5, len(comparison.rows))
        s = float(pair_scorer.to_tensors(self.backend, [pair]).scores(self.head)[0])
        s = s if plus_side == "A" else -s
        p = probability(s)
        details = {"judge": Path(self.settings.model).name, "score": s, "p": p}
        if self.settings.decide == "draw":
            return Opinion("A" if seeds.uniform(key, 1)[0] < p else "B", details)
        return Opinion(by_sign(s), details)


def load(path: Path, settings: Judge, beside: Callable[[str], Backend]) -> ScorerJudge:
    """Load the scorer of a file; ``beside`` returns the model, by name, whose features it reads.

    Raises:
        UsageError: The file is not a pair scorer.
        IntegrityError: The model is not the one it was trained on.
    """
    head, trained = pair_scorer.load(path)
    backend = beside(str(trained["model"]))
    if backend.facts.sha256 != trained["model_sha256"]:
        raise IntegrityError(
            f"{path} was trained on other weights of {trained['model']} than those here; train "
            "it again with: szpo scorer"
        )
    return ScorerJudge(backend, head, settings, weight_files.digest([path]))


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained head, and its accuracy on held-out pairs."""

    head: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def __str__(self) -> str:
        f = self.facts
        low, high = f["interval"]
        return (
            f"trained on {f['trained_on']} pairs; right on {f['right']} of {f['decided']} held "
            f"out ({f['right'] / max(1, f['decided']):.3f}, 95 % {low:.3f} to {high:.3f})"
        )


def train(loaded: Loaded, taught: Sequence[LabelledPair], *, seed: int = 0) -> Trained:
    """A head for these pairs, measured on those held out by the hash of their prompts."""
    to_learn, held = pair_scorer.split(taught)
    reader = LocalBackend(loaded).beside(loaded.name)
    head = pair_scorer.train(pair_scorer.to_tensors(reader, to_learn), seed=seed)
    as_used = {name: tensor.double() for name, tensor in head.items()}
    measured = pair_scorer.to_tensors(reader, held).accuracy(as_used) if held else (0, 0)
    found = share(*measured)
    return Trained(
        head,
        {
            "model": loaded.name,
            "model_sha256": loaded.sha256,
            "trained_on": len(to_learn),
            "right": measured[0],
            "decided": measured[1],
            "interval": [found.low, found.high],
            "seed": seed,
        },
    )
