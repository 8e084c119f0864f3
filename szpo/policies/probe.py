"""Measure a run's starting policy during set-up, and scale its coordinates by KL.

Votes and rewards are not used. All random numbers are derived from the set-up's seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szpo import seeds
from szpo.config.schema import KL_SAMPLES, Config
from szpo.errors import RunError
from szpo.models.logprobs import Sample
from szpo.models.sampling import Sampling
from szpo.models.scores import ScoredLaw
from szpo.optim import parameters, sample_directions
from szpo.policies.backend import (
    KL,
    AnswerRequest,
    Backend,
    Inputs,
    Moves,
    Scores,
    Tokens,
    start_of,
)
from szpo.policies.subspaces import Subspace
from szpo.types import Floats, Progress, Theta, unseen

ROWS = 96
"""Answers generated at once; more take memory for keys and values, and gain little."""

READ = 32
"""Answers read at once where a stage shows its progress."""

KL_DIRECTIONS = 16
CALIBRATION_PASSES = 6
RULER = (0.0, 0.5, 1.0, 2.5, 5.0)
"""KL values, in nats, at which the set-up shows an example answer."""


@dataclass(frozen=True)
class Probe:
    """A model at its starting policy, with the prompts and the sampling of a set-up's passes."""

    backend: Backend
    """Answers in the coordinates of ``whole``."""
    whole: Subspace
    """All moving weights at the starting policy."""
    prompts: tuple[tuple[int, ...], ...]
    """As tokens."""
    sampling: Sampling
    root_seed: int
    progress: Progress = unseen
    at_once: int = ROWS
    """Answers asked for at once; workers get more, and cut them into their own chunks."""

    def samples(
        self,
        members: Sequence[Theta],
        owner: Sequence[int],
        groups: Sequence[int],
        name: str,
        report_drawn: Callable[[int], None] = lambda count: None,
    ) -> list[Sample]:
        """Draw answers of the members ``owner`` to the prompts ``groups``, row by row.

        ``members`` are moving weights; without any, the start answers. ``name`` seeds the random
        numbers. ``report_drawn`` is called with the number of answers so far.
        """
        every = [(g, m, 0, i) for i, (g, m) in enumerate(zip(groups, owner, strict=True))]
        key = seeds.derive(self.root_seed, "setup", name=name)
        thetas = tuple(members) or (start_of(self.whole),)
        tokens: list[tuple[int, ...]] = []
        for first in range(0, len(every), self.at_once):
            table = np.array(every[first : first + self.at_once], np.int64)
            tokens += self.backend.answer(
                AnswerRequest(
                    {}, (), self.prompts, (key,), table, self.sampling,
                    base=not members, thetas=thetas,
                )
            )  # fmt: skip
            report_drawn(len(tokens))
        return [
            Sample(self.prompts[g], answer, g) for g, answer in zip(groups, tokens, strict=True)
        ]

    def start_samples(self, count: int, each: int = 1) -> list[Sample]:
        """Draw ``count`` answers of the starting policy, prompts in turn.

        With many prompts, only as many are used as leave at least ``each`` answers to each.
        """
        key = seeds.derive(self.root_seed, "setup", name="prompts")
        order = seeds.permutation(key, len(self.prompts))[: max(1, count // each)]
        groups = [int(order[i % len(order)]) for i in range(count)]
        drawn: list[Sample] = []
        for first in range(0, count, 256):
            part = groups[first : first + 256]

            def report_drawn(more: int, before: int = first) -> None:
                self.progress("base answers", before + more, count)

            report_drawn(0)
            drawn += self.samples((), [0] * len(part), part, f"base {first}", report_drawn)
        return drawn

    def read_inputs(self, samples: Sequence[Sample]) -> Mapping[str, NDArray[Any]]:
        """An A for each site from the layers' inputs while these answers are read."""
        return self.backend.read(Inputs(*_texts(samples)))

    def read_parts(self, samples: Sequence[Sample], cuts: tuple[int, ...]) -> NDArray[np.float32]:
        """Scores at the start (answers, 1 + cuts, D) of an answer's parts, cut at ``cuts``."""
        law = ScoredLaw(self.sampling.temperature, cuts)
        request = Scores(*_texts(samples), law)
        return self.backend.read(request).reshape(len(samples), 1 + len(cuts), -1)

    def read_moves(self, samples: Sequence[Sample], members: Sequence[Theta]) -> Floats:
        """Scores and Fisher matrices of answers along members (answers, 1 + members, members)."""
        moves, done = [], 0
        for first in range(0, len(samples), self.at_once):
            self.progress("moves of the adapters", done, len(samples))
            part = samples[first : first + self.at_once]
            request = Moves(*_texts(part), tuple(members), self.sampling.temperature)
            moves.append(self.backend.read(request))
            done += len(part)
        return np.concatenate(moves)

    def kl(
        self, members: Sequence[Theta], rows: int, name: str, stage: str = ""
    ) -> NDArray[np.float64]:
        """Measure the KL of each member to the start, prompts in turn.

        ``stage`` names this pass in the progress display, if it is to be shown.

        Returns:
            (members, rows), nats per completion, each from one answer; ``name`` seeds them.
        """
        owner = [m for m in range(len(members)) for _ in range(rows)]
        key = seeds.derive(self.root_seed, "setup", name=f"prompts {name}")
        order = seeds.permutation(key, len(self.prompts))
        groups = [int(order[i % len(order)]) for i in range(len(owner))]

        def report_drawn(count: int) -> None:
            if stage:
                self.progress(stage, count, len(owner))

        answers = self.samples(members, owner, groups, name, report_drawn)
        step, nats = (READ if stage else len(owner)), []
        for first in range(0, len(owner), step):
            if stage:
                self.progress(f"{stage}, read", first, len(owner))
            here = slice(first, first + step)
            texts, of = _texts(answers[here]), tuple(owner[here])
            nats.append(self.backend.read(
                KL(*texts, tuple(members), of, self.sampling.temperature)
            ))  # fmt: skip
        return np.concatenate(nats).reshape(len(members), rows)


def _texts(samples: Sequence[Sample]) -> tuple[Tokens, Tokens]:
    return tuple(s.prompt for s in samples), tuple(s.answer for s in samples)


def unit_directions(root_seed: int, count: int, dim: int, name: str = "kl") -> Floats:
    """Draw random unit vectors (count, dim) from the direction table."""
    key = seeds.derive(root_seed, "setup directions", name=name)
    rows = sample_directions.gaussian(key, count * dim).astype(np.float64).reshape(count, dim)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def kl_ratios(
    probe: Probe,
    subspace: Subspace,
    units: Floats,
    radii: Sequence[float],
    rows: int,
    name: str,
) -> dict[float, Floats]:
    """Measure KL(π_δ ‖ π_0) over |δ|²/2 by Monte Carlo for δ = radius·unit.

    Returns:
        For each radius the ratios (directions, rows); ``name`` seeds the answers.
    """
    ratios = {}
    for radius in radii:
        members = [subspace.in_whole(radius * u) for u in units]
        kl = probe.kl(members, rows, f"{name} {radius}")
        if not np.isfinite(kl).all() or kl.mean() <= 0:
            raise RunError(
                f"KL at |δ| = {radius} is {kl.mean()}: the directions do not move the policy; "
                "choose other adapter.layers, or set model.dtype to fp32"
            )
        ratios[radius] = kl / (0.5 * radius * radius)  # KL ≈ |δ|²/2 where P is whitened
    return ratios


def full_subspace(probe: Probe, whole: Subspace, config: Config) -> Subspace:
    """Take every moving weight as a coordinate, and scale μ to KL ``optimizer.kl_radius``."""
    space = parameters.Space(
        seeds.child_seed(probe.root_seed, 0, "kl scale"), whole.layout, sample_directions.Law()
    )
    mu = whole.mu(config.optimizer.kl_radius)

    def members(scale: float) -> list[Theta]:
        thetas: list[Theta] = []
        for k in range(KL_DIRECTIONS):
            v = parameters.direction(space, 0, k)
            radius = np.float32(mu * scale)
            thetas.append({name: whole.start[name] + radius * v[name] for name in v})
        return thetas

    scale, report = calibrate(probe, members, config)
    return replace(whole, scale=scale, report=report)


def calibrate(
    probe: Probe, members: Callable[[float], list[Theta]], config: Config
) -> tuple[float, dict[str, Any]]:
    """Find the scale at which the members' mean KL is ``optimizer.kl_radius`` nats per completion.

    The scale is searched by secants of log KL in log scale (KL grows with the square of small
    scales), on small samples with the same random numbers. A last pass with
    `KL_SAMPLES` new answers corrects the scale by one more such step.

    Returns:
        The scale, and its facts for the run's report.
    """
    target = config.optimizer.kl_radius
    scale, power = 1.0, 2.0
    passes: list[tuple[float, float]] = []
    for i in range(CALIBRATION_PASSES + 1):
        last = i == CALIBRATION_PASSES or (
            bool(passes) and abs(math.log(passes[-1][1] / target)) < 0.25
        )
        rows = max(1, KL_SAMPLES // KL_DIRECTIONS) if last else 4
        probe.progress("KL scale", i, CALIBRATION_PASSES + 1)
        kl = probe.kl(members(scale), rows, "scale check" if last else "scale").mean(1)
        mean = float(kl.mean())
        if not math.isfinite(mean):
            raise RunError(
                f"KL is {mean} at scale {scale}: the policy's logits are not finite; set "
                "model.dtype to fp32"
            )
        passes.append((scale, max(mean, 1e-9)))
        if not last and len(passes) > 1 and passes[-1][0] != passes[-2][0]:
            rise = math.log(passes[-1][1] / passes[-2][1])
            power = min(max(rise / math.log(passes[-1][0] / passes[-2][0]), 1.0), 4.0)
        scale *= min(max((target / passes[-1][1]) ** (1 / power), 1 / 16), 16.0)
        if last:
            break
    if abs(math.log(passes[-1][1] / target)) > 2:
        raise RunError(
            f"no scale gives a KL of {target} (reached {passes[-1][1]:.3g}): "
            "the chosen layers do not move the policy; choose other adapter.layers"
        )
    return scale, {
        "scale": scale,
        "kl_passes": passes,
        "kl_stderr": float(kl.std(ddof=1) / math.sqrt(kl.size)),
    }


def draw_ruler(probe: Probe, subspace: Subspace) -> list[tuple[float, tuple[int, ...]]]:
    """Answer the first prompt at each of `RULER`'s nats along the first coordinate, as tokens.

    All answers share their random numbers. Nats are |z|²/2, close to the KL by Monte Carlo.
    """
    first = np.eye(subspace.dim)[0]
    thetas = tuple(subspace.in_whole(math.sqrt(2 * nats) * first) for nats in RULER)
    key = seeds.derive(probe.root_seed, "setup", name="ruler")
    table = np.array([(0, member, 0, 0) for member in range(len(RULER))], np.int64)
    request = AnswerRequest({}, (), probe.prompts, (key,), table, probe.sampling, thetas=thetas)
    return list(zip(RULER, probe.backend.answer(request), strict=True))
