"""A policy of a few numbers with exact gradients and KL: improving without a model.

It says `LENGTH` words, each drawn from softmax((b + B A h) / temperature); h are 1, a number of
the prompt and one of the word before. All is float64 but its weights.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy import special

from szpo import seeds
from szpo.models.lora import Site
from szpo.models.sampling import Sampling
from szpo.optim import parameters
from szpo.policies.subspaces import Subspace
from szpo.types import Answer, Floats, Prompt, Theta

WORDS = ("good", "so,", "it", "no!")
LENGTH = 4
PLAIN = Sampling()
STARTS = "the factors of the start"
BIAS = np.array([0.2, 0.0, 0.4, -0.3])
SITE = Site("model.layers.0.mlp", 0, 3, len(WORDS), 1, 1.0)
A = {SITE.a: np.float32([[0.8, 0.5, -0.6]])}
B = {SITE.b: np.zeros((len(WORDS), 1), np.float32)}
PROMPTS = tuple(Prompt.user(f"Question {'x' * i}?") for i in range(24))


def moving(train: str = "B") -> Subspace:
    """B as coordinates, or A and B."""
    fixed, start = ({}, {**A, **B}) if train == "AB" else (A, B)
    return Subspace("full", (SITE,), fixed, start, {})


def in_z(dim: int) -> Subspace:
    """Coordinates z, of which the first moves B to fewer commas."""
    basis = np.zeros((len(WORDS), 1, dim))
    basis[:2, 0, 0] = 0.2, -0.6
    return Subspace("features", (SITE,), A, B, {SITE.b: basis.astype(np.float32)})


def number_of(prompt: Sequence[int]) -> float:
    """A prompt's number, from −1 to 1."""
    return sum(prompt) % 7 / 3 - 1


def count(text: str) -> float:
    """A score that is no sum over words: good ones, more the more there are."""
    return text.count("good") ** 2 - 0.7 * text.count("no!")


class ToyPolicy:
    """Takes the place of a `LoraPolicy` and of its adapted model."""

    def __init__(
        self, loaded: Any, subspace: Subspace, *, root_seed: int = 0,
        sampling: Sampling = PLAIN, host: Any = None,
    ):  # fmt: skip
        self.loaded, self.subspace, self.sampling = loaded, subspace, sampling
        self.layout, self.space, self.backend = subspace.layout, None, host
        self.local = SimpleNamespace(adapted=self, start_deltas=lambda: STARTS)
        self.asked = list[tuple[tuple[Prompt, ...], int, int, bool]]()
        """Prompts, answers to each, seed, and whether the start answered, of each call."""
        self._theta = self.start()

    def start(self) -> Theta:
        return (
            dict(self.subspace.start) if not self.subspace.in_z else parameters.zeros(self.layout)
        )

    def theta(self) -> Theta:
        return self._theta

    def move_to(self, theta: Theta) -> None:
        self._theta = {name: np.array(value) for name, value in theta.items()}

    def factors(self, theta: Theta | None = None) -> dict[str, Any]:
        return self.subspace.factors(self._theta if theta is None else theta)

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        return tuple(prompt.text.encode())

    def answer(self, row: Sequence[int]) -> Answer:
        return Answer(" ".join(WORDS[i] for i in row), tokens=len(row))

    def log_laws(self, factors: Theta, prompts: Any, rows: Any) -> tuple[Floats, Floats]:
        """Log-probabilities of every word (n, LENGTH, words) along answers, and their h."""
        before = np.concatenate([np.zeros((len(rows), 1)), np.asarray(rows)[:, :-1] + 1], axis=1)
        own = np.broadcast_to(np.array([[number_of(p)] for p in prompts]), before.shape)
        h = np.stack([np.ones_like(before), own, before / len(WORDS)], axis=-1)
        a, b = (factors[name].astype(np.float64) for name in (SITE.a, SITE.b))
        logits = (BIAS + h @ a.T @ b.T) / (self.sampling.temperature or 1.0)
        return special.log_softmax(logits, axis=-1), h

    def sample_tokens(
        self, prompts: Sequence[Prompt], samples: int = 1, *, seed: int, base: bool = False
    ) -> tuple[tuple[int, ...], ...]:
        self.asked.append((tuple(prompts), samples, seed, base))
        factors = self.factors(self.start()) if base else self.factors()
        ids = [self.encode(prompt) for prompt in prompts for _ in range(samples)]
        luck = seeds.uniform(seeds.derive(seed, "toy answers"), len(ids) * LENGTH)
        rows = np.zeros((len(ids), LENGTH), int)
        for at, each in enumerate(luck.reshape(-1, LENGTH).T):
            chances = np.exp(self.log_laws(factors, ids, rows)[0][:, at]).cumsum(-1)
            rows[:, at] = (each[:, None] > chances[:, :-1]).sum(-1)
        return tuple(map(tuple, rows.tolist()))

    def sample(
        self, prompts: Sequence[Prompt], samples: int = 1, *, seed: int, base: bool = False
    ) -> list[list[Answer]]:
        rows = self.sample_tokens(prompts, samples, seed=seed, base=base)
        answers = [self.answer(row) for row in rows]
        return [answers[i : i + samples] for i in range(0, len(answers), samples)]

    def sample_with_kl(self, prompts: Any, samples: int, *, seed: int) -> Any:
        rows = self.sample_tokens(prompts, samples, seed=seed)
        answers = [self.answer(row) for row in rows]
        grouped = [answers[i : i + samples] for i in range(0, len(answers), samples)]
        return grouped, self.kl_of(prompts, rows[::samples])

    def likeliest(self, prompts: Sequence[Prompt], *, base: bool = False) -> list[Answer]:
        factors = self.factors(self.start()) if base else self.factors()
        ids, rows = (
            [self.encode(prompt) for prompt in prompts],
            np.zeros((len(prompts), LENGTH), int),
        )
        for at in range(LENGTH):
            rows[:, at] = self.log_laws(factors, ids, rows)[0][:, at].argmax(-1)
        return [self.answer(row) for row in rows]

    def kl_of(self, prompts: Sequence[Prompt], rows: Any) -> tuple[float, float]:
        each = len(rows) // len(prompts)
        ids = [self.encode(prompt) for prompt in prompts for _ in range(each)]
        here, start = (
            self.log_laws(self.factors(at), ids, rows)[0] for at in (None, self.start())
        )
        means = (np.exp(here) * (here - start)).sum((1, 2)).reshape(-1, each).mean(1)
        return float(means.mean()), float(means.std(ddof=1) / len(means) ** 0.5)

    def kl(self, prompts: Any, *, seed: int, samples: int = 1) -> tuple[float, float]:
        return self.kl_of(prompts, self.sample_tokens(prompts, samples, seed=seed))

    def logprob_base(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        rows = [[WORDS.index(word) for word in answer.text.split()] for answer in answers]
        ids = [self.encode(prompt) for prompt in prompts]
        laws = self.log_laws(self.factors(self.start()), ids, rows)[0]
        return np.take_along_axis(laws, np.array(rows)[..., None], -1)[..., 0].mean(1)

    def total_logprob_base(self, prompt: Prompt, answers: Sequence[Answer]) -> Floats:
        return LENGTH * self.logprob_base([prompt] * len(answers), answers)

    def mean_states(self, prompts: Any, answers: Sequence[Answer], layer: int) -> Floats:
        return np.array([[layer, each.text.count("good"), each.tokens] for each in answers])


class ToyForced:
    """Takes the place of `szpo.models.forced_answers.Forced`."""

    def __init__(
        self, adapted: ToyPolicy, samples: Any, start: Any = None, *, temperature: float = 1.0,
        layer: int | None = None,
    ):  # fmt: skip
        assert (start, temperature) == (STARTS, adapted.sampling.temperature)
        self.toy, self.ids = adapted, [each.prompt for each in samples]
        self.rows = np.array([each.answer for each in samples])
        answers = [adapted.answer(row) for row in self.rows]
        self.states = None if layer is None else adapted.mean_states((), answers, layer)

    def gradient(
        self, theta: Theta, moving: Sequence[str], weights: Floats, cuts: Sequence[int] = ()
    ) -> tuple[dict[str, Any], Floats]:
        self.last, h = self.toy.log_laws(theta, self.ids, self.rows)
        start = self.toy.log_laws(self.toy.factors(self.toy.start()), self.ids, self.rows)[0]
        own = weights[:, np.searchsorted(np.asarray(cuts), np.arange(LENGTH), side="right")]
        chances, said = np.exp(self.last), np.eye(len(WORDS))[self.rows]
        slope = (said - chances) * own[..., None] / self.toy.sampling.temperature
        a, b = (theta[name].astype(np.float64) for name in (SITE.a, SITE.b))
        found = {
            SITE.a: np.einsum("nlr,nli->ri", slope @ b, h),
            SITE.b: np.einsum("nlv,nlr->vr", slope, h @ a.T),
        }
        kl = (chances * (self.last - start)).sum((1, 2))
        return {name: found[name].astype(np.float32) for name in moving}, kl

    def cost(self, theta: Theta) -> Floats:
        here = self.toy.log_laws(theta, self.ids, self.rows)[0]
        return np.asarray((np.exp(here) * (here - self.last)).sum((1, 2)))
