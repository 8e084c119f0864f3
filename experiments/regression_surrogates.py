"""The surrogates of `regression_study`: worlds with people who vote, and runs of the rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from szpo.optim import optimizer, parameters
from szpo.optim.checked_settings import defaults
from szpo.optim.rules.regression import UNPROVEN
from szpo.optim.vote_regression import Fit, Prior, Votes, direction, fit
from szpo.types import Floats, Tally

SPREAD, BETA, D, K, RADIUS, SLOPE, BEND = 0.38, 11.0, 8, 8, 3.0, 0.16, 0.04
LUCK = math.sqrt(2 / D)
LOOKS = (24, 56, 120, 240)
EXPLAINED = {
    "sentiment": {8: 0.135, 16: 0.164, 32: 0.201, 64: 0.216},
    "comma": {8: 0.010, 16: 0.033, 32: 0.237, 64: 0.325},
}
"""Shares of the reward's variance that the first components explain on SmolLM2."""
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(31)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class World:
    """S repetitions of one kind of reward; gradient at the start and curvatures are (S, d)."""

    kind: str
    gradient: Floats
    bends: Floats
    ridge: Floats
    beta: float = BETA
    lapses: float = 0.0

    def value(self, z: Floats) -> Floats:
        """Reward over the base at z (S, ..., d)."""

        def along(rows: Floats) -> Floats:
            return rows.reshape(len(rows), *[1] * (z.ndim - 2), -1)

        rise, square = (along(self.gradient) * z).sum(-1), (z * z).sum(-1)
        if self.kind == "saturating":
            return np.asarray(0.25 * np.tanh(rise / 0.25) - 0.01 * square)
        if self.kind == "ridge":
            first = rise / np.linalg.norm(along(self.gradient), axis=-1)
            second = (along(self.ridge) * z).sum(-1)
            rest = square - first**2 - second**2
            return rise - 0.02 * first**2 - 0.06 * (second - 0.15 * first**2) ** 2 - 0.02 * rest
        return np.asarray(rise - 0.5 * (along(self.bends) * z * z).sum(-1))

    def win_rate(self, gain: Floats) -> Floats:
        """Share of votes that texts of a gain would win against the base's, over their luck."""
        luck = self.beta * SPREAD * LUCK * _NODES
        rate = (special.expit(self.beta * gain[..., None] + luck) * _WEIGHTS).sum(-1)
        return np.asarray(self.lapses / 2 + (1 - self.lapses) * rate)


def world(name: str, runs: int, dim: int = 8, taste: str = "even", seed: int = 0) -> World:
    """A world of that name; ``taste`` says which coordinates carry the gradient."""
    rng = np.random.default_rng([seed, dim])
    if taste == "even":
        g = rng.normal(size=(runs, dim))
        g *= SLOPE / np.linalg.norm(g, axis=1, keepdims=True)
    else:
        blocks, before, first = [], 0.0, 0
        for last in (8, 16, 32, 64):
            if last <= dim:
                block = rng.normal(size=(runs, last - first))
                length = SPREAD * math.sqrt(EXPLAINED[taste][last] - before)
                blocks.append(block * length / np.linalg.norm(block, axis=1, keepdims=True))
                before, first = EXPLAINED[taste][last], last
        g = np.concatenate(blocks, 1)
    ridge = rng.normal(size=(runs, dim))
    unit = g / np.linalg.norm(g, axis=1, keepdims=True)
    ridge -= (ridge * unit).sum(1, keepdims=True) * unit
    ridge /= np.linalg.norm(ridge, axis=1, keepdims=True)
    bends = np.full((runs, dim), 0.0 if name in ("linear", "lapses") else BEND)
    if name == "anisotropic":
        bends = rng.permuted(np.tile(np.geomspace(0.01, 0.16, dim), (runs, 1)), axis=1)
    if name == "null":
        return World(name, 0 * g, 0 * g, ridge, beta=0.0)
    return World(
        name, g, bends, ridge,
        beta=BETA / 2 if name == "half" else BETA,
        lapses=0.1 if "lapses" in name else 0.0,
    )  # fmt: skip


def budget(votes: int) -> float:
    """Nats that a run may spend."""
    return float(np.interp(votes, (60, 120, 240), (3, 4, 8)))


Length = Callable[[Fit, Floats, Any], Floats]
"""The recommendation (S, d) of a fit, by the largest log Bayes factor so far and by how far it may
be while nothing is shown; both in radii of the budget."""


@dataclass(frozen=True)
class Setting:
    """How votes are used."""

    prior: Prior
    share: float = 0.0
    length: Length = direction
    radius: float = RADIUS
    unproven: float | None = UNPROVEN
    """Nats without evidence; None: `direction`'s share of the way."""


@dataclass
class Look:
    """A run at a look: arrays over repetitions."""

    votes: Votes
    fit: Fit
    evidence: Floats
    centre: Floats
    point: Floats
    gain: Floats
    cosine: Floats

    @property
    def kl(self) -> Floats:
        return np.asarray((self.point**2).sum(-1) / 2)


def simulate(
    place: World, setting: Setting, seed: int, looks: tuple[int, ...] = LOOKS, turn: int = 10**9
) -> tuple[dict[int, Look], Floats]:
    """Runs to the last look, and the largest KL (S,) at which each ever stood.

    From vote ``turn`` on the taste is the opposite.
    """
    rng = np.random.default_rng(seed)
    (runs, dim), total = place.gradient.shape, max(looks)
    x, up = np.zeros((runs, total, dim)), np.zeros((runs, total))
    bend, side = np.zeros((runs, total)), np.zeros((runs, total))
    side[:] = np.where(np.arange(total) % 2 == 0, 1.0, -1.0)
    rest = np.sqrt(np.maximum(SPREAD**2 - (place.gradient**2).sum(-1), 0))[:, None]
    centre, ever, found = np.zeros((runs, dim)), np.zeros(runs), {}
    evidence = np.full(runs, -np.inf)
    for start in range(0, total, K):
        rows, n = slice(start, start + K), start + K
        frame = np.swapaxes(np.linalg.qr(rng.normal(size=(runs, dim, K)))[0], 1, 2)
        luck, other = rng.normal(size=(runs, K, dim)) * LUCK, rng.normal(size=(runs, K)) * LUCK
        asked = setting.radius * frame
        ends = [place.value(centre[:, None] + sign * asked) for sign in (1, -1)]
        rise = ends[0] - ends[1] + np.einsum("skd,sd->sk", luck, place.gradient) + rest * other
        rate = special.expit(place.beta * (rise if start < turn else -rise))
        rate = place.lapses / 2 + (1 - place.lapses) * rate
        up[:, rows] = rng.random((runs, K)) < rate
        x[:, rows] = 2 * asked + setting.share * luck
        bend[:, rows] = -(2 * asked * centre[:, None]).sum(-1)
        votes = Votes(x[:, :n], up[:, :n], 1 - up[:, :n], np.arange(n) // K, side[:, :n])
        posterior = fit(votes, setting.prior)
        evidence = np.maximum(evidence, posterior.log_factor)
        nats = setting.unproven
        least = None if nats is None else math.sqrt(nats / (0.9 * budget(n)))
        unit = setting.length(posterior, evidence, least)
        point = math.sqrt(2 * 0.9 * budget(n)) * unit
        if n in looks:
            long = np.linalg.norm(point, axis=1) * np.linalg.norm(place.gradient, axis=1)
            cosine = (point * place.gradient).sum(-1) / np.maximum(long, 1e-12)
            seen = replace(votes, bend=bend[:, :n].copy())
            found[n] = Look(seen, posterior, evidence, centre, point, place.value(point), cosine)
        move = point - centre
        norm = np.linalg.norm(move, axis=1, keepdims=True)
        centre = centre + move * np.minimum(1, 1 / np.maximum(norm, 1e-12))
        ever = np.maximum(ever, (point**2).sum(-1) / 2)
    return found, ever


def by_bayes(place: World, runs: int) -> dict[int, tuple[Floats, Floats]]:
    """Gain and KL of the rule `bayes` with its defaults, after as many votes."""
    dim, found = place.gradient.shape[1], {n: ([], []) for n in LOOKS}
    layout = (("z", (dim,)),)
    for run in range(runs):
        rng, settings = np.random.default_rng(run), defaults(run, layout)
        one = replace(
            place, gradient=place.gradient[[run]], bends=place.bends[[run]],
            ridge=place.ridge[[run]],
        )  # fmt: skip
        state, theta = optimizer.init(settings), parameters.zeros(layout)
        for step in range(max(LOOKS) // settings.N):
            query = optimizer.ask(state)
            shift = parameters.direction_vector(settings.space, step, 0)
            shift = shift * query.shifts[0][0].radius
            z = theta["z"].astype(float)
            ends = [one.value((z + sign * shift)[None])[0] for sign in (1, -1)]
            noise = SPREAD * LUCK * rng.normal(size=(1, settings.N))
            rate = special.expit(one.beta * (ends[0] - ends[1] + noise))
            rate = one.lapses / 2 + (1 - one.lapses) * rate
            plus = (rng.random((1, settings.N)) < rate) * 1.0
            none = np.zeros_like(plus)
            state, updates, _ = optimizer.tell(
                state, query, Tally(plus, 1 - plus, none, none.astype(bool))
            )
            for update in updates:
                theta = parameters.apply_update(settings.space, theta, update)
            z, n = theta["z"].astype(float), (step + 1) * settings.N
            if n in found:
                found[n][0].append(one.value(z[None])[0])
                found[n][1].append(z @ z / 2)
    return {n: (np.array(gain), np.array(kl)) for n, (gain, kl) in found.items()}
