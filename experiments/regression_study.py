"""Which details of the regression of all votes gain most per vote and per nat, and are honest?

Question: prior widths, which coordinates carry the taste, the gate against chance, the length of
the step, the curvature of the forecast, forgetting and the warm start of `vote_regression`.

Set-up: surrogates in whitened score coordinates, value V(z) in units of reward, KL = |z|²/2 nats.
A step asks K = 8 orthonormal directions ± 3 around a centre that moves by at most 1 towards the
recommendation, one vote each; batches of D = 8 texts whose luck has a part that the score features
of the shown texts see (``share`` of it enters x) and one that they do not. Logistic people with
β = 11 and rewards of spread .38. The recommendation lies on .9 of the budget of 3, 4 and 8 nats at
60, 120 and 240 votes. Worlds: linear; curved (−.02|z|²); saturating; ridge; anisotropic; lapses
(linear, 10 % of votes by chance); curved and lapses; half sensitivity (curved); null (coin flips).

Command: python experiments/regression_study.py PART
Found: see experiments/LOG.md, 2026-11-21.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
from regression_surrogates import (
    BETA,
    LOOKS,
    SPREAD,
    UNPROVEN,
    Length,
    Look,
    Setting,
    World,
    budget,
    by_bayes,
    simulate,
    world,
)
from scipy import special

from szpo.optim import vote_forecast, vote_regression
from szpo.optim.vote_regression import Fit, Prior, Votes, fit
from szpo.types import Floats
from szpo_simulators.study import describe_machine


def interval(values: Any) -> str:
    """Mean ± 1.96 standard errors."""
    values = np.asarray(values, dtype=float)
    return f"{values.mean():.3f} ± {1.96 * values.std(ddof=1) / math.sqrt(len(values)):.3f}"


def describe(gain: Floats, kl: Floats) -> str:
    return f"{interval(gain)} ({kl.mean():.1f})"


def soften(power: float, gate: float = vote_regression.EVIDENCE) -> Length:
    """The rule's length with another power of the certainty and another Bayes factor to pass."""

    def length(found: Fit, evidence: Floats, unproven: Any) -> Floats:
        square = (found.w**2).sum(-1)
        trace = np.trace(found.covariance, axis1=-2, axis2=-1)
        certainty = np.sqrt(square / (square + trace)) ** power
        passed = np.maximum(found.log_factor, evidence) >= math.log(gate)
        certainty = certainty * np.where(passed, 1.0, vote_regression.WITHOUT_EVIDENCE)
        return np.asarray((certainty / np.sqrt(square))[:, None] * found.w)

    return length


def soft_probability(found: Fit, evidence: Floats, unproven: Any) -> Floats:
    """The length times the probability of a signal, whose prior probability is a half."""
    square = (found.w**2).sum(-1)
    trace = np.trace(found.covariance, axis1=-2, axis2=-1)
    length = special.expit(found.log_factor) / np.sqrt(square + trace)
    return np.asarray(length[:, None] * found.w)


def table(name: str, places: dict[str, World], setting: Setting, seed: int) -> None:
    for kind, place in places.items():
        found, ever = simulate(place, setting, seed)
        cells = [
            f"{n}: {describe(look.gain, look.kl)}, tenth {np.quantile(look.gain, 0.1):.3f},"
            f" cos {look.cosine.mean():.2f}, shown {open_share(look):.2f}"
            for n, look in found.items()
        ]
        if kind == "null":
            cells = [f"{(ever >= 0.2).sum()} of {len(ever)} ever stood .2 nats from the start"]
        print(f"{name} | {kind} | {' | '.join(cells)}", flush=True)


def open_share(look: Look) -> float:
    return float((look.evidence >= math.log(vote_regression.EVIDENCE)).mean())


def tables(runs: int) -> None:
    """Gains of `bayes` and of the frozen setting at d = 8."""
    kinds = (
        "linear", "curved", "saturating", "ridge", "anisotropic", "lapses", "curved lapses",
        "half", "null",
    )  # fmt: skip
    places = {kind: world(kind, 200 if kind == "null" else runs) for kind in kinds}
    for kind in ("linear", "curved", "saturating", "ridge", "anisotropic", "lapses", "half"):
        found = by_bayes(places[kind], min(runs, 60))
        cells = [f"{n}: {describe(*found[n])}" for n in LOOKS]
        print(f"bayes | {kind} | {' | '.join(cells)}", flush=True)
    for share in (0.0, 0.5):
        table(f"frozen, share {share}", places, Setting(Prior.blocks(8), share), 201)


def rivals(runs: int) -> None:
    """Other lengths, gates and widths than the frozen ones."""
    kinds = ("linear", "curved", "half", "null")
    some = {kind: world(kind, 200 if kind == "null" else runs) for kind in kinds}
    lengths = {
        "no gate": soften(0.5, 1e-9), "no gate, power 1": soften(1, 1e-9),
        "no gate, power 0": soften(0, 1e-9), "gate 9, power 1": soften(1),
        "gate 9, power 0": soften(0), "gate 3": soften(0.5, 3), "gate 20": soften(0.5, 20),
        "soft probability": soft_probability,
    }  # fmt: skip
    for name, length in lengths.items():
        table(name, some, Setting(Prior.blocks(8), 0.0, length), 202)
    for widths in ((1.0,), (4.0,), (16.0,), (64.0,)):
        prior = replace(Prior.blocks(8), widths=widths)
        table(f"widths {widths}", some, Setting(prior), 203)


def radii(runs: int) -> None:
    """Other radii at which is asked, and how far a run goes before it has evidence."""
    kinds = ("linear", "curved", "half", "null")
    some = {kind: world(kind, 200 if kind == "null" else runs) for kind in kinds}
    for radius in (1.8, 2.4, 3.0):
        for share in (0.0, 0.5):
            for unproven in (None, UNPROVEN):
                setting = Setting(Prior.blocks(8), share, radius=radius, unproven=unproven)
                table(f"± {radius}, share {share}, unproven {unproven}", some, setting, 208)


def dimensions(runs: int) -> None:
    """Priors and share of the score features where coordinates are many."""
    for dim in (8, 16, 32, 64):
        for share in (0.0, 0.5, 1.0):
            for prior in ("blocks", "flat", "falling"):
                for taste in ("sentiment", "comma"):
                    place = {taste: world("curved", runs, dim, taste)}
                    setting = Setting(getattr(Prior, prior)(dim), share)
                    table(f"d {dim}, {prior}, share {share}", place, setting, 204)


def one_run(votes: Votes, run: int) -> Votes:
    side, bend = votes.side, votes.bend
    assert side is not None and bend is not None
    return Votes(votes.x[run], votes.up[run], votes.down[run], votes.steps, side[run], bend[run])


def forecasts(runs: int) -> None:
    """Coverage of the intervals of the win rate, now and after more votes, on new seeds."""
    prior = Prior.blocks(8)
    for share in (0.0, 0.5):
        for kind in ("linear", "curved", "lapses", "half", "saturating", "null"):
            place = world(kind, runs, seed=6)
            found, _ = simulate(place, Setting(prior, share), 205)
            cells = []
            for n in (56, 120, 240):
                look, truth = found[n], place.win_rate(found[n].gain)
                rate = vote_forecast.gain(fit(look.votes, prior), look.point).rate()
                inside = (rate.low - 1e-9 <= truth) & (truth <= rate.high + 1e-9)
                width = (rate.high - rate.low).mean()
                cells.append(
                    f"{n}: {inside.mean():.3f}, rate {rate.value.mean():.3f} true"
                    f" {truth.mean():.3f}, width {width:.2f}"
                )
            print(f"intervals, share {share} | {kind} | {' | '.join(cells)}", flush=True)
    outlooks(prior, runs // 2)


def outlooks(prior: Prior, runs: int) -> None:
    """What was predicted for 24, 40 and 80 votes later, beside what came."""
    for kind in ("linear", "curved", "lapses"):
        place = world(kind, runs, seed=7)
        looks = (56, 80, 96, 120, 136, 160, 200)
        found, _ = simulate(place, Setting(prior, 0.5), 206, looks)
        for n, more in ((56, 24), (56, 40), (56, 80), (120, 40), (120, 80)):
            now, later = found[n], found[n + more]
            truth, inside, rates, kls, kl_inside = place.win_rate(later.gain), [], [], [], []
            for run in range(runs):
                votes = one_run(now.votes, run)
                fits = fit(replace(votes, bend=None), prior), fit(votes, prior)
                at = vote_forecast.Standing(
                    now.centre[run], now.point[run], float(now.evidence[run])
                )
                seen = vote_forecast.outlook(fits, at, more, math.sqrt(1.8 * budget(n + more)))
                rate = seen.gain.rate()
                inside.append(rate.low <= truth[run] <= rate.high)
                kl_inside.append(seen.kl.low - 0.02 <= later.kl[run] <= seen.kl.high + 0.02)
                rates.append(float(rate.value))
                kls.append(float(seen.kl.value))
            print(
                f"outlook {n} + {more} | {kind} | rate {np.mean(rates):.3f} true"
                f" {truth.mean():.3f}, inside {np.mean(inside):.2f} | KL {np.mean(kls):.2f} true"
                f" {later.kl.mean():.2f}, inside {np.mean(kl_inside):.2f}",
                flush=True,
            )


def forget(runs: int) -> None:
    """False alarms of the drift score at any look from vote 64 on, and its power."""
    prior, every = Prior.blocks(8), tuple(range(64, 241, 8))
    for kind in ("linear", "curved"):
        found, _ = simulate(world(kind, runs, seed=8), Setting(prior, 0.5), 207, every)
        seen = np.array([vote_forecast.drift(look.votes, prior) for look in found.values()])
        alarms = (seen.max(0) > vote_forecast.DRIFT).sum()
        print(f"drift | {kind} | {alarms} of {runs} false alarms", flush=True)
        looks = (88, 96, 104, 112, 120, 136, 160, 200, 240)
        found, _ = simulate(world(kind, runs, seed=8), Setting(prior, 0.5), 208, looks, turn=80)
        seen = np.array([vote_forecast.drift(look.votes, prior) for look in found.values()])
        power = (np.maximum.accumulate(seen, 0) > vote_forecast.DRIFT).mean(1)
        seen_by = dict(zip(looks, power.round(2).tolist(), strict=True))
        print(f"drift | {kind}, turned at 80 | {seen_by}", flush=True)


def warm(runs: int) -> None:
    """Votes that preference pairs save or lose: when the gain at 56 and 120 votes is reached."""
    looks = tuple(range(8, 241, 8))
    plain, rng = Prior.flat(8), np.random.default_rng(9)
    place = world("curved", runs, seed=9)
    limit = np.full(8, 2.576 * math.sqrt(2))
    cold = curve(place, plain, looks)
    for pairs in (100, 300, 1000):
        for cosine in (0.7, -1.0):
            gains = []
            for run in range(runs):
                g = place.gradient[run]
                across = rng.normal(size=8)
                across -= (across @ g) * g / (g @ g)
                across *= np.linalg.norm(g) / np.linalg.norm(across)
                taste = cosine * g + math.sqrt(1 - cosine**2) * across
                x = rng.normal(size=(pairs, 8)) * math.sqrt(2)
                noise = rng.normal(size=pairs) * math.sqrt(2 * (SPREAD**2 - g @ g))
                rate = special.expit(BETA * (x @ taste + noise))
                x *= np.where(rng.random(pairs) < rate, 1.0, -1.0)[:, None]
                prior = vote_regression.warm_start(x, limit, plain)
                one = replace(
                    place, gradient=place.gradient[[run]], bends=place.bends[[run]],
                    ridge=place.ridge[[run]],
                )  # fmt: skip
                gains.append(curve(one, prior, looks, 210 + run)[0])
            found = votes_saved(cold, np.array(gains), looks)
            print(f"warm | {pairs} pairs, cosine {cosine} | {found}", flush=True)


def curve(place: World, prior: Prior, looks: tuple[int, ...], seed: int = 0) -> Floats:
    """Gains (S, looks); each repetition from a seed of its own where none is given."""
    if seed:
        found, _ = simulate(place, Setting(prior, 0.5), seed, looks)
        return np.stack([look.gain for look in found.values()], -1)
    parts = []
    for run in range(len(place.gradient)):
        one = replace(
            place, gradient=place.gradient[[run]], bends=place.bends[[run]],
            ridge=place.ridge[[run]],
        )  # fmt: skip
        parts.append(curve(one, prior, looks, 210 + run)[0])
    return np.array(parts)


def votes_saved(cold: Floats, warm_gains: Floats, looks: tuple[int, ...]) -> str:
    """Votes earlier than without at which the mean gain reaches that of 56 and 120 votes."""
    rng, out = np.random.default_rng(10), []
    for target in (56, 120):
        draws = []
        for draw in range(401):
            rows = rng.integers(0, len(cold), len(cold)) if draw else np.arange(len(cold))
            one = np.maximum.accumulate(cold[rows].mean(0))
            other = np.maximum.accumulate(warm_gains[rows].mean(0))
            level = one[looks.index(target)]
            draws.append(target - float(np.interp(level, other, looks)))
        low, high = np.quantile(draws[1:], (0.025, 0.975))
        gap = warm_gains[:, looks.index(target)] - cold[:, looks.index(target)]
        out.append(
            f"{target}: {draws[0]:+.0f} votes [{low:+.0f}, {high:+.0f}], gain {interval(gap)}"
        )
    return " | ".join(out)


def speed(runs: int) -> None:
    """Seconds of one fit of 100,000 votes with 64 coordinates, the least of some."""
    rng, d = np.random.default_rng(11), 64
    x, w = rng.normal(size=(100_000, d)), rng.normal(size=d) / 8
    up = (rng.random(len(x)) < 1 / (1 + np.exp(-x @ w))).astype(float)
    side = rng.choice([-1.0, 1.0], len(x))
    votes = Votes(x, up, 1 - up, np.arange(len(x)) // 8, side)
    for name, prior in (("flat", Prior.flat(d)), ("blocks", Prior.blocks(d))):
        spent = []
        for _ in range(min(runs, 5)):
            began = time.perf_counter()
            found = fit(votes, prior)
            spent.append(time.perf_counter() - began)
        cosine = float(found.w @ w / np.linalg.norm(found.w) / np.linalg.norm(w))
        print(f"{name}: {min(spent):.2f} s, cosine with the truth {cosine:.4f}", flush=True)
    print(describe_machine())


def main() -> None:
    parts = {
        "tables": tables, "rivals": rivals, "radii": radii, "dimensions": dimensions,
        "forecasts": forecasts, "forget": forget, "warm": warm,
        "speed": speed,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=[*parts])
    parser.add_argument("--runs", type=int, default=200)
    given = parser.parse_args()
    parts[given.part](given.runs)


if __name__ == "__main__":
    main()
