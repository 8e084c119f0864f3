"""People's verdicts on θ + μv against θ − μv, less what the taste foretells of them, as a step.

    python experiments/residual_votes.py linear              # a world where the truth is known
    python experiments/residual_votes.py tiny CELLS RUN ...  # adds lines to CELLS
    python experiments/residual_votes.py table CELLS

A verdict y in {0, ½, 1} on texts a, b of the policies θ ± μv has the expectation σ(β(r(a) − r(b)))
by Bradley and Terry. Let P(θ', θ) be the chance that a text of θ' beats one of θ, and g = ∇₁P(θ,
θ). E[y − ½ | v] is odd in μ, thus 2μ vᵀg + O(μ³), and with E[v vᵀ] = I

    E[(y − ½) v] / 2μ = g.

A taste fitted to *earlier* verdicts foretells p̂ = σ(s(a) − s(b)) of the same two texts; the
gradient of what it foretells, g_p̂, costs answers and no verdict. Given the past, p̂ is fixed
before y, so

    ĝ = g_p̂ + Σ (y − p̂) v / 2μn

has no bias, whatever p̂ is. Its variance a verdict is E[(y − p̂)²] |v|² / 4μ² in place of E[(y −
½)²] |v|² / 4μ². With p the true chance E[(y − p̂)²] = E[p(1 − p)] + E[(p − p̂)²], and two voters
who agree with probability A have E[p(1 − p)] = (1 − A)/2: at .70 even the true taste leaves .15 of
.25. The noise grows with d: |v|² is about d and μ² about 2κ/d, so that the cosine of ĝ with g is
about 1/√(1 + d² E[(y − p̂)²] / 8κn|g|²).

In a regression with logit(p̂) as its offset, Σ (y − p̂) 2μv is the first Newton step for weights u
on the coordinates. `fit_residual` shrinks that step and weighs it against none (a Bayes factor).

``tiny``: two answers to a prompt (sets: eight to eight prompts), agreement .70, 640 answers read,
all of policies θ ± μv at κ = 2 nats around the start; "same" where the texts do not differ in what
is liked. RUNs are of ``szpo run --preset tiny``: one with adapters as coordinates, or one without
coordinates, for which all B move. A direction's *share* is its first-order gain of P at equal KL
over that of the natural gradient of the true P, from 6,144 own answers. ``moved``: gain of the
true reward on 384 held-out answers when the policy goes along it as far as 1 nat, as measured.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy import special

from szpo import seeds
from szpo.features import differences
from szpo.improvement import policy_search, score_ascent
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.optim import named_features, parameters
from szpo.optim.named_features import NamedFeatures
from szpo.optim.sparse_regression import SparseFit, fit_sparse
from szpo.optim.vote_regression import BAYES_FACTOR_NEEDED, Votes
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.protocol import moved
from szpo.runs import assemble
from szpo.types import Answer, Floats, Prompt, Shift
from szpo.voting import shown_features
from szpo_simulators.panels import text_rewards

ANSWERS: Final = 640
SET: Final = 8
OWN: Final = (64, 96)
"""Prompts and own answers to each from which the truth is known."""
SEEDS: Final = range(6)
ROUNDS: Final = 8
NATS: Final = {"all weights": 2.0, "adapters": 2.0}
MOVED: Final = ("plain", "residual", "taste, natural", "regression", "fitted")
"""Directions along which the policy really moves, for the first seeds."""
MOVED_SEEDS: Final = 2
KEPT: Final = ("length", "characters", "sentences")
TONE: Final = ("sentiment", "positive-words", "negative-words")


@dataclass(frozen=True)
class Case:
    """A taste, and the entries that the run lacks."""

    reward: str
    drop: tuple[str, ...] = ()
    rows: int = 1


CASES: Final = {
    "named: tone": Case("sentiment"),
    "dropped: tone": Case("sentiment", TONE),
    "dropped: I": Case(r"regex:\b(I|my|me|I'm)\b", ("i", "starts-i")),
    "blind: tone": Case("sentiment", ("*",)),
    "absent: alliteration": Case("taste:alliteration"),
    "absent: soft sounds": Case("taste:soft sounds"),
    "absent: open endings": Case("taste:open endings"),
    "chance": Case("chance"),
    "half: tone, soft sounds": Case("half"),
    "set: variety": Case("variety", (), SET),
}


class World:
    """A policy at its start, own answers there, and their score functions."""

    def __init__(self, path: Path):
        with Ledger.open(path) as ledger:
            self.parts = assemble.reopen(ledger, panel=False, say=lambda line: None)
            named = recorded_settings(ledger).features
        assert named is not None
        self.named: NamedFeatures = named
        policy = self.parts.language
        self.name = "adapters" if policy.subspace.sites else "all weights"
        if not policy.subspace.sites:
            held = policy_search._with_sites(self.parts)[0]
            policy = policy_search._mover(self.parts, held, "zeroth", 5)
        self.policy: LoraPolicy = policy
        self.entries = shown_features.entries_of(named)
        asked, each = self.parts.prompts.train[: OWN[0]], OWN[1]
        self.prompts = [p for p in asked for _ in range(each)]
        self.group = np.repeat(np.arange(len(asked)), each)
        rows = policy.sample_tokens(asked, each, seed=77)
        self.answers = [policy.answer(row) for row in rows]
        start = policy.start()
        scores = []
        for i in range(0, len(rows), 256):
            found = score_ascent.read_scores(
                policy, start, self.prompts[i : i + 256], rows[i : i + 256]
            )
            scores.append(found[:, 0])
        S = np.concatenate(scores)
        if policy.subspace.blocks is not None:  # chain rule: weights are linear in z
            S = S @ self.jacobian()
        self.scores = S
        own = np.stack([S[self.group == g].mean(0) for g in range(len(asked))])
        self.centred = S - own[self.group]
        self.fisher = self.centred.T @ self.centred / len(S)
        self.values = self.features(self.prompts, self.answers)
        self._voters: dict[Case, Voters] = {}

    def voters(self, case: Case) -> Voters:
        """The voters of a case; the same object for each seed."""
        if case not in self._voters:
            self._voters[case] = Voters(self, case)
        return self._voters[case]

    def jacobian(self) -> Floats:
        """How the weights change with each coordinate, (weights, d)."""
        policy = self.policy
        (name, (dim,)), zero = policy.layout[0], policy.subspace.weights(policy.start())
        columns = []
        for i in range(dim):
            z = {name: np.eye(dim, dtype=np.float32)[i]}
            at = policy.subspace.weights(z)
            columns.append(np.concatenate([(at[n] - zero[n]).ravel() for n in zero]))
        return np.array(columns, np.float64).T

    def move(self, direction: Floats, read: Any, nats: float = 1.0) -> tuple[float, float]:
        """Gain of the true reward on held-out prompts, and the measured KL, about ``nats``."""
        policy, asked = self.policy, self.parts.prompts.heldout
        factor = math.sqrt(2 * nats / max(float(direction @ self.fisher @ direction), 1e-30))
        each = [p for p in asked for _ in range(4)]

        def mean(rows: Any) -> float:
            return float(np.mean(read(each, [policy.answer(row) for row in rows])))

        start = mean(policy.sample_tokens(asked, 4, seed=11, base=True))
        for _ in range(4):
            theta = score_ascent.add(policy.start(), policy.layout, direction, factor)
            with moved(policy, theta):
                rows = policy.sample_tokens(asked, 4, seed=11)
                kl = policy.kl_of(asked, rows)[0]
            if 0.85 * nats <= kl <= 1.15 * nats:
                break
            factor *= min(max(math.sqrt(nats / max(kl, 1e-3)), 0.3), 2.0)
        return mean(rows) - start, kl

    def features(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        """All of the run's features (n, k), in spreads."""
        pairs = ((p.text, a.text) for p, a in zip(prompts, answers, strict=True))
        found = differences.values(pairs, list(self.entries.values()))
        return found / (np.array(self.named.scales) / 4096)

    def gradient(
        self, prob: Callable[[Floats, Floats], Floats], values: Floats
    ) -> tuple[Floats, Floats]:
        """∇₁ of the mean of ``prob`` over pairs of own answers to a prompt, by halves."""
        return tuple(self._of(prob, values, half) for half in (0, 1))  # type: ignore[return-value]

    def _of(self, prob: Any, values: Floats, half: int) -> Floats:
        total = np.zeros(self.scores.shape[1])
        count = 0
        for g in range(OWN[0]):
            own = np.flatnonzero(self.group == g)[half::2]
            chance = prob(values[own][:, None], values[own][None]) - 0.5
            total += chance.mean(1) @ self.scores[own]
            count += len(own)
        return total / count

    def gradient_of_sets(
        self, prob: Callable[[Any, Any], Floats], half: int, sets: int = 4000
    ) -> Floats:
        """The same for sets of eight answers to eight prompts; ``prob`` takes (sets, 8) places."""
        rng, total = np.random.default_rng(half), np.zeros(self.scores.shape[1])
        each = OWN[1] // 2
        picked = np.array([rng.permutation(OWN[0])[:SET] for _ in range(sets)])
        a, b = (picked * OWN[1] + 2 * rng.integers(each, size=(sets, SET)) + half for _ in "ab")
        chance = prob(a, b) - 0.5
        total = chance @ (self.scores[a].sum(1) - self.scores[b].sum(1)) / (2 * sets)
        return total


class Voters:
    """Bradley–Terry on a case's reward, at agreement .70 on the start's pairs that differ."""

    def __init__(self, world: World, case: Case):
        self.case = case
        if case.reward == "half":
            one, other = (text_rewards.parse(t) for t in ("sentiment", "taste:soft sounds"))
            sizes = [
                np.std(text_rewards.scores(r, world.prompts, world.answers)) for r in (one, other)
            ]
            self.read = lambda p, a: (
                text_rewards.scores(one, p, a) / sizes[0]
                + text_rewards.scores(other, p, a) / sizes[1]
            )
        elif case.reward != "variety":
            text = "sentiment" if case.reward == "chance" else case.reward
            reward = text_rewards.parse(text)
            self.read = lambda p, a: text_rewards.scores(reward, p, a)
        rng = np.random.default_rng(0)
        if case.rows > 1:
            self.words = [a.text.casefold().split() for a in world.answers]
            places = rng.integers(len(world.answers), size=(2, 4000, SET))
            gaps = self.of_sets(places[0], self.words) - self.of_sets(places[1], self.words)
        else:
            self.own = self.read(world.prompts, world.answers)
            pairs = rng.integers(OWN[1], size=(2, 20_000)) + OWN[1] * rng.integers(
                OWN[0], size=20_000
            )
            gaps = self.own[pairs[0]] - self.own[pairs[1]]
        self.differ = float(np.mean(gaps != 0))
        gaps, low, high = gaps[gaps != 0], -10.0, 15.0
        if not len(gaps):
            raise ValueError(case.reward)
        for _ in range(50):
            middle = (low + high) / 2
            p = special.expit(math.exp(middle) * gaps)
            low, high = (low, middle) if np.mean(p**2 + (1 - p) ** 2) > 0.7 else (middle, high)
        self.beta = 1e-9 if case.reward == "chance" else math.exp(low)
        self.known: list[Floats] | None = None

    def truth(self, world: World) -> list[Floats]:
        """The true gradient, by halves of the own answers."""
        if self.known is None and self.case.rows > 1:
            self.known = [
                world.gradient_of_sets(
                    lambda a, b: special.expit(
                        self.beta * (self.of_sets(a, self.words) - self.of_sets(b, self.words))
                    ),
                    half,
                )
                for half in (0, 1)
            ]
        elif self.known is None:
            prob = lambda a, b: special.expit(self.beta * (a - b))  # noqa: E731
            self.known = list(world.gradient(prob, self.own))
        return self.known

    @staticmethod
    def of_sets(places: Any, words: Sequence[Sequence[str]]) -> Floats:
        """Different words as a share of all words of a set."""
        found = []
        for row in places:
            every = list(itertools.chain.from_iterable(words[i] for i in row))
            found.append(len({*every}) / max(1, len(every)))
        return np.array(found)


def ask(world: World, case: Case, seed: int) -> dict[str, Any]:
    """Pairs of perturbed policies and their answers: v (n, D), μ, features of the gap, answers."""
    policy, rows = world.policy, case.rows
    count = ANSWERS // (2 * rows)
    mu = policy.subspace.mu(NATS[world.name])
    rng = np.random.default_rng(seed)
    frame = policy.dim if policy.space.law.kind == "orthonormal" else count
    shifts, vectors = [], []
    for n in range(count):
        step, k = divmod(n, frame)
        step += 10_000 * (seed + 1)
        factor = parameters.factor(policy.space, step, k)
        radius = float(parameters.round_coef(mu * factor))
        shifts += [Shift(step, k, sign, radius) for sign in (1, -1)]
        vectors.append(parameters.direction_vector(policy.space, step, k) * factor)
    train = world.parts.prompts.train
    asked = [[train[i] for i in rng.permutation(len(train))[:rows]] for _ in range(count)]
    drawn: list[Any] = []
    lists = [tuple(asked[n // 2]) for n in range(2 * count)]
    for i in range(0, 2 * count, 128):
        drawn += policy.rollout(lists[i : i + 128], shifts[i : i + 128], seed=seed * 1000 + i)
    answers = [[*batch] for batch in drawn]
    flat = [p for row in lists for p in row]
    every = [a for row in answers for a in row]
    values = world.features(flat, every).reshape(count, 2, rows, -1).mean(2)
    return {
        "v": np.array(vectors), "mu": mu, "x": values[:, 0] - values[:, 1],
        "prompts": lists, "answers": answers, "count": count,
    }  # fmt: skip


def vote(voters: Voters, asked: dict[str, Any], seed: int) -> Floats:
    """A verdict on each pair; ½ where it does not differ in what is liked."""
    if voters.case.rows > 1:
        words = [[a.text.casefold().split() for a in row] for row in asked["answers"]]
        places = np.arange(SET)[None]
        worth = np.array([voters.of_sets(places, row)[0] for row in words])
    else:
        worth = np.array([
            voters.read(list(p), list(a))[0]
            for p, a in zip(asked["prompts"], asked["answers"], strict=True)
        ])  # fmt: skip
    gap = worth[::2] - worth[1::2]
    u = np.random.default_rng(seeds.as_seed(seeds.derive(seed, "votes"))).random(len(gap))
    return np.where(gap == 0, 0.5, (u < special.expit(voters.beta * gap)).astype(float))


def without(named: NamedFeatures, drop: Sequence[str]) -> tuple[NamedFeatures, list[int]]:
    """The features but some, and the places of those that are left."""
    most = drop == ("*",)
    left = [
        i for i, name in enumerate(named.names)
        if (name in KEPT if most else name not in drop)
    ]  # fmt: skip
    groups = {g: n for n, g in enumerate(dict.fromkeys(named.groups[i] for i in left))}
    found = replace(
        named, names=tuple(named.names[i] for i in left),
        groups=tuple(groups[named.groups[i]] for i in left),
        scales=tuple(named.scales[i] for i in left), map=tuple(named.map[i] for i in left),
    )  # fmt: skip
    return found, left


def fit_residual(apart: Floats, left: Floats, p: Floats) -> tuple[Floats, float]:
    """Logits a unit of the coordinates that residuals show, and the log Bayes factor for any.

    One Newton step of the logistic regression with logit(p) as its offset, under Gaussian priors
    of three widths of the logit along a comparison, as in `szpo.optim.vote_regression`.
    """
    dim = apart.shape[1]
    pull, need = left @ apart, (apart.T * (p * (1 - p))) @ apart
    found, factors = [], []
    for width in (1.0, 4.0, 16.0):
        prior = np.eye(dim) * float((apart**2).sum(1).mean()) / width
        found.append(np.linalg.solve(need + prior, pull))
        grown = np.linalg.slogdet(np.eye(dim) + need @ np.linalg.inv(prior))[1]
        factors.append(0.5 * (pull @ found[-1] - grown))
    chances = special.softmax(factors)
    return chances @ np.array(found), float(special.logsumexp(factors) - math.log(3))


def cell(world: World, name: str, voters: Voters, seed: int) -> dict[str, Any]:
    """Shares of the directions that 640 answers read give."""
    case, policy = voters.case, world.policy
    named, left = without(world.named, case.drop)
    texts_only = replace(named, coordinates=(), axes=(), components=0)
    asked = ask(world, case, seed)
    y, v, mu, x = vote(voters, asked, seed), asked["v"], asked["mu"], asked["x"][:, left]
    prior = named_features.prior_of(texts_only, case.rows)
    live = y != 0.5
    up, down = np.where(live, y, 0.0), np.where(live, 1 - y, 0.0)

    def fit(n: int) -> SparseFit:
        return fit_sparse(Votes(x[:n], up[:n], down[:n]), prior)

    def foretell(found: SparseFit | None) -> Callable[[Floats], Floats]:
        if found is None:
            return lambda gap: np.full(gap.shape[:-1], 0.5)
        return lambda gap: 0.5 + found.signal * (special.expit(gap @ found.w) - 0.5)

    bounds = np.linspace(0, len(y), ROUNDS + 1).astype(int)
    p, parts = np.zeros(len(y)), []
    for low, high in itertools.pairwise(bounds):
        said = foretell(fit(low) if low else None)
        p[low:high] = said(x[low:high])
        parts.append(said)
    last = fit(len(y))
    own = world.values[:, left]

    def of_texts(said: Callable[[Floats], Floats]) -> Floats:
        if case.rows > 1:
            return sum(
                world.gradient_of_sets(lambda a, b: said(own[a].mean(1) - own[b].mean(1)), h)
                for h in (0, 1)
            ) / 2  # fmt: skip
        return sum(world.gradient(lambda a, b: said(a - b), own)) / 2

    by_taste = sum(of_texts(said) for said in parts[1:]) / ROUNDS
    plain = ((y - 0.5) @ v) / (2 * mu * len(y))
    residual = ((y - p) @ v) / (2 * mu * len(y))
    now = of_texts(foretell(last))
    F = world.fisher + 0.01 * np.trace(world.fisher) / len(world.fisher) * np.eye(policy.dim)
    ways_ = {
        "plain": plain, "residual": residual + by_taste, "taste": now,
        "taste, natural": np.linalg.solve(F, now),
    }  # fmt: skip
    fitted, factor = fit_residual(2 * mu * v[live], y[live] - p[live], p[live])
    slope = last.signal * (own @ last.w) @ world.centred / len(own) if case.rows == 1 else now * 4
    ways_["fitted"] = fitted + slope
    gates = {"taste": last.log_factor >= math.log(BAYES_FACTOR_NEEDED)}
    gates["fitted"] = factor >= math.log(BAYES_FACTOR_NEEDED)
    if named.coordinates:
        apart = 2 * mu * v
        both = named_features.regressors(
            np.rint(x * 4096).astype(int), named_features.along(named, apart)
        )
        found = fit_sparse(
            Votes(both, up, down), named_features.prior_of(named, case.rows, 2 * mu)
        )
        ways_["regression"] = named_features.in_coordinates(found, named).w
        moves = replace(named, names=(), groups=(), scales=(), map=())
        only = fit_sparse(
            Votes(named_features.along(moves, apart), up, down),
            named_features.prior_of(moves, case.rows, 2 * mu),
        )
        ways_["moves alone"] = named_features.in_coordinates(only, moves).w
        gates["moves alone"] = only.log_factor >= math.log(BAYES_FACTOR_NEEDED)
        gates["regression"] = found.log_factor >= math.log(BAYES_FACTOR_NEEDED)
    g = voters.truth(world)
    best = math.sqrt(max(float(g[0] @ np.linalg.solve(F, g[1])), 1e-12))
    mean = (g[0] + g[1]) / 2
    ways_["truth"] = mean
    shares = {
        k: float(mean @ d / math.sqrt(max(d @ world.fisher @ d, 1e-30)) / best)
        for k, d in ways_.items()
    }
    return {
        "space": world.name, "case": name, "seed": seed, "shares": shares,
        "gates": {k: bool(g) for k, g in gates.items()}, "best": best,
        "squares": [float(np.mean((y - 0.5) ** 2)), float(np.mean((y - p) ** 2))],
        "differ": voters.differ, "beta": voters.beta,
        "moved": {
            k: world.move(ways_[k], voters.read)
            for k in MOVED
            if seed < MOVED_SEEDS and case.rows == 1 and k in ways_
        },
    }  # fmt: skip


def tiny(kept: str, *runs: str) -> None:
    """All cells of the runs that are not there yet."""
    path = Path(kept)
    lines = path.read_text().splitlines() if path.exists() else []
    done = {(c["space"], c["case"], c["seed"]) for c in map(json.loads, lines)}
    for world in (World(Path(run)) for run in runs):
        for (name, case), seed in itertools.product(CASES.items(), SEEDS):
            if (world.name, name, seed) not in done:
                found = cell(world, name, world.voters(case), seed)
                with path.open("a") as file:
                    file.write(json.dumps(found) + "\n")


def table(path: str) -> None:
    """Mean and standard error of the shares over seeds, open gates, what moved at 1 nat."""
    cells: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for each in map(json.loads, Path(path).read_text().splitlines()):
        cells[each["space"], each["case"]].append(each)
    for (space, case), own in cells.items():
        print(f"{space}; {case} ({len(own)} seeds)")
        for way in own[0]["shares"]:
            found = [each["shares"][way] for each in own]
            error = np.std(found, ddof=1) / math.sqrt(len(found)) if len(found) > 1 else math.nan
            moved = " ".join(
                f"{gain:+.3f} at {nats:.1f}"
                for gain, nats in (each["moved"][way] for each in own if way in each["moved"])
            )
            gate = sum(each["gates"].get(way, False) for each in own)
            print(f"  {way:16} {np.mean(found):+.2f} ± {error:.2f}; gates {gate}; moved {moved}")
        left = np.mean([each["squares"][1] / each["squares"][0] for each in own])
        print(f"  squares left by the taste {left:.2f}")


def linear() -> None:
    """Bias and variance where answers are Gaussian around θ and the liking is linear in them."""
    dim, mu, count, seeds_ = 6, 0.4, 200, 400
    rng = np.random.default_rng(1)
    w = np.array([1.0, 0, 0, 1.0, 0, 0])
    grid = rng.normal(size=(400_000, dim)) * math.sqrt(2 + 4 * mu * mu)
    low, high = 0.1, 20.0
    for _ in range(40):
        beta = (low + high) / 2
        p = special.expit(beta * grid @ w)
        low, high = (low, beta) if np.mean(p**2 + (1 - p) ** 2) > 0.7 else (beta, high)

    def truth(weights: Floats) -> Floats:  # E[(σ(u) − ½) v] / (2μ) = w E[σ'(u)], by Stein
        slope = special.expit(grid @ weights)
        return weights * float(np.mean(slope * (1 - slope)))

    g = truth(beta * w)
    print(f"beta {beta:.2f}, E[p(1 − p)] {np.mean(p * (1 - p)):.3f}")
    tastes = {"none": 0 * w, "half": beta * w * (np.arange(dim) < 3), "wrong": -beta * w,
              "true": beta * w}  # fmt: skip
    for name, s in tastes.items():
        found = []
        for _ in range(seeds_):
            v = rng.normal(size=(count, dim))
            gap = 2 * mu * v + rng.normal(size=(count, dim)) * math.sqrt(2)
            y = rng.random(count) < special.expit(beta * gap @ w)
            found.append(truth(s) + ((y - special.expit(gap @ s)) @ v) / (2 * mu * count))
        error = np.array(found) - g
        bias = error.mean(0) / (error.std(0) / math.sqrt(seeds_))
        total = (error**2).mean(0).sum()
        print(f"{name:6} bias in standard errors {np.round(bias, 1)}; variance {total:.4f}")


if __name__ == "__main__":
    what, *given = sys.argv[1:]
    {"linear": linear, "tiny": tiny, "table": table}[what](*given)
