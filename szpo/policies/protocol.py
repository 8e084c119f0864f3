"""The `Policy` protocol for everything that szpo can tune, and `check_policy`, its public test.

A policy can be perturbed along named directions and asked for answers. It needs no gradient, no
log-probability and no tensor library.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np

from szpo.errors import RunError
from szpo.optim import parameters
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import ORTHONORMAL_UP_TO
from szpo.types import Answer, Batch, Floats, Layout, Prompt, Shift, Theta, Update


@runtime_checkable
class Policy(Protocol):
    """Can be perturbed along a direction, and answers prompts."""

    @property
    def dim(self) -> int:
        """Number of coordinates d."""

    @property
    def layout(self) -> Layout:
        """Names and shapes of the master coordinates θ."""

    def rollout(
        self, prompts: Sequence[Sequence[Prompt]], shifts: Sequence[Shift], *, seed: int
    ) -> list[Batch]:
        """Answers to ``prompts[i]`` by the policy at θ + ``shifts[i]``; one generation call.

        `szpo.optim.parameters.shift` computes the point.
        """

    def apply(self, update: Update) -> None:
        """θ ← θ + coef · v(step, k), or θ ← θ + vector."""

    def theta(self) -> Theta:
        """The master coordinates, fp32."""

    def digest(self) -> str:
        """SHA-256 of θ in canonical form (`szpo.optim.parameters.digest`)."""


@runtime_checkable
class Sampler(Protocol):
    """A policy that can also draw several answers to each prompt in one call."""

    def sample(
        self, prompts: Sequence[Prompt], samples: int = 1, *, seed: int,
        places: Sequence[int] | None = None,
    ) -> list[list[Answer]]:  # fmt: skip
        """``samples`` answers to each prompt at θ.

        ``places``: the prompts' places among those that random numbers are drawn for, where some
        are left out; None: 0, 1, …
        """


def draw_answers(
    policy: Policy, prompts: Sequence[Prompt], samples: int, *, seed: int,
    places: Sequence[int] | None = None,
) -> list[list[Answer]]:  # fmt: skip
    """``samples`` answers to each prompt by the unperturbed policy.

    The same seed gives the same random numbers at any θ. A policy that is no `Sampler` is called
    once per sample, with the seeds ``seed``, ``seed`` + 1, …, and does not regard ``places``.
    """
    if isinstance(policy, Sampler):
        how = {} if places is None else {"places": places}
        return policy.sample(prompts, samples, seed=seed, **how)
    still = [Shift(0, 0, 0, 0.0)]
    drawn = [policy.rollout([prompts], still, seed=seed + i)[0] for i in range(samples)]
    return [list(answers) for answers in zip(*drawn, strict=True)]


def likeliest(
    policy: Policy, prompts: Sequence[Prompt], drawn: Sequence[Answer], *, base: bool = False
) -> list[Answer]:
    """What people read of a policy before and after tuning: greedy answers of a language model.

    ``drawn``: answers to these prompts, for any other policy; ``base``: its start answers.
    """
    if isinstance(policy, Speaker):
        return policy.likeliest(prompts, base=base)
    return list(drawn)


@contextmanager
def moved(policy: Any, theta: Theta) -> Iterator[None]:
    """Move a policy that has `move_to` to θ inside the block, and back afterwards."""
    before = policy.theta()
    try:
        policy.move_to(theta)
        yield
    finally:
        policy.move_to(before)


@runtime_checkable
class Speaker(Protocol):
    """A policy that gives its likeliest answers, as a language model does."""

    def likeliest(self, prompts: Sequence[Prompt], *, base: bool = False) -> list[Answer]:
        """The likeliest answer to each prompt, or the start's with ``base``."""


@runtime_checkable
class BaseScorer(Protocol):
    """A policy that can also score answers under its start; rewards with `fluency` need it."""

    def logprob_base(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        """Mean log-probability per token of each answer under the starting policy, nats."""


@runtime_checkable
class Halving(Protocol):
    """A policy that answers in smaller batches after memory has run out."""

    @property
    def halved_rows(self) -> int | None:
        """Rows of a batch since memory ran out; None if it has not."""


def check_policy(
    policy: Policy,
    prompts: Sequence[Prompt],
    *,
    radius: float,
    space: Space | None = None,
    basis_sha256: str | None = None,
    seed: int = 0,
) -> None:
    """Test a policy; raise RunError naming the clause of the contract that it breaks.

    The policy is moved and moved back, so θ ends where it was up to rounding.

    Args:
        policy: The policy, at any θ.
        prompts: At least two, all different.
        radius: A perturbation large enough to change some answer.
        space: The run's coordinates and law; if given, directions are checked too.
        basis_sha256: Digest of the subspace's basis, if the coordinates have one.
        seed: Seed of the rollouts.
    """
    name = type(policy).__name__

    def need(holds: bool, clause: str) -> None:
        if not holds:
            raise RunError(f"policy {name}: {clause}")

    layout = policy.layout
    parameters.check_layout(layout)
    need(policy.dim == parameters.layout_dim(layout), "dim is not the size of the layout")
    start = {key: np.array(value) for key, value in policy.theta().items()}
    parameters.check_theta(start, layout)
    before = policy.digest()
    need(len(before) == 64 and int(before, 16) >= 0, "digest is not a SHA-256 in hex")

    size = float(parameters.round13(radius))
    sides = [Shift(0, k, sign, size) for k in (0, 1) for sign in (1, -1)]
    asked = [tuple(prompts)] * 2 + [tuple(prompts[:1])] * 2
    batches = policy.rollout(asked, sides, seed=seed)
    need(len(batches) == len(sides), "rollout does not give one batch per shift")
    need(
        [len(batch) for batch in batches] == [len(part) for part in asked],
        "a batch does not have one answer per prompt",
    )
    need(
        all(
            isinstance(answer, Answer)
            and isinstance(answer.text, str)
            and answer.end in ("stop", "length")
            and answer.tokens >= 0
            for batch in batches
            for answer in batch
        ),
        "an answer is not an Answer with a text, an end and its tokens",
    )
    need(policy.digest() == before, "a rollout moves θ")
    again = policy.rollout(asked, sides, seed=seed)
    need(again == batches, "the same rollout gives other answers the second time")
    other = policy.rollout(asked, [Shift(1, s.k, s.sign, s.radius) for s in sides], seed=seed + 1)
    need(
        batches[0] != batches[1] or batches[2] != batches[3] or other[0] != other[1],
        f"plus and minus always give the same answers at radius {radius}: the shift is not used",
    )
    still = Shift(0, 0, 0, 0.0)
    need(
        policy.rollout([asked[0]] * 2, [still, still], seed=seed)
        == policy.rollout([asked[0]] * 2, [still, still], seed=seed),
        "the unperturbed policy cannot be asked, or answers differently the second time",
    )
    need(policy.rollout([], [], seed=seed) == [], "a rollout of nothing is not empty")

    policy.apply(Update(0, 0, coef=0.0))
    need(policy.digest() == before, "a coefficient of 0 moves θ")
    update = Update(0, 0, coef=size)
    policy.apply(update)
    need(policy.digest() != before, "apply does not move θ, or digest does not see it")
    moved = {key: np.array(value) for key, value in policy.theta().items()}
    parameters.check_theta(moved, layout)
    need(
        parameters.digest(moved, layout, basis_sha256) == policy.digest(),
        "digest is not szpo.optim.parameters.digest of θ",
    )
    if space is not None:
        expected = parameters.apply_update(space, start, update)
        need(
            all(np.array_equal(moved[key], expected[key]) for key in expected),
            "apply gives other values than szpo.optim.parameters.apply_update",
        )
    policy.apply(Update(0, 0, coef=-size))
    need(
        all(
            np.allclose(value, start[key], rtol=1e-5, atol=1e-4 * size)
            for key, value in policy.theta().items()
        ),
        "an update and its opposite do not lead back",
    )
    if len(layout) == 1 and policy.dim <= ORTHONORMAL_UP_TO:
        ((key, shape),) = layout
        here = np.array(policy.theta()[key])
        # Dyadic steps are exact in fp32, so their sum with θ is rounded at most once.
        vector = tuple(size * (1 + i % 3) / 4 for i in range(policy.dim))
        policy.apply(Update(0, 0, vector=vector))
        need(
            np.array_equal(
                policy.theta()[key], here + np.array(vector, np.float32).reshape(shape)
            ),
            "apply does not add the vector of an update (rule regression) to θ",
        )
        policy.apply(Update(0, 0, vector=tuple(-v for v in vector)))
