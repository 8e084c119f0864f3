"""`szpo bench weighting`: votes saved by weights of voters learned from 20, 50 and 100 votes each.

Votes are drawn from the model itself, P(plus) = σ(β_j x), so that the best weights are known (β)
and learned ones can be compared with them. Panels: log β that spreads, equal β (what learning
costs), and hostile members. *All* answer each comparison, or *one* does. Then whole runs of the
small policy with none, one and two hostile members of seven.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from szpo.aggregation import registry
from szpo.aggregation.weighting import History
from szpo.optim import weighted_votes
from szpo.seeds import derive
from szpo.types import Floats
from szpo_simulators.bench.voters import hostile
from szpo_simulators.rewards import heldout
from szpo_simulators.study import (
    REPORTED,
    Spec,
    Study,
    bench,
    draw_curve,
    format_interval,
    interval,
    make_generator,
    put_legend_below,
    seed_range,
    set_log_ticks,
)

SPREAD: Final = 0.7
"""Of log β among voters: the best weights then need exp(.49) = 1.63 times fewer votes."""
EACH: Final = (20, 50, 100)
"""Votes of each voter from which weights are learned."""
PANELS: Final = (("uneven", 20), ("uneven", 7), ("alike", 7), ("hostile", 7))
HOSTILE: Final = 2
N: Final = 8
"""Comparisons of a direction where each has one vote."""
CHUNK: Final = 20


def draw_sharpness(kind: str, panels: int, voters: int, rng: np.random.Generator) -> Floats:
    """β of each voter (panels, voters)."""
    if kind == "uneven":
        return np.exp(SPREAD * rng.normal(size=(panels, voters)))
    beta = np.ones((panels, voters))
    if kind == "hostile":
        beta[:, -HOSTILE:] = -1.0
    return beta


def draw_history(beta: Floats, each: int, *, answered: str, rng: np.random.Generator) -> History:
    """A history in which each voter has given ``each`` votes; x ~ N(0, 1) in logits of β = 1.

    ``answered`` all: every direction is one comparison with a vote of each voter; one: directions
    of `N` comparisons with one vote each, in turns.
    """
    panels, voters = beta.shape
    rows = each if answered == "all" else -(-each * voters // N)
    x = rng.normal(size=(panels, rows))
    places = 1 if answered == "all" else N
    verdicts = np.zeros((panels, voters, rows, places), dtype=np.int8)
    for r in range(rows):
        who = np.arange(voters) if answered == "all" else (r * N + np.arange(N)) % voters
        where = np.zeros(voters, dtype=np.int64) if answered == "all" else np.arange(N)
        chance = 1 / (1 + np.exp(-beta[:, who] * x[:, r, None]))
        verdicts[:, who, r, where] = np.where(rng.random(chance.shape) < chance, 1, -1)
    names = tuple(f"{i:03d}" for i in range(voters))
    return History(names, np.arange(rows), verdicts, np.zeros((panels, voters, 2)))


def simulate_known_saving(spec: Spec) -> dict[str, Any]:
    """Variance of x̂ under equal weights over that under weights β, at x = 0, by simulation.

    x̂ = 4 Σ w (o − ½)/Σ w β for votes o of many voters; interval over panels.
    """
    rng = make_generator(derive(spec["seed"], "known weights"))
    ratios = []
    for _ in range(spec["panels"]):
        beta = draw_sharpness("uneven", 1, spec["voters"], rng)[0]
        votes = (rng.random((spec["draws"], spec["voters"])) < 0.5) - 0.5
        best, equal = 4 * votes @ beta / (beta @ beta), 4 * votes.sum(-1) / beta.sum()
        ratios.append(float(equal.var() / best.var()))
    return interval(ratios)


def simulate_learned_saving(spec: Spec) -> dict[str, Any]:
    """Votes saved by learned weights against equal ones, over panels, and by the weights β.

    With hostile members the reference is equal weights of as many honest voters: a saving of 1
    makes up for the hostile members.
    """
    rng = make_generator(derive(spec["seed"], "panels", name=f"{spec['panel']}"))
    gained: list[float] = []
    best: list[float] = []
    for first in range(0, spec["panels"], CHUNK):
        size = min(CHUNK, spec["panels"] - first)
        beta = draw_sharpness(spec["panel"], size, spec["voters"], rng)
        history = draw_history(beta, spec["each"], answered=spec["answered"], rng=rng)
        weights = weighted_votes.learn_weights(spec["weighting"], history)
        scale = (np.abs(beta).sum(-1) ** 2 / beta.shape[-1])[:, None]
        for found, w in ((gained, weights), (best, beta)):
            merit = (w * beta).sum(-1) ** 2 / np.maximum((w**2).sum(-1), 1e-300)
            found += (merit / scale[:, 0]).tolist()
    return {**interval(gained), "best": float(np.mean(best))}


def run_seeds(spec: Spec) -> dict[str, Any]:
    """Gains of runs of the small policy, one per seed (`szpo bench hostile`'s second part)."""
    case = hostile.Case(spec["beta"], spec["hostile"], spec["mu"], spec["weighting"])
    return {"values": hostile.measure_gains(case, spec["seeds"], lambda done: None).tolist()}


def run_cells(study: Study) -> list[dict[str, Any]]:
    """By hostile members and weighting: share of the honest gain, and difference to skill."""
    used = seed_range(10 if study.quick else 100)
    beta = hostile.calibrate_panel().beta
    specs = [
        {"hostile": bad, "weighting": name, "beta": beta, "mu": 0.4, "seeds": used}
        for bad in (0, 1, 2)
        for name in ("equal", "skill", "rationality")
    ]
    rows = study.cells("runs", specs, run_seeds)
    by = {(row["hostile"], row["weighting"]): np.array(row["values"]) for row in rows}
    for row in rows:
        gain, honest = np.array(row["values"]), by[0, "equal"]
        share, low, high = hostile.retained_share(gain, honest)
        mean, least, most = heldout.student((gain - by[row["hostile"], "skill"]).tolist())
        row |= {**interval(row["values"]), "kept": share, "kept_low": low, "kept_high": high,
                "to_skill": mean, "to_skill_low": least, "to_skill_high": most}  # fmt: skip
    return rows


def share_of_best(row: dict[str, Any]) -> str:
    """(saving − 1) over (best saving − 1); empty where there is nothing to save."""
    if row["best"] < 1.01:
        return ""
    return f"{(row['mean'] - 1) / (row['best'] - 1):.0%}"


@bench("weighting")
def main(study: Study) -> dict[str, Any]:
    """Votes saved by weights learned from 20, 50 and 100 votes each; hostile members."""
    panels = 20 if study.quick else 200
    ideal = study.cells(
        "known β",
        [{"voters": 500, "draws": 2000, "panels": 10 if study.quick else 50, "seed": REPORTED}],
        simulate_known_saving,
    )
    specs = [
        {"panel": kind, "voters": voters, "each": each, "answered": answered, "weighting": name,
         "panels": panels, "seed": REPORTED}
        for kind, voters in PANELS
        for answered in ("all", "one")
        for name in registry.LEARNED
        for each in EACH
        if not (name == "dawid-skene" and answered == "one")
    ]  # fmt: skip
    saved = study.cells("learnt", specs, simulate_learned_saving)
    gained = run_cells(study)
    study.table("variance saved by weights β known beforehand, 500 voters", ideal,
                {"log β spread": lambda r: f"{SPREAD:g}", "saved": format_interval})  # fmt: skip
    study.table(
        "votes saved by learned weights, times (1: as equal weights of as many honest voters)",
        saved,
        {"panel": "panel", "voters": "voters", "a comparison is answered by": "answered",
         "weights": "weighting", "votes each": "each", "saved": lambda r: format_interval(r, 3),
         "best": "best", "of the best": share_of_best},
    )  # fmt: skip
    study.table(
        f"gain of the small policy after {hostile.VOTES} votes, P = 7, M = 1", gained,
        {"hostile": "hostile", "weights": "weighting", "gain": lambda r: format_interval(r, 3),
         "of the honest gain": lambda r: f"{r['kept']:.1%} [{r['kept_low']:.1%}, "
                                         f"{r['kept_high']:.1%}]",
         "less skill's": lambda r: f"{r['to_skill']:+.3f} [{r['to_skill_low']:+.3f}, "
                                   f"{r['to_skill_high']:+.3f}]"},
    )  # fmt: skip
    for part, rows in (("known", ideal), ("learnt", saved), ("runs", gained)):
        study.csv(part, rows)
    with study.figure("weighting", columns=2, height=3.9) as axes:
        for axis, answered in zip(axes, ("all", "one"), strict=True):
            for name in registry.LEARNED:
                some = [
                    row for row in saved
                    if (row["panel"], row["voters"]) == PANELS[0]
                    and (row["answered"], row["weighting"]) == (answered, name)
                ]  # fmt: skip
                if some:
                    draw_curve(axis, EACH, some, name)
            best = next(row["best"] for row in saved if (row["panel"], row["voters"]) == PANELS[0])
            axis.axhline(best, color="black", lw=0.8, ls="--", label="β known")
            axis.axhline(1.0, color="#888888", lw=0.8, ls=":", label="equal")
            set_log_ticks(axis, EACH)
            axis.set(xlabel="votes of each voter", ylabel="votes saved, times",
                     title=f"20 voters, {answered} to a comparison")  # fmt: skip
            put_legend_below(axis)
    study.end()
    return {"known": ideal, "learnt": saved, "runs": gained}
