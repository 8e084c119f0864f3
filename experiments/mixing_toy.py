"""Named coordinates by simulation: what votes learn from moves alone, texts alone, and both.

    python experiments/mixing_toy.py [SEEDS]
    python experiments/mixing_toy.py rules      # known and sign, in adapters and in all weights

Sixteen linear coordinates, a unit of which costs half a nat, and forty features of texts. The
first fifteen coordinates move one feature each by half a spread for a unit, others beside it by
chance (.05) and those correlated with it (.5) by as much less; the last moves a quality that no
feature counts. The run knows this map with an error of .03. A voter agrees with another on 70 % of
random questions of the start, rows or sets of eight. All arms are of the optimizer's own ask and
tell; radius 2 nats, budget 3. Printed: mean gain of the recommended point in spreads of the taste,
nats, gain per nat, and the share of runs whose gate is open, at 160, 320 and 640 answers read.

The published rules take K = 1, M = 1, by eight rows or one set of eight a step, the taste a, and
have no budget. "All weights" are 2,880 coordinates in which each feature's natural gradient is a
random direction that moves it by .9 spreads for a unit. Of five sizes of a step the one that gains
most at 640 answers within 6 nats is taken (seeds 900-903).
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from scipy import special

from szpo.config.optimizer import make_settings
from szpo.optim import all_votes, informative, named_features, optimizer, parameters
from szpo.optim.informative import NOISE
from szpo.optim.named_features import NamedFeatures
from szpo.optim.rule import StepInputs, perturbations
from szpo.optim.settings import Settings
from szpo.optim.vote_regression import BAYES_FACTOR_NEEDED
from szpo.types import FEATURE_GRID, Floats, Query, Tally

DIM, COUNT, CARRY = 16, 40, 0.5
LOOKS: Final = (160, 320, 640)
SPREAD: Final = 2.03
"""Standard deviation of a question's logit at which two voters agree on 70 %."""
TASTES: Final = {
    "a": {0: 1.0}, "a + b": {0: 1.0, 1: 1.0}, "a − b": {0: 1.0, 1: -1.0},
    "no feature": {COUNT: 1.0}, "no coordinate": {COUNT - 1: 1.0},
}  # fmt: skip
ARMS: Final = ("moves", "texts", "both")


class World:
    """Texts by their features, and last the quality that no feature counts."""

    def __init__(self, seed: int, taste: str):
        self.rng = rng = np.random.default_rng(seed)
        near = np.eye(COUNT + 1)
        for i in range(DIM, COUNT - 1):  # the last feature stands alone
            near[i, i], near[i, i % (DIM - 1)] = math.sqrt(0.75), 0.5
        self.near = near
        own = np.zeros((COUNT + 1, DIM))
        own[range(DIM - 1), range(DIM - 1)] = own[COUNT, DIM - 1] = CARRY
        self.moves = near @ own + 0.05 * rng.normal(size=own.shape)
        self.weights = np.zeros(COUNT + 1)
        for at, weight in TASTES[taste].items():
            self.weights[at] = weight
        self.spread = float(np.linalg.norm(self.weights @ near))

    def named(self, arm: str) -> NamedFeatures:
        """What the run knows, as far as an arm uses it."""
        known = self.moves[:COUNT] + 0.03 * self.rng.normal(size=(COUNT, DIM))
        rows = np.rint(known * FEATURE_GRID).astype(int).tolist()
        count = 0 if arm == "moves" else COUNT
        axes = (FEATURE_GRID * np.eye(DIM, dtype=int)).tolist()
        found = NamedFeatures(
            tuple(f"f{i}" for i in range(count)),
            tuple(range(count)),
            (FEATURE_GRID,) * count,
            tuple(map(tuple, rows[:count])),
            components=0,
            dictionary="0" * 64,
            coordinates=tuple(f"c{i}" for i in range(DIM)),
            axes=tuple(map(tuple, axes)),
        )
        return replace(found, coordinates=(), axes=()) if arm == "texts" else found

    def answers(self, z: Floats, count: int) -> Floats:
        """Features (count, COUNT + 1) of answers at z."""
        return np.asarray(
            z @ self.moves.T + self.rng.normal(size=(count, COUNT + 1)) @ self.near.T
        )

    def votes(self, gap: Floats, rows: int) -> Floats:
        """Whether plus wins, by the gap (questions, COUNT + 1) of mean features."""
        usual = self.spread * math.sqrt(2 / rows)
        logits = SPREAD * (gap @ self.weights) / usual
        return np.asarray(self.rng.random(len(gap)) < special.expit(logits))


def settings_of(world: World, arm: str, rows: int, seed: int) -> Settings:
    """Sixteen rows, or ten sets of eight, a step."""
    K = 16 if rows == 1 else 10
    noise = None if rows == 1 and arm == "texts" else NOISE
    return make_settings(
        seed, (("z", (DIM,)),), rule="regression", K=K, D=rows, kl_radius=2.0, kl_budget=3.0,
        guarded=False, features=world.named(arm), asking_noise=noise,
    )  # fmt: skip


def ask(world: World, settings: Settings, state: optimizer.State, query: Query) -> Floats:
    """The gap of mean features (K, COUNT + 1) that each question shows."""
    named, record = settings.features, state.carried
    assert named is not None
    apart = perturbations(settings, query, None).displacements(settings.distance) / 2
    prior, gaps = all_votes.named_prior(settings), []
    for k in range(settings.section.K):
        plus, minus = (record.centre + sign * apart[k] for sign in (1, -1))
        if not settings.picks_pairs:
            one, other = (world.answers(z, settings.section.D).mean(0) for z in (plus, minus))
            gaps.append(one - other)
            continue
        if settings.perturbs(query.step, k):
            one, other = world.answers(plus, 4), world.answers(minus, 4)
            pairs = (one[:, None] - other).reshape(16, -1)
        else:
            pool = world.answers(plus, 8)
            at, to = np.triu_indices(8, 1)
            pairs = pool[at] - pool[to]
        x = np.zeros((len(pairs), named.columns))
        x[:, :COUNT] = pairs[:, :COUNT]
        x[:, COUNT:] = named_features.along(named, 2 * apart[k])
        worth = informative.worth(x, record.named, prior)
        gaps.append(pairs[informative.choose_pair(settings.root_seed, query.step, k, worth)])
    return np.array(gaps)


def run(taste: str, arm: str, rows: int, seed: int) -> list[tuple[float, float, bool]]:
    """(gain in spreads, nats, gate open) at each look."""
    world = World(seed, taste)
    settings = settings_of(world, arm, rows, seed)
    state, found = optimizer.init(settings), []
    for look in LOOKS:
        while (state.step + 1) * settings.section.K * 2 * rows <= look:
            query = optimizer.ask(state)
            gap = ask(world, settings, state, query)
            up = world.votes(gap, rows)[:, None].astype(float)
            count = len(settings.features.names) if settings.features else 0
            texts = np.rint(gap[:, None, :count] * FEATURE_GRID).astype(np.int64)
            inputs = StepInputs(np.zeros((settings.section.K, 1, 0)), None, None, texts)
            tally = Tally(up, 1 - up, 0 * up, np.zeros(up.shape, dtype=bool))
            state, _, _ = optimizer.tell(state, query, tally, inputs=inputs)
        z = state.carried.recommended
        gain = float(world.weights @ world.moves @ z) / world.spread
        shown = float(state.carried.log_factor) >= math.log(BAYES_FACTOR_NEEDED)
        found.append((gain, float(z @ z) / 2, shown))
    return found


def run_rule(rule: str, rows: int, dim: int, kl_step: float, seed: int) -> Floats:
    """(looks, 2): gain in spreads and nats of a published rule, at each look and 1,920 answers."""
    world, count = World(seed, "a"), 8 // rows
    settings = make_settings(
        seed,
        (("z", (dim,)),),
        rule=rule,
        N=count,
        D=rows,
        kl_radius=2.0,
        kl_step=kl_step,
        warmup=0,
    )
    moves = world.moves
    if dim > DIM:
        moves = np.random.default_rng(seed + 999).normal(size=(COUNT + 1, dim))
        moves *= 0.9 / np.linalg.norm(moves, axis=1, keepdims=True)
    state, theta, found = optimizer.init(settings), parameters.zeros(settings.layout), []
    for look in (*LOOKS, 1920):
        while (state.step + 1) * 16 <= look:
            query = optimizer.ask(state)
            apart = perturbations(settings, query, None).displacements(settings.distance)[0]
            luck = world.rng.normal(size=(2, count, COUNT + 1)) @ world.near.T / math.sqrt(rows)
            up = world.votes(moves @ apart + luck[0] - luck[1], rows)[None].astype(float)
            tally = Tally(up, 1 - up, 0 * up, np.zeros(up.shape, dtype=bool))
            state, updates, _ = optimizer.tell(state, query, tally)
            for update in updates:
                theta = parameters.apply_update(settings.space, theta, update)
        z = theta["z"].astype(float)
        found.append((float(world.weights @ moves @ z) / world.spread, float(z @ z) / 2))
    return np.array(found)


def compare_rules() -> None:
    """Print gain and nats of `known` and `sign`, tuned, a line for each place and question."""
    for dim, rule, rows in itertools.product((DIM, 2880), ("known", "sign"), (1, 8)):
        tried = []
        for size in (0.003, 0.01, 0.03, 0.1, 0.3):
            cell = np.mean([run_rule(rule, rows, dim, size, s) for s in range(900, 904)], 0)[2]
            tried.append((cell[0] if cell[1] <= 6 else -1.0, size))
        size = max(tried)[1]
        cells = np.mean([run_rule(rule, rows, dim, size, seed) for seed in range(20)], 0)
        told = "".join(f"{gain:8.2f}{nats:6.1f}" for gain, nats in cells)
        where = "adapters" if dim == DIM else "all weights"
        print(
            f"{where:12}{rule:6}{'rows' if rows == 1 else 'batches':9}{size:6}{told}", flush=True
        )


def main(argv: Sequence[str]) -> None:
    """Print the table, a line for each taste, arm and kind of verdict."""
    if argv[:1] == ["rules"]:
        return compare_rules()
    seeds = range(int(argv[0]) if argv else 20)
    print(f"{'taste':14}{'verdicts':9}{'arm':7}" + "".join(f"{n:>24}" for n in LOOKS))
    for taste in TASTES:
        for rows, arm in ((rows, arm) for rows in (1, 8) for arm in ARMS):
            cells = np.array([run(taste, arm, rows, seed) for seed in seeds], dtype=float)
            gain, nats, gate = cells.mean(0).T
            told = "".join(
                f"{g:8.2f}{n:5.2f}{g / max(n, 0.14):6.2f}{o:5.2f}"
                for g, n, o in zip(gain, nats, gate, strict=True)
            )
            print(f"{taste:14}{'rows' if rows == 1 else 'batches':9}{arm:7}{told}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
