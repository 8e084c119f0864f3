"""A small pair scorer on features of a language model, and as a judge.

Candidates i and j of one prompt, with features f, each get a score next to the other,
sⁱ = g(fᵢ, fⱼ) and sʲ = g(fⱼ, fᵢ), and s_ij = sⁱ − sʲ: swapping the two changes only the sign.
PairRM (arXiv:2306.02561) reads both candidates with one encoder. Here a frozen model reads each
candidate alone, once; only g (a linear part and a few tanh units) is trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.nn import functional

from szpo import seeds
from szpo.config.tables import Judge
from szpo.data import preference_files
from szpo.errors import IntegrityError, StorageError, UsageError
from szpo.judges.llm_judge import Opinion, by_sign, probability
from szpo.ledger.database import Ledger
from szpo.metrics import share
from szpo.models import loading, weight_files
from szpo.models.loading import Loaded
from szpo.policies.backend import Backend, LocalBackend, States
from szpo.types import Answer, Choice, Comparison, Prompt
from szpo.voting import counting, withdrawals
from szpo.voting.seats import Letter

FORMAT: Final = "szpo pair scorer 1"
NAMES: Final = ("mean", "scale", "linear", "mix", "bias", "out")
Parameters = dict[str, Tensor]


Shown = tuple[Prompt, Answer, Answer]
"""A request with the first and the second answer to it."""
HELD_OUT_EVERY: Final = 5
"""One pair in this many is held out to measure accuracy."""


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """Two sets of answers and which was better: z is 1 for the first, 0 for the second, ½ tie."""

    shown: tuple[Shown, ...]
    z: float
    rows: int
    """Rows of the batch (D), including those with equal answers."""


def of_ledger(ledger: Ledger) -> list[LabelledPair]:
    """One pair for each counted vote of a run that was not withdrawn, plus first."""
    pairs, stands = list[LabelledPair](), withdrawals.left(ledger)
    for row in ledger.steps():
        comparisons = {c.id: c for c in ledger.comparisons(row["step"])}
        for vote in counting.counted(ledger, row["step"]):
            if not stands(vote.panelist, row["step"]):
                continue
            rows = comparisons[vote.comparison].rows
            shown = tuple((r.prompt, r.plus, r.minus) for r in rows if not r.identical)
            z = {"plus": 1.0, "minus": 0.0}.get(vote.verdict, 0.5)
            pairs.append(LabelledPair(shown, z, len(rows)))
    return pairs


def of_file(path: Path) -> list[LabelledPair]:
    """One pair for each preference of a file, the chosen answer first; ties are left out."""
    pairs = preference_files.read(path, preference_files.find_format(path)).pairs
    return [LabelledPair(((each.prompt, each.chosen, each.rejected),), 1.0, 1) for each in pairs]


def split(pairs: Sequence[LabelledPair]) -> tuple[list[LabelledPair], list[LabelledPair]]:
    """Pairs to learn from and, by the hash of their prompts, every fifth or so to measure on."""
    parts: tuple[list[LabelledPair], list[LabelledPair]] = ([], [])
    for pair in pairs:
        text = json.dumps([row[0].turns for row in pair.shown])
        parts[hashlib.sha256(text.encode()).digest()[0] % HELD_OUT_EVERY == 0].append(pair)
    return parts


def pair_loss(s_i: Tensor, s_j: Tensor, z_i: Tensor) -> Tensor:
    """L = −z_i log σ(s_i) − z_j log σ(s_j) with z_j = 1 − z_i, per pair.

    Training gives it s_i = s_ij and s_j = s_ji = −s_ij. With the two raw scores sⁱ and sʲ of one
    head instead, a large constant added to both would lower the loss of every pair.
    """
    return -z_i * functional.logsigmoid(s_i) - (1 - z_i) * functional.logsigmoid(s_j)


def score(head: Mapping[str, Tensor], first: Tensor, second: Tensor) -> Tensor:
    """Log-odds s_ij that the first is better, for rows of features (n, f); odd under a swap."""
    one, other = ((x - head["mean"]) / head["scale"] for x in (first, second))
    return _half(head, one, other) - _half(head, other, one)


def _half(head: Mapping[str, Tensor], one: Tensor, other: Tensor) -> Tensor:
    hidden = torch.tanh(torch.cat([one, other], -1) @ head["mix"].T + head["bias"])
    return one @ head["linear"] + hidden @ head["out"]


def features(reader: Backend, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Tensor:
    """Mean and last of each answer's final hidden states, (n, 2 · hidden) in fp64."""
    end = loading.end_token(reader.facts) or 0
    asked = tuple(loading.encode(reader.facts.tokenizer, prompt) for prompt in prompts)
    spoken = tuple((*loading.tokenize(reader.facts.tokenizer, each.text), end) for each in answers)
    states = reader.read(States(asked, spoken))
    return torch.from_numpy(np.array(states))


@dataclass(frozen=True)
class PairTensors:
    """Labelled pairs as tensors: features of every row's two answers, and each row's pair."""

    first: Tensor
    second: Tensor
    owner: Tensor
    share: Tensor
    """1 / D of the row's pair: a batch is scored by the mean over its rows."""
    z: Tensor
    """1 where the first is better, 0 where the second is, ½ for a tie."""

    def scores(self, head: Mapping[str, Tensor]) -> Tensor:
        """The score of each pair, (pairs,)."""
        rows = score(head, self.first, self.second) * self.share
        return torch.zeros(len(self.z), dtype=rows.dtype).index_add(0, self.owner, rows)

    def accuracy(self, head: Mapping[str, Tensor]) -> tuple[int, int]:
        """Number of pairs scored as the votes decided, and of pairs that the votes decided."""
        decided = self.z != 0.5
        right = (self.scores(head) > 0) == (self.z > 0.5)
        return int((right & decided).sum()), int(decided.sum())


def to_tensors(reader: Backend, pairs: Sequence[LabelledPair]) -> PairTensors:
    """Features of all answers of these pairs, read by a model."""
    if not pairs:
        raise UsageError(
            "scorer: no pair to learn from; give a run with votes, or a file of pairs"
        )
    rows = [(i, row, 1 / each.rows) for i, each in enumerate(pairs) for row in each.shown]
    prompts = [row[0] for _, row, _ in rows]
    answers = [r[1] for _, r, _ in rows] + [r[2] for _, r, _ in rows]
    every = features(reader, prompts * 2, answers)
    return PairTensors(
        every[: len(rows)],
        every[len(rows) :],
        torch.tensor([i for i, _, _ in rows]),
        torch.tensor([share for _, _, share in rows], dtype=torch.float64),
        torch.tensor([each.z for each in pairs], dtype=torch.float64),
    )


def train(pairs: PairTensors, *, units: int = 8, ridge: float = 0.1, seed: int = 0) -> Parameters:
    """The head that minimises PairRM's loss plus ``ridge``/2 · |parameters|², by L-BFGS.

    Features are standardised and divided by √f, so that a parameter of 1 means the same for models
    of any width. The same pairs and seed give the same head.
    """
    both = torch.cat([pairs.first, pairs.second])
    width = both.shape[1]
    mean, spread = both.mean(0), both.std(0, unbiased=False).clamp(min=1e-6)
    draws = seeds.uniform(seeds.derive(seed, "pair scorer"), units * (2 * width + 1))
    start = torch.from_numpy(draws - 0.5)
    free = {
        "linear": torch.zeros(width, dtype=torch.float64),
        "mix": start[: units * 2 * width].reshape(units, 2 * width).clone(),
        "bias": torch.zeros(units, dtype=torch.float64),
        "out": start[-units:].clone(),
    }
    for tensor in free.values():
        tensor.requires_grad_()
    head = {"mean": mean, "scale": spread * width**0.5, **free}
    search = torch.optim.LBFGS(
        list(free.values()), max_iter=200, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        search.zero_grad()
        s = pairs.scores(head)
        size = sum((tensor**2).sum() for tensor in free.values())
        loss = pair_loss(s, -s, pairs.z).sum() + ridge / 2 * size
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        search.step(closure)  # type: ignore[no-untyped-call]
    return {name: tensor.detach().to(torch.float32) for name, tensor in head.items()}


def save(path: Path, head: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a head as safetensors; ``facts`` (plain JSON) stand in the file's header."""
    try:
        content = to_bytes(
            {name: head[name].contiguous() for name in NAMES},
            metadata={"format": FORMAT, "facts": json.dumps(dict(facts), sort_keys=True)},
        )
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error})") from None


def load(path: Path) -> tuple[Parameters, dict[str, Any]]:
    """A head and its facts, checked.

    Raises:
        UsageError: The file is corrupt or not a pair scorer.
    """
    head = weight_files.read_tensors(path)
    with safe_open(path, framework="pt") as file:
        noted = file.metadata() or {}
    width = head["linear"].shape[0] if "linear" in head and head["linear"].dim() == 1 else 0
    units = head["out"].shape[0] if "out" in head and head["out"].dim() == 1 else 0
    shapes = {
        "mean": (width,), "scale": (width,), "linear": (width,), "mix": (units, 2 * width),
        "bias": (units,), "out": (units,),
    }  # fmt: skip
    if noted.get("format") != FORMAT or {n: tuple(t.shape) for n, t in head.items()} != shapes:
        raise UsageError(f"{path} is not a pair scorer of this szpo; train one with: szpo scorer")
    facts: dict[str, Any] = json.loads(noted["facts"])
    return {name: tensor.to(torch.float64) for name, tensor in head.items()}, facts


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
        """See `szpo.voting.evaluator.Judge`."""
        return self.opinion(comparison, panelist=panelist, plus_side=plus_side, key=key).choice

    def opinion(
        self, comparison: Comparison, *, panelist: str, plus_side: Letter, key: bytes
    ) -> Opinion:
        """One vote, its score and probability in the details."""
        if comparison.identical:
            return Opinion("tie")
        shown = tuple((r.prompt, r.plus, r.minus) for r in comparison.rows if not r.identical)
        pair = LabelledPair(shown, 0.5, len(comparison.rows))
        s = float(to_tensors(self.backend, [pair]).scores(self.head)[0])
        s = s if plus_side == "A" else -s
        p = probability(s)
        details = {"judge": Path(self.settings.model).name, "score": s, "p": p}
        if self.settings.decide == "draw":
            return Opinion("A" if seeds.uniform(key, 1)[0] < p else "B", details)
        return Opinion(by_sign(s), details)


def load_judge(path: Path, settings: Judge, beside: Callable[[str], Backend]) -> ScorerJudge:
    """Load the scorer of a file; ``beside`` returns the model, by name, whose features it reads.

    Raises:
        UsageError: The file is not a pair scorer.
        IntegrityError: The model is not the one it was trained on.
    """
    head, trained = load(path)
    backend = beside(str(trained["model"]))
    if backend.facts.identity.base.sha256 != trained["model_sha256"]:
        raise IntegrityError(
            f"{path} was trained on another {trained['model']} than the one here; train "
            "it again with: szpo scorer"
        )
    return ScorerJudge(backend, head, settings, weight_files.digest([path]))


def train_scorer(
    loaded: Loaded, taught: Sequence[LabelledPair], *, seed: int = 0
) -> tuple[Parameters, dict[str, Any]]:
    """A head for these pairs, and its facts: its accuracy on pairs held out by their prompts."""
    to_learn, held = split(taught)
    if not to_learn:
        to_learn, held = held, []
    reader = LocalBackend(loaded).beside(loaded.name)
    head = train(to_tensors(reader, to_learn), seed=seed)
    as_used = {name: tensor.double() for name, tensor in head.items()}
    measured = to_tensors(reader, held).accuracy(as_used) if held else (0, 0)
    agreed = share(*measured)
    return head, {
        "model": loaded.name,
        "model_sha256": loaded.identity.base.sha256,
        "trained_on": len(to_learn),
        "right": measured[0],
        "decided": measured[1],
        "interval": [agreed.low, agreed.high],
        "seed": seed,
    }
