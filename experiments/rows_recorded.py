"""Verdicts on pairs (rows) against verdicts on sets of eight (batches), on recorded answers.

    python experiments/rows_recorded.py draw FOLDER --device cuda     # answers, scores, states
    python experiments/rows_recorded.py run FOLDER --part criterion   # which pairs; seeds 0-59
    python experiments/rows_recorded.py run FOLDER --part report      # seeds 1000-1059
    python experiments/rows_recorded.py run FOLDER --part nothing     # votes without information
    python experiments/rows_recorded.py run FOLDER --part dense       # what no entry names
    python experiments/rows_recorded.py run FOLDER --part hours --tokens 128    # long answers; 256
    python experiments/rows_recorded.py run FOLDER --part poison      # one dishonest of five
    python experiments/rows_recorded.py run FOLDER --part say         # a line in words before
    python experiments/rows_recorded.py run FOLDER --part said        # is what a run says right?
    python experiments/rows_recorded.py tables FOLDER                 # tables/rows-*, cells/said

SmolLM2 answers sixty training prompts 32 times (temperature 1, 24 tokens), and 16 times at length
(temperature .7, 256 tokens, of which the first 128 are the other length). Votes are about forty of
them; the fitted score is held against the taste on the other twenty, within prompts. A simulated
panelist is Bradley–Terry; β is such that two votes on a random pair (or two batches) of the
start's answers that differ in the taste agree with the stated probability. Reading counts every
answer of a shown pair, equal pairs included; equal texts are not shown. Nothing here runs a
policy: a side that is perturbed draws among the recorded answers with its log-probability, linear
in the coordinates.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import pickle
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import Pool
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy import special
from scipy.sparse import csgraph

from szpo.features import described_taste as say
from szpo.features import dictionary, differences
from szpo.optim import informative, named_features, parameters, sample_directions, weighting
from szpo.optim.named_features import NamedFeatures
from szpo.optim.parameters import Space
from szpo.optim.sparse_prior import SparsePrior
from szpo.optim.sparse_regression import SparseFit, fit_sparse
from szpo.optim.vote_regression import Votes
from szpo.runs.budget import WORDS_PER_MINUTE
from szpo.seeds import derive, generator
from szpo.types import FEATURE_GRID, Answer, Floats, Ints
from szpo_simulators.bench_study import write_csv
from szpo_simulators.panels import tastes, text_rewards

PROMPTS, VOTED, EACH, EACH_LONG = 60, 40, 32, 16
DROPPED: Final = {
    "sentiment": ("sentiment", "positive-words", "negative-words"),
    "no comma": ("comma", "commas"),
    "first person": ("i", "starts-i"),
    "reader": ("you",),
}
"""The entries that part D of frozen/features.toml leaves out."""
LENGTHS: Final = (24, 128, 256)
SEED: Final = 90_000
CORE: Final = {
    "sentiment": "sentiment",
    "no comma": "verify:no_comma",
    "first person": r"regex:\b(I|my|me|I'm)\b",
    "reader": r"regex:(?i)\b(you|your)\b",
}
LOOKS: Final = (64, 128, 160, 256, 320, 480, 640)
"""Answers read at which a run is looked at."""
VERDICTS: Final = (30, 60, 120)
"""Verdicts at which a run on long answers is looked at."""
GATE: Final = math.log(9.0)
RADIUS, STEP, NATS = 1.8, 1.2, 2.7
"""Half the distance of two sides, the centre's longest step, KL of the recommended point."""
BASE: Final = 64
"""Answers that a shipped scale counts for beside the 256 of a run."""


@dataclass(frozen=True)
class Arm:
    """One way to ask."""

    verdict: str = "rows"
    """rows | batch."""
    source: str = "start"
    """start: two answers of the start; perturbed: one of each side of a perturbation."""
    choice: str = "random"
    """random | var (of the logit) | mi (Gaussian) | kept (explanations) | tie (near even)."""
    equal: str = "same0"
    """A pair in which the taste does not differ: same0 not counted, same5 half each, coin, other
    (length and a closing mark, as strong as the taste)."""
    agreement: float = 0.7
    dense: str = "none"
    """none | scores | hidden | both: regressors beside the named features."""
    groups: str = "own"
    """own: correlations and scales of 256 base answers; shipped: those of the shipped set-up."""
    lapse: float = 0.0
    size: int = 8
    """Answers a side of a batch."""
    pool: int = 8
    """Unused answers of a prompt among whose pairs is chosen."""
    sheet: int = 8
    drop: bool = False
    """The entries that name the taste are left out (`DROPPED`)."""
    chance: float = 0.125
    """Share of rows that are drawn by chance whatever the choice."""
    say: str = ""
    """What the person said in words before the first sheet."""
    most: int = 640
    """Answers read at the end."""


@dataclass
class World:
    """The recorded answers, equally many to each prompt, ordered by prompt."""

    tokens: int
    named: Any
    texts: list[str]
    scores: Floats
    hidden: Floats
    features: Floats
    scales: Floats
    rewards: dict[str, Floats]
    kinds: dict[str, str]
    other: Floats
    words: Floats
    asked_words: Floats
    """Words of each answer's prompt."""
    ids: Ints
    betas: dict[tuple[Any, ...], float] = field(default_factory=dict)

    @property
    def each(self) -> int:
        """Answers to a prompt."""
        return len(self.texts) // PROMPTS


WORLD: World


def within(values: Floats) -> Floats:
    """Values (N, ...) minus their prompts' means."""
    by_prompt = values.reshape(PROMPTS, -1, *values.shape[1:])
    return (by_prompt - by_prompt.mean(1, keepdims=True)).reshape(values.shape)


def load(folder: Path, tokens: int = 24) -> World:
    """Read what `draw` wrote and score it by every taste; only short answers have states."""
    named, prompts = pickle.loads((folder / "named.pkl").read_bytes())
    if tokens == LENGTHS[0]:
        with np.load(folder / "answers.npz", allow_pickle=False) as stored:
            texts, scores = stored["texts"].tolist(), stored["scores"]
        hidden = np.load(folder / "hidden.npy")
    else:
        with np.load(folder / "long.npz", allow_pickle=False) as stored:
            texts = stored["texts"][:, LENGTHS.index(tokens) - 1].tolist()
        scores = hidden = np.zeros((len(texts), 1))
    asked = [prompt for prompt in prompts for _ in range(len(texts) // PROMPTS)]
    answers = [Answer(text) for text in texts]
    entries = [dictionary.BY_NAME[name] for name in named.names]
    values = differences.values(((p.text, t) for p, t in zip(asked, texts, strict=True)), entries)
    specs = CORE | {name: f"taste:{name}" for name in tastes.TASTES}
    words = np.array([float(len(text.split())) for text in texts])
    closed = np.array([float(text.rstrip()[-1:] in '.!?"') for text in texts])
    other = sum(within(each) / max(within(each).std(), 1e-9) for each in (words, closed))
    return World(
        tokens, named, texts, scores, hidden,
        np.asarray(values, dtype=np.float64) * FEATURE_GRID,
        np.array(named.scales, dtype=np.float64),
        {name: np.asarray(text_rewards.scores(text_rewards.parse(spec), asked, answers))
         for name, spec in specs.items()},
        dict.fromkeys(CORE, "core") | {name: kind for name, (kind, _) in tastes.TASTES.items()},
        np.asarray(other), words, np.array([float(len(p.text.split())) for p in asked]),
        np.unique(texts, return_inverse=True)[1],
    )  # fmt: skip


# ---- what explains votes ----


def left_in(arm: Arm, taste: str | None) -> list[str]:
    """The entries of the dictionary that the arm's runs have."""
    out = DROPPED[str(taste)] if arm.drop else ()
    return [name for name in WORLD.named.names if name not in out]


def regressors(
    arm: Arm, rng: np.random.Generator, taste: str | None = None
) -> tuple[Floats, int, SparsePrior]:
    """Regressors (N, p) of the answers, the number of named ones, and the prior.

    They are functions of 256 base answers that the seed draws, eight to each of 32 prompts.
    """
    stays = np.isin(WORLD.named.names, left_in(arm, taste))
    raw, shipped, each = WORLD.features[:, stays], WORLD.scales[stays], WORLD.each
    if arm.groups == "shipped":
        scales, groups = shipped, np.array(WORLD.named.groups)[stays]
    else:
        chosen = rng.choice(VOTED, 32, replace=False)
        at = [p * each + rng.choice(each, 8, replace=False) for p in chosen]
        x = raw[np.concatenate(at)].reshape(32, 8, -1)
        x = (x - x.mean(1, keepdims=True)).reshape(256, -1)
        square = (x * x).sum(0) / 224
        scales = np.sqrt((BASE * shipped**2 + 224 * square) / (BASE + 224))
        deviation = np.sqrt(square + 1e-12)
        near = x.T @ x / 224 / np.outer(deviation, deviation) > 0.8
        rare = np.sqrt(square) < 0.2 * shipped
        near[rare] = near[:, rare] = False
        found = csgraph.connected_components(near, directed=False)[1]
        _, first, of = np.unique(found, return_index=True, return_inverse=True)
        groups = np.argsort(np.argsort(first))[of]
    parts = [raw / scales]
    if arm.dense in ("scores", "both"):
        parts.append(WORLD.scores[:, : WORLD.named.components])
    if arm.dense in ("hidden", "both"):
        parts.append(WORLD.hidden)
    R, k = np.concatenate(parts, axis=1), raw.shape[1]
    names = tuple(left_in(arm, taste))
    groups = np.concatenate([groups, -np.ones(R.shape[1] - k)]).astype(np.int64)
    rows = 1 if arm.verdict == "rows" else arm.size
    prior = SparsePrior(groups, np.full(R.shape[1], math.sqrt(2 / rows)))
    if arm.say:
        named = NamedFeatures(names, tuple(groups.tolist()), (1,) * k, ((0,),) * k, 0, "")
        said = named_features.with_said(named, say.read([arm.say], names).names)
        prior = named_features.prior_of(said, rows)
    return R, k, prior


# ---- the simulated panelist ----


def fit_beta(gap: Floats, agreement: float) -> float:
    """β at which two votes on pairs with these reward differences agree so often."""
    gap, low, high = gap[gap != 0], 1e-4, 1e6
    for _ in range(70):
        middle = math.sqrt(low * high)
        chance = special.expit(middle * gap)
        below = (chance * chance + (1 - chance) ** 2).mean() < agreement
        low, high = (middle, high) if below else (low, middle)
    return low


def beta_of(arm: Arm, name: str, reward: Floats, seed: int = 12345) -> float:
    """β for this reward on random pairs, or batches, of the start's answers."""
    rows, each = 1 if arm.verdict == "rows" else arm.size, WORLD.each
    key = (name, rows, arm.agreement)
    if key not in WORLD.betas:
        rng, n = np.random.default_rng(seed), 6000
        gap = np.zeros(n)
        for _ in range(rows):
            p, i = rng.integers(0, VOTED, n), rng.integers(0, each, n)
            if rows == 1:
                j = (i + 1 + rng.integers(0, each - 1, n)) % each
            else:
                j = rng.integers(0, each, n)
            gap += reward[p * each + i] - reward[p * each + j]
        WORLD.betas[key] = fit_beta(gap / rows, arm.agreement)
    return WORLD.betas[key]


def vote(
    arm: Arm, taste: str, a: Ints, b: Ints, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Verdicts for a and for b (n,) on pairs of answers."""
    reward = WORLD.rewards[taste]
    gap, n = reward[a] - reward[b], len(a)
    up = (rng.random(n) < special.expit(beta_of(arm, taste, reward) * gap)).astype(float)
    same = gap == 0
    if arm.lapse:
        lapsed = rng.random(n) < arm.lapse
        up = np.where(lapsed, rng.random(n) < 0.5, up).astype(float)
        same = same & ~lapsed
    down = 1 - up
    if arm.equal in ("same0", "same5"):
        up[same] = down[same] = 0.0 if arm.equal == "same0" else 0.5
    elif arm.equal == "coin":
        up[same] = rng.random(same.sum()) < 0.5
        down = 1 - up
    else:
        beta = beta_of(arm, "length and closing mark", WORLD.other, 999)
        chance = special.expit(beta * (WORLD.other[a] - WORLD.other[b]))
        up[same] = (rng.random(n) < chance)[same]
        down = 1 - up
    return up, down


Voter = Callable[[Ints, Ints, np.random.Generator], tuple[Floats, Floats]]


def without_information(kind: str) -> Voter:
    """A voter whose verdicts do not depend on the texts; but "the longer one" does."""
    last, count = [True], itertools.count()

    def voter(a: Ints, b: Ints, rng: np.random.Generator) -> tuple[Floats, Floats]:
        n = len(a)
        left = rng.random(n) < 0.5  # a stands on the left
        if kind == "the longer one":
            words = WORLD.words
            up = np.where(words[a] == words[b], 0.5, (words[a] > words[b]).astype(float))
            return up, 1 - up
        if kind in ("coins", "every second as before"):
            said = rng.random(n) < 0.5
            if kind != "coins":
                said[1::2] = said[:-1:2][: len(said[1::2])]
        elif kind in ("all A", "all B"):
            said = np.full(n, kind == "all A")
        elif kind == "alternating":
            said = np.array([next(count) % 2 == 1 for _ in range(n)])
        elif kind == "key pattern":
            said = np.resize([True, True, False, True, False, False, True, False], n)
        elif kind == "first impression":
            said = np.full(n, rng.random() < 0.5)
        else:  # a sticky coin
            said = np.zeros(n, bool)
            for i in range(n):
                last[0] ^= bool(rng.random() > 0.8)
                said[i] = last[0]
        up = (said == left).astype(float)
        return up, 1 - up

    return voter


def one_honest_of_five(taste: str) -> Voter:
    """Every fifth sheet is answered by the taste, the others by coins."""
    sheets = itertools.count()

    def voter(a: Ints, b: Ints, rng: np.random.Generator) -> tuple[Floats, Floats]:
        if next(sheets) % 5 == 0:
            return vote(Arm(), taste, a, b, rng)
        up = (rng.random(len(a)) < 0.5).astype(float)
        return up, 1 - up

    return voter


# ---- which pair is shown ----

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(15)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def entropy(p: Floats) -> Floats:
    """Entropy of a verdict, nats."""
    return np.asarray(special.entr(p) + special.entr(1 - p))


def worth(arm: Arm, x: Floats, found: SparseFit | None, prior: SparsePrior, k: int) -> Ints:
    """What showing each candidate pair, regressors x (C, p), is worth by the arm's criterion."""
    if arm.choice == "kept" or (found is None and arm.choice != "var"):
        return informative.worth(x, found, prior)
    if found is None:
        nats = (x * x * (informative.WIDTH / prior.scale) ** 2 * prior.features()).sum(1)
    elif arm.choice == "tie":
        kept = [each for each in found.kept if each.chance > informative.LEAST_CHANCE]
        chance = np.array([each.chance for each in kept])
        p = special.expit(np.stack([x[:, list(e.support)] @ e.w for e in kept], axis=1))
        nats = entropy(p @ chance + max(0.0, 1 - chance.sum()) / 2)
        nats = nats - 1e-9 * np.abs(x @ found.w) - (np.abs(x[:, :k]).sum(1) == 0)
    else:
        nats = np.einsum("ip,pq,iq->i", x, found.covariance, x)
        if arm.choice == "mi":
            spread = np.sqrt(np.maximum(nats, 0))[:, None] * NODES
            p = special.expit((x @ found.w)[:, None] + spread)
            nats = entropy(p @ WEIGHTS) - entropy(p) @ WEIGHTS
    return np.asarray(np.rint(informative.UNITS * nats), dtype=np.int64)


# ---- a run ----


def run(
    arm: Arm, taste: str | None, seed: int, voter: Voter | None = None
) -> list[dict[str, Any]]:
    """One run: what the fit knows after each number of answers read, or of verdicts if long."""
    rng = np.random.default_rng([seed, 7])
    R, k, prior = regressors(arm, rng, taste)
    reward = np.zeros(len(R)) if taste is None else WORLD.rewards[taste]
    votes, found, largest = Votes.empty(R.shape[1]), None, -math.inf
    used = np.zeros(len(R), dtype=bool)
    dim = WORLD.scores.shape[1]
    space = Space(seed, (("z", (dim,)),), sample_directions.Law("orthonormal"))
    centre, order = np.zeros(dim), rng.permutation(VOTED)
    read = step = asked = equal = words = opened = 0
    answers = 2 if arm.verdict == "rows" else 2 * arm.size
    due_at = LOOKS if WORLD.tokens == LENGTHS[0] else [n * answers for n in VERDICTS]
    looks = []
    while read < min(due_at[-1], arm.most):
        if arm.verdict == "batch":
            a, b = _batches(arm, space, found, k, step, centre, rng)
            x, gap = R[a].mean(1) - R[b].mean(1), reward[a].mean(1) - reward[b].mean(1)
            beta = 0.0 if taste is None else beta_of(arm, taste, reward)
            up = (rng.random(len(gap)) < special.expit(beta * gap)).astype(float)
            down, read = 1 - up, read + 2 * answers
            if arm.equal == "same0":
                up[gap == 0] = down[gap == 0] = 0
        else:
            prompts = [int(order[(asked + i) % VOTED]) for i in range(arm.sheet)]
            asked += arm.sheet
            a, b = _rows(arm, space, prompts, used, R, found, prior, k, step, centre, rng)
            x, gap, read = R[a] - R[b], reward[a] - reward[b], read + answers * arm.sheet
            if voter is not None:
                up, down = voter(a, b, rng)
            else:
                assert taste is not None
                up, down = vote(arm, taste, a, b, rng)
        equal += int((gap == 0).sum())
        words += int((WORLD.words[a] + WORLD.words[b] + WORLD.asked_words[a]).sum())
        votes = Votes(
            np.concatenate([votes.x, x]), np.append(votes.up, up), np.append(votes.down, down)
        )
        step += 1
        wanted = arm.choice != "random" or arm.source == "perturbed" or step % 4 == 0
        due = read in due_at or (wanted and (read <= 320 or step % 2 == 0))
        if due and (votes.up + votes.down).sum() > 0:
            found = fit_sparse(votes, prior)
            largest = max(largest, found.log_factor)
            opened = opened or (largest >= GATE) * read
            if arm.source == "perturbed":
                centre = centre + _toward(found, k, largest, centre)
        if read in due_at:
            looks.append(
                {"read": read, "verdicts": read // answers, "words": words, "equal": equal,
                 "open": bool(largest >= GATE), "opened": opened, "nats": round(largest, 3),
                 "corr": _correlation(R, k, found, reward),
                 "whole": _correlation(R, R.shape[1], found, reward),
                 "said": [] if found is None or largest < GATE
                 else _claims(found, prior, left_in(arm, taste))}
            )  # fmt: skip
    return looks


def _batches(
    arm: Arm, space: Space, found: SparseFit | None, k: int, step: int, centre: Floats,
    rng: np.random.Generator,
) -> tuple[Ints, Ints]:  # fmt: skip
    """Two comparisons of two sets of answers."""
    pairs = np.zeros((2, 2, space.dim))
    if arm.source == "perturbed":
        v = _directions(space, found, k, step, 2)
        pairs = np.stack([v, -v], 1) * RADIUS + centre
    drawn = [_draw(pair, rng.choice(VOTED, arm.size, replace=False), rng) for pair in pairs]
    return np.array([a for a, _ in drawn]), np.array([b for _, b in drawn])


def _rows(
    arm: Arm, space: Space, prompts: Sequence[int], used: Any, R: Floats,
    found: SparseFit | None, prior: SparsePrior, k: int, step: int, centre: Floats,
    rng: np.random.Generator,
) -> tuple[Ints, Ints]:  # fmt: skip
    """A sheet: one pair to each prompt, chosen among candidates."""
    perturbed, each, shown = arm.source == "perturbed", WORLD.each, []
    if perturbed:
        v = _directions(space, found, k, step, 1)[0]
        sides = centre + RADIUS * np.stack([v, -v])
    for q in prompts:
        if perturbed:
            many = 1 if arm.choice == "random" else 4
            drawn = [_draw(sides, np.array([q]), rng) for _ in range(many)]
            a = np.repeat([pair[0][0] for pair in drawn], many)
            b = np.tile([pair[1][0] for pair in drawn], many)
        else:
            free = np.flatnonzero(~used[q * each : (q + 1) * each]) + q * each
            if len(free) < 2:
                continue
            size = min(len(free), 2 if arm.choice == "random" else arm.pool)
            some = rng.choice(free, size, replace=False)
            i, j = np.triu_indices(len(some), 1)
            a, b = some[i], some[j]
        differ = WORLD.ids[a] != WORLD.ids[b]
        a, b = a[differ], b[differ]
        if not len(a):
            continue
        if len(a) > 1 and arm.choice != "random" and rng.random() >= arm.chance:
            at = int(worth(arm, R[a] - R[b], found, prior, k).argmax())
        else:
            at = int(rng.integers(len(a)))
        pair = (a[at], b[at])
        if rng.random() < 0.5 and not perturbed:
            pair = pair[::-1]
        if not perturbed:
            used[list(pair)] = True
        shown.append(pair)
    return np.array([a for a, _ in shown]), np.array([b for _, b in shown])


def _draw(sides: Floats, prompts: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """One answer of each side to each prompt."""
    found, each = [], WORLD.each
    for z in sides:
        tilts = [WORLD.scores[q * each : (q + 1) * each] @ z for q in prompts]
        found.append(
            [
                q * each + int((t + rng.gumbel(size=each)).argmax())
                for q, t in zip(prompts, tilts, strict=True)
            ]
        )
    return np.array(found[0]), np.array(found[1])


def _directions(space: Space, found: SparseFit | None, k: int, step: int, many: int) -> Floats:
    """Directions (many, d) of length 1, drawn from the posterior where there is one."""
    grids: list[Any] = [None] * many
    kept = () if found is None else tuple(e for e in found.kept if all(i < k for i in e.support))
    if found is not None and kept:
        ways = informative.explanations_of(replace(found, kept=kept), WORLD.named)
        if ways:
            noise = informative.NOISE
            grids = [
                informative.draw_direction(space, WORLD.named, ways, noise, step, at)
                for at in range(many)
            ]
    v = np.array([parameters.direction_vector(space, step, at, grids[at]) for at in range(many)])
    return np.asarray(v / np.linalg.norm(v, axis=1, keepdims=True))


def _target(found: SparseFit, k: int, largest: float) -> Floats:
    """The recommended point."""
    A = named_features.directions(WORLD.named)
    A = A if len(found.w) == A.shape[1] else A[:, :k]
    w, spread = A @ found.w[: A.shape[1]], A @ found.covariance[: A.shape[1], : A.shape[1]] @ A.T
    square = float(w @ w)
    certain = square / (square + float(np.trace(spread)))
    length = math.sqrt(2 * NATS * math.sqrt(certain))
    length = length if largest >= GATE else min(length, 0.5)
    return np.asarray(w * (length / max(math.sqrt(square), 1e-9)))


def _toward(found: SparseFit, k: int, largest: float, centre: Floats) -> Floats:
    """The centre's step towards the recommended point."""
    way = _target(found, k, largest) - centre
    return np.asarray(way * min(1.0, STEP / max(float(np.linalg.norm(way)), 1e-9)))


def _correlation(R: Floats, k: int, found: SparseFit | None, reward: Floats) -> float:
    """Correlation of the fitted score with the taste within prompts, on prompts without votes."""
    if found is None:
        return 0.0
    other = slice(VOTED * WORLD.each, None)
    score, truth = within(R[:, :k] @ found.w[:k])[other], within(reward)[other]
    if min(score.std(), truth.std()) < 1e-9:
        return 0.0
    return round(float(np.corrcoef(score, truth)[0, 1]), 4)


def _claims(found: SparseFit, prior: SparsePrior, names: Sequence[str]) -> list[list[Any]]:
    """Groups that the votes are about with more than a half: entry, sense, probability."""
    said, k = [], len(names)
    for more, chances in ((True, found.more[:k]), (False, found.less[:k])):
        for group, chance in enumerate(np.bincount(prior.groups[:k], chances)):
            if chance > 0.5:
                own = np.flatnonzero(prior.groups[:k] == group)
                name = names[int(own[np.argmax(chances[own])])]
                said.append([name, more, round(float(chance), 3)])
    return sorted(said, key=lambda each: -each[2])


# ---- one dishonest of five ----

DISHONEST: Final = (
    "none", "hostile", "all A", "opposite", "longer", "ten links, one's votes", "ten links"
)  # fmt: skip
"""hostile knows the taste and always votes against it; opposite is a panelist like the others of
the turned taste; longer always takes the longer text. The links are one hostile person's: they
share one panelist's sheets, or each has as many as a panelist."""
FITS, WEIGHED = (4, 8, 12, 16, 20, 30, 40), (20, 40)
"""Sheets of eight after which votes are fitted, and voters weighed."""


def dishonest(
    kind: str, taste: str, a: Ints, b: Ints, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Verdicts for a, which stands on the left, and for b."""
    gap = WORLD.rewards[taste][b] - WORLD.rewards[taste][a]
    if kind == "all A":
        up = np.ones(len(a))
    elif kind == "opposite":
        return vote(Arm(), taste, a, b, rng)[::-1]
    else:
        gap = WORLD.words[a] - WORLD.words[b] if kind == "longer" else gap
        up = np.where(gap == 0, rng.random(len(a)) < 0.5, gap > 0).astype(float)
    return up, 1 - up


def learn(x: Floats, cast: Ints, who: Ints, people: int, prior: SparsePrior) -> weighting.Skill:
    """What `szpo.optim.all_votes.learn_weights` learns of each voter by `skill`."""
    verdicts = np.where(who == np.arange(people)[:, None], cast, 0).astype(np.int8)
    names = tuple(f"{i:02}" for i in range(people))
    past = weighting.History(names, who, verdicts[..., None], np.zeros((people, 2)))
    weights = np.ones(people)
    for _ in range(2):
        mean, variance = np.zeros((2, people, len(x)))
        for i in range(people):
            weight = np.where(who == i, 0.0, weights[who])
            found = fit_sparse(weighted(x, cast, weight), prior)
            mean[i] = x @ found.w
            variance[i] = np.einsum("rp,pq,rq->r", x, found.covariance, x)
        skill = weighting.skill(past, view=(mean, variance))
        weights = skill.weights
    return skill


def weighted(x: Floats, cast: Ints, weight: Floats) -> Votes:
    """Votes (R,), 1 or -1 or 0, that count as much as their voters."""
    return Votes(x, np.maximum(cast * weight, 0.0), np.maximum(-cast * weight, 0.0))


def poisoned(kind: str, taste: str, seed: int, weigh: bool) -> dict[str, Any]:
    """A run of sheets on chosen pairs of the start, by five panelists in turns."""
    rng, arm = np.random.default_rng([seed, 7]), Arm(choice="kept")
    R, k, prior = regressors(arm, rng, taste)
    reward, order = WORLD.rewards[taste], rng.permutation(VOTED)
    space, centre = Space(seed, (("z", (1,)),), sample_directions.Law("orthonormal")), np.zeros(1)
    used, x = np.zeros(len(R), dtype=bool), np.zeros((0, R.shape[1]))
    cast, who, largest, found = np.zeros(0, int), np.zeros(0, int), -math.inf, None
    people = 14 if "links" in kind else 5
    skill, seen, first = None, [], None
    for step in range(40):
        seat = step % (people if kind == "ten links" else 5)
        prompts = [int(order[(8 * step + i) % VOTED]) for i in range(8)]
        a, b = _rows(arm, space, prompts, used, R, found, prior, k, step, centre, rng)
        honest = seat < 4 or kind == "none"
        up, down = vote(arm, taste, a, b, rng) if honest else dishonest(kind, taste, a, b, rng)
        own = np.full(len(a), seat)
        if kind == "ten links, one's votes" and not honest:
            own = 4 + (8 * (step // 5) + np.arange(len(a))) % 10
        x, cast = np.concatenate([x, R[a] - R[b]]), np.append(cast, (up - down).astype(int))
        who = np.append(who, own)
        if step + 1 not in FITS:
            continue
        if weigh and step + 1 in WEIGHED:
            skill = learn(x, cast, who, people, prior)
            seen.append([[int((who == i).sum()), round(float(skill.z[i]), 2)]
                         for i in range(people)])  # fmt: skip
        weight = np.ones(people) if skill is None else skill.weights
        found = fit_sparse(weighted(x, cast, weight[who]), prior)
        largest = max(largest, found.log_factor)
        if first is None and largest >= GATE and (said := _claims(found, prior, k)):
            name, more = said[0][:2]
            entry = R[:, WORLD.named.names.index(name)] * (1 if more else -1)
            with_taste = np.corrcoef(within(entry), within(reward))[0, 1]
            first = [name, more, round(float(with_taste), 3), len(cast)]
    assert found is not None
    corr = _correlation(R, k, found, reward) if largest >= GATE else 0.0
    move = _target(found, k, largest)
    return {"corr": corr, "first": first, "z": seen, "win": _win_share(move, reward),
            "move": move.round(3).tolist()}  # fmt: skip


def _win_share(z: Floats, reward: Floats) -> float:
    """How often the policy at z beats the start, on prompts without votes; a tie is half."""
    total = 0.0
    for q in range(VOTED, PROMPTS):
        own = slice(q * WORLD.each, (q + 1) * WORLD.each)
        sign = np.sign(reward[own][:, None] - reward[own])
        total += float(special.softmax(WORLD.scores[own] @ z) @ (sign.mean(1) + 1) / 2)
    return round(total / (PROMPTS - VOTED), 4)


# ---- parts ----


@dataclass(frozen=True)
class Job:
    """A run to make."""

    arm: Arm
    taste: str | None
    seed: int
    voter: str = ""
    """Verdicts without information, "one honest of five", or one of `DISHONEST`."""
    made: str = ""
    """A taste made by chance: one entry, two entries, no entry."""


def do(job: Job) -> dict[str, Any]:
    """A run with what it was."""
    taste, voter = job.taste, None
    if taste is not None and job.voter in DISHONEST:
        runs = [poisoned(job.voter, str(taste), job.seed, weigh) for weigh in (False, True)]
        return {"taste": taste, "seed": job.seed, "voter": job.voter, "runs": runs}
    if job.made:
        taste = _make_taste(job.made, job.seed)
    if job.voter == "one honest of five":
        voter = one_honest_of_five(str(taste))
    elif job.voter:
        voter = without_information(job.voter)
    looks = run(job.arm, taste, job.seed, voter)
    if job.made:
        del WORLD.rewards[str(taste)]
    kind = WORLD.kinds.get(str(taste))
    return asdict(job) | {"tokens": WORLD.tokens, "kind": kind, "looks": looks}


def _make_taste(kind: str, seed: int) -> str:
    """The name of a reward of one entry, two, or none."""
    rng, name = np.random.default_rng([seed, 31]), f"{kind}:{seed}"
    if kind == "no entry":
        WORLD.rewards[name] = rng.normal(size=len(WORLD.features))
        return name
    chosen = rng.choice(WORLD.features.shape[1], 1 + (kind == "two entries"), False)
    signs = rng.choice([-1.0, 1.0], len(chosen))
    WORLD.rewards[name] = (WORLD.features[:, chosen] / WORLD.scales[chosen]) @ signs
    return name


CHOICES: Final = ("random", "var", "mi", "kept", "tie")
NOTHING: Final = (
    "coins", "all A", "all B", "alternating", "key pattern", "first impression", "sticky coin",
    "every second as before", "the longer one",
)  # fmt: skip
TODAY: Final = Arm("batch", "perturbed", equal="coin", groups="shipped", dense="scores")


PARTS: Final = (
    "criterion", "report", "dense", "nothing", "hours", "poison", "say", "said"
)  # fmt: skip
ENDS: Final = (32, 80, 160, 320)
"""Verdicts after which the runs of part `said` end; each run has its own seed."""
WORDS: Final = {
    "sentiment": "cheerful", "no comma": "no commas", "first person": "in the first person",
    "reader": "speak to the reader",
}  # fmt: skip
WRONG: Final = "shorter, no lists"
"""What a person says of each taste in part `say`, and what has to do with none."""


def jobs_of(part: str, choice: str) -> list[Job]:
    """The runs of a part; ``choice`` is the criterion that `report` and `nothing` use."""
    chosen, moved = Arm(choice=choice), Arm(source="perturbed", groups="shipped")
    if part == "criterion":
        names = (*CORE, "warm", "plain", "chatty")
        return [Job(Arm(choice=c), t, s) for s in range(60) for c in CHOICES for t in names]
    if part == "report":
        every = list(CORE) + list(tastes.TASTES)
        main = [
            TODAY, replace(TODAY, source="start", groups="own", dense="none"), Arm(), chosen,
            Arm(agreement=0.62), replace(chosen, agreement=0.62),
        ]  # fmt: skip
        side = [
            *(replace(chosen, equal=e) for e in ("same5", "coin", "other")), Arm(equal="coin"),
            *(replace(chosen, dense=d) for d in ("scores", "hidden", "both")),
            replace(chosen, groups="shipped"), replace(chosen, lapse=0.1), moved,
            replace(moved, choice=choice),
        ]  # fmt: skip
        return [
            Job(arm, taste, 1000 + s)
            for arms, seeds in ((main, 60), (side, 20))
            for s in range(seeds)
            for arm in arms
            for taste in every
        ]
    if part == "say":
        told = [
            Job(replace(chosen, say=line, agreement=agreement, most=320), taste, 1000 + s)
            for agreement in (0.7, 0.62)
            for s in range(60)
            for taste, right in WORDS.items()
            for line in ("", right, f"{right}, {WRONG}", WRONG)
        ]
        said = [replace(chosen, say=line, most=320) for line in ("", WRONG, WORDS["sentiment"])]
        return told + [Job(arm, None, s, "coins") for s in range(200) for arm in said]
    if part == "said":
        every = [(taste, False) for taste in (*CORE, *tastes.TASTES)]
        every += [(taste, True) for taste in CORE]
        return [
            Job(replace(chosen, drop=drop, most=2 * end), taste, end * 100 + s)
            for s in range(60)
            for end in ENDS
            for taste, drop in every
        ]
    if part == "poison":
        often = (1, 1, 2, 2, 2, 5, 5)
        return [Job(chosen, t, 1000 + s, kind) for s in range(50)
                for kind, n in zip(DISHONEST, often, strict=True) if s % n == 0
                for t in CORE]  # fmt: skip
    if part == "dense":
        absent = [(name, False) for name, (kind, _) in tastes.TASTES.items() if kind == "absent"]
        return [
            Job(replace(chosen, dense=dense, drop=drop), taste, 1000 + s)
            for s in range(60)
            for taste, drop in (*absent, *((name, True) for name in CORE))
            for dense in ("none", "scores", "hidden", "both")
        ]
    if part == "hours":
        rows, batch = Arm(choice=choice, sheet=2), Arm("batch", size=2)
        return [
            Job(replace(arm, agreement=agreement), taste, 1000 + s)
            for agreement in (0.7, 0.62)
            for names in (list(CORE), list(tastes.TASTES))
            for s in range(60)
            for arm in (rows, batch, replace(rows, choice="random"))
            for taste in names
        ]
    jobs = [Job(chosen, None, s, voter=kind) for s in range(200) for kind in NOTHING]
    jobs += [Job(chosen, t, s, voter="one honest of five") for s in range(50) for t in CORE]
    made = ("one entry", "two entries", "no entry")
    return jobs + [Job(chosen, None, 5000 + s, made=kind) for s in range(100) for kind in made]


def sweep(jobs: Iterable[Job], out: Path, processes: int, seconds: float) -> None:
    """Make the runs, one JSON line each, until the time is over."""
    begun = time.monotonic()
    with Pool(processes) as pool, out.open("w", encoding="utf-8") as file:
        for found in pool.imap_unordered(do, jobs, chunksize=1):
            print(json.dumps(found), file=file, flush=True)
            if time.monotonic() - begun > seconds:
                pool.terminate()
                break


def draw(folder: Path, device: str) -> None:
    """Let SmolLM2 answer; keep texts, scores in the shipped coordinates, and hidden states."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from szpo import cache
    from szpo_simulators import surrogate

    dtype = "bf16" if device == "cuda" else "fp32"
    sets = [f"model.device={device}", f"model.dtype={dtype}"]
    policy, named, train = surrogate.prepare_model(sets, print)
    order = generator(derive(SEED, "surrogate prompts")).permutation(len(train))
    prompts = [train[i] for i in order[:PROMPTS]]
    weights = next(cache.cache_dir().glob("smollm2-*"))
    model = AutoModelForCausalLM.from_pretrained(
        weights,
        dtype=torch.bfloat16 if device == "cuda" else torch.float32,
    ).to(device)
    texts, scores, hidden = [], [], []
    for first in range(0, PROMPTS, 4):
        part = tuple(prompts[first : first + 4])
        rows = policy.sample_tokens(part, EACH, seed=SEED + first)
        asked = [tokens for tokens in policy.encode_all(part) for _ in range(EACH)]
        scores.append(policy.whitened_scores(list(zip(asked, rows, strict=True))))
        texts += [policy.answer(row).text for row in rows]
        for question, row in zip(asked, rows, strict=True):
            ids = torch.tensor([[*map(int, question), *map(int, row)]], device=device)
            with torch.no_grad():
                states = model(ids, output_hidden_states=True).hidden_states[20][0]
            hidden.append(states[len(question) :].float().mean(0).cpu().numpy())
    states = within(np.stack(hidden))
    components = states @ np.linalg.svd(states, full_matrices=False)[2][:64].T
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "hidden.npy", (components / components.std(0)).astype(np.float32))
    np.savez(folder / "answers.npz", texts=np.array(texts), scores=np.concatenate(scores))
    (folder / "named.pkl").write_bytes(pickle.dumps((named, prompts)))
    tokenizer, long = AutoTokenizer.from_pretrained(weights, padding_side="left"), []
    torch.manual_seed(0)
    for first in range(0, PROMPTS, 15):
        turns = [
            [{"role": "user", "content": prompt.text}]
            for prompt in prompts[first : first + 15]
            for _ in range(EACH_LONG)
        ]
        asked = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        ).to(device)
        tokens = model.generate(
            **asked, max_new_tokens=LENGTHS[-1], do_sample=True, temperature=0.7, top_k=0
        )[:, asked.input_ids.shape[1] :]
        long += [
            [tokenizer.decode(row[:n], skip_special_tokens=True) for n in LENGTHS[1:]]
            for row in tokens
        ]
    np.savez(folder / "long.npz", texts=np.array(long))


# ---- tables ----


def label(arm: dict[str, Any]) -> str:
    """An arm in words: how it asks, then what differs from the plain arm."""
    plain = asdict(Arm())
    told = [f"{name} {value}" for name, value in [*arm.items()][3:] if value != plain[name]]
    return ", ".join([f"{arm['verdict']} of the {arm['source']}, {arm['choice']}", *told])


def tables(folder: Path, out: Path, head: Sequence[str]) -> None:
    """Write the CSV files that the lines fill which the parts left in the folder."""
    paths = sorted(folder.glob("*.jsonl"))
    _table_dense([path for path in paths if path.stem.startswith("dense")], out, head)
    _table_poison([path for path in paths if path.stem.startswith("poison")], out, head)
    _table_told([path for path in paths if path.stem.startswith("say")], out, head)
    _cells_said(folder, [path for path in paths if path.stem.startswith("said")], out, head)
    apart = ("dense", "poison", "say", "said")
    paths = [path for path in paths if not path.stem.startswith(apart)]
    rows = [json.loads(line) for path in paths for line in path.open()]
    learned, nothing, hours = defaultdict(list), defaultdict(list), defaultdict(list)
    for row in rows:
        arm = label(row["arm"])
        if row["voter"] or row["made"]:
            kind = row["voter"] or f"a taste of {row['made']}"
            kind += f", {row['taste']}" if row["voter"] == "one honest of five" else ""
            last = row["looks"][-1]
            any_said = any(look["said"] for look in row["looks"])
            nothing[kind].append((last["open"], any_said))
            continue
        taste = row["taste"] if row["kind"] == "core" else f"five {row['kind']}"
        part = "criterion" if row["seed"] < 1000 else "report"
        for look in row["looks"]:
            seen = look["corr"] if look["open"] else 0.0
            if row["tokens"] > LENGTHS[0]:
                at = row["tokens"], taste, arm, look["verdicts"]
                same = look["equal"] / look["verdicts"]
                hours[at].append((look["open"], seen, same, look["words"]))
                continue
            learned[part, taste, arm, look["read"]].append((look["open"], seen))
    for part in ("criterion", "report"):
        found = [
            [
                taste,
                arm,
                read,
                len(each),
                *(f"{np.mean([e[i] for e in each]):.3f}" for i in (0, 1)),
            ]
            for (of, taste, arm, read), each in sorted(learned.items())
            if of == part
        ]
        heads = ["taste", "way", "answers read", "runs", "gate open", "correlation, 0 if shut"]
        _write(out / f"rows-{part}.csv", head, heads, found)
    found = []
    for key, each in sorted(hours.items()):
        mean = np.mean(np.array(each, dtype=np.float64), axis=0)
        shares = [f"{share:.3f}" for share in mean[:3]]
        read_h = mean[3] / WORDS_PER_MINUTE / 60
        found.append([*key, len(each), *shares, round(mean[3]), f"{read_h:.2f}"])
    heads = [
        "tokens", "taste", "way", "verdicts", "runs", "gate open", "correlation, 0 if shut",
        "without difference", "words read", "hours",
    ]  # fmt: skip
    _write(out / "rows-hours.csv", head, heads, found)
    found = [
        [kind, len(each), *(f"{np.mean([e[i] for e in each]):.3f}" for i in (0, 1))]
        for kind, each in sorted(nothing.items())
    ]
    heads = ["votes", "runs", "gate open at 640", "something said above 50 % at a look"]
    _write(out / "rows-nothing.csv", head, heads, found)


def _cells_said(folder: Path, paths: Sequence[Path], out: Path, head: Sequence[str]) -> None:
    """What runs say at their end, a line a taste and length; blanks stand between runs.

    A claim is its probability in thousandths, then "+" if the entry's correlation with the taste
    within prompts, in the said sense, is .2.
    """
    global WORLD
    rows = [json.loads(line) for path in paths for line in path.open()]
    WORLD = load(folder) if rows else WORLD
    found = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["seed"]):
        kind = "dropped" if row["arm"]["drop"] else row["kind"]
        said, last = [], row["looks"][-1]
        for name, more, chance in last["said"]:
            column = WORLD.features[:, WORLD.named.names.index(name)]
            both = within(column), within(WORLD.rewards[row["taste"]])
            near = float(np.corrcoef(*both)[0, 1]) * (1 if more else -1)
            said.append(f"{1000 * chance:.0f}{'+' if near >= 0.2 else '-'}")
        found[kind, row["taste"], last["verdicts"]].append(",".join(said) or "none")
    lines = [[*key, " ".join(each)] for key, each in found.items()]
    heads = ["class", "taste", "votes", "claims by run"]
    _write(out.parent / "cells" / "said.csv", head, heads, lines)


def _table_dense(paths: Sequence[Path], out: Path, head: Sequence[str]) -> None:
    """Dense parts on the same tastes and seeds: only those that were run with every one count."""
    rows = [json.loads(line) for path in paths for line in path.open()]
    made = Counter((row["taste"], row["seed"]) for row in rows)
    found = defaultdict(list)
    for row in rows:
        if made[row["taste"], row["seed"]] == 4:
            kind = "four dropped" if row["arm"]["drop"] else "five absent"
            for at in row["looks"]:
                here = at["open"], at["corr"], at["whole"], at["whole"] * at["open"]
                for name in (kind, row["taste"]):
                    found[name, row["arm"]["dense"], at["read"]].append(here)
    lines = [
        [*key, len(each), *(f"{mean:.3f}" for mean in np.mean(each, axis=0))]
        for key, each in sorted(found.items())
    ]
    heads = [
        "taste", "dense part", "answers read", "runs", "gate open", "correlation of named part",
        "of the whole score", "of the whole score, 0 if shut",
    ]  # fmt: skip
    _write(out / "rows-dense.csv", head, heads, lines)


def _table_told(paths: Sequence[Path], out: Path, head: Sequence[str]) -> None:
    """What a line in words, or texts of one's own, do to the verdicts that a gate needs."""
    found = defaultdict(list)
    for row in (json.loads(line) for path in paths for line in path.open()):
        last = row["looks"][-1]
        gate = (last["opened"] or last["read"] + 16) / 2
        spare = last["corr"] if last["open"] else 0.0
        about = row["taste"] or row["voter"]
        found[about, label(row["arm"])].append((gate, last["open"], spare))
    lines = [
        [*key, len(each), *(f"{mean:.3f}" for mean in np.mean(each, axis=0))]
        for key, each in sorted(found.items())
    ]
    heads = [
        "taste", "way", "runs", "verdicts to the gate", "open at 320", "correlation, 0 if shut",
    ]  # fmt: skip
    _write(out / "rows-told.csv", head, heads, lines)


def _table_poison(paths: Sequence[Path], out: Path, head: Sequence[str]) -> None:
    """What one of five moves; a claim is wrong below a correlation of .2 with the taste."""
    rows = [json.loads(line) for path in paths for line in path.open()]
    same = {(r["taste"], r["seed"]): r["runs"][0]["move"] for r in rows if r["voter"] == "none"}
    found, flagged = defaultdict(list), defaultdict(list)
    for row in rows:
        start = np.array(same[row["taste"], row["seed"]])
        for way, run in zip(("equal", "skill"), row["runs"], strict=True):
            move, first, key = np.array(run["move"]), run["first"], (row["voter"], way)
            cosine = move @ start / max(np.linalg.norm(move) * np.linalg.norm(start), 1e-9)
            wrong = first is not None and first[2] < 0.2
            found[key].append((run["corr"], run["win"], cosine, first is None, wrong))
            for look, seen in enumerate(run["z"]):
                for at, (votes, z) in enumerate(seen):
                    own = row["voter"] == "none" or at < 4
                    flagged[*key, own, look] += [z <= -weighting.HOSTILE_Z] if votes else []
    lines = []
    for key, each in sorted(found.items()):
        told = [flagged[*key, own, look] for own in (False, True) for look in (0, 1)]
        shares = [*np.mean(each, axis=0), *(np.mean(hits) if hits else math.nan for hits in told)]
        lines.append([*key, len(each), *(f"{share:.3f}" for share in shares)])
    heads = [
        "one of five", "weighting", "runs", "correlation, 0 if shut", "win share",
        "cosine with the honest move", "no claim", "first claim wrong", "flagged at 160 verdicts",
        "flagged at 320", "honest flagged at 160", "honest flagged at 320",
    ]  # fmt: skip
    _write(out / "rows-poison.csv", head, heads, lines)


def _write(path: Path, head: Sequence[str], heads: list[str], rows: list[list[Any]]) -> None:
    if rows:
        write_csv(path, [dict(zip(heads, row, strict=True)) for row in rows], head)


HEAD: Final = ["command: ", "commit: ", "machine: ", "date: "]


def main() -> None:
    """Read the command line."""
    global WORLD
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("do", choices=("draw", "run", "tables"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--part", choices=PARTS, default="report")
    parser.add_argument("--tokens", type=int, choices=LENGTHS, default=24)
    parser.add_argument("--choice", choices=CHOICES, default="kept")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--head", nargs=4, default=HEAD)
    given = parser.parse_args()
    if given.do == "draw":
        draw(given.folder, given.device)
    elif given.do == "run":
        WORLD = load(given.folder, given.tokens)
        out = given.folder / f"{given.part}-{given.tokens}.jsonl"
        sweep(jobs_of(given.part, given.choice), out, given.processes, given.seconds)
    else:
        tables(given.folder, Path(__file__).parent / "tables", given.head)


if __name__ == "__main__":
    main()
