"""`szpo bench track`: a proxy reward (checkpoints) that can be hacked, and the goal (progress).

The panel sees the true return and votes for the drive with more progress. The reward model sees
all or some features of a drive. Their Bradley-Terry weights are fitted to the votes, and PPO-clip
improves the driver on the reward that the weights give to each move.

A car on a ring of cells drives forward, drives back, or waits. The true reward is progress, in
laps. The proxy counts how often a line between two cells is crossed, in either direction. Among
ordinary drives those that pass more checkpoints also make more progress. But driving back and
forth over one line passes most and gets nowhere, as in the boat race of Clark and Amodei (2016).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from szpo.types import Floats, Ints
from szpo_simulators.bench_study import (
    Study,
    bench,
    by_label,
    draw_curve,
    format_interval,
    interval,
)
from szpo_simulators.worlds import rivals
from szpo_simulators.worlds.world import (
    Reals,
    Uniforms,
    calibrate_panel,
    count_plus,
    draw_coins,
    draws,
    settings_for,
    train,
)

MOVES = ("forward", "back", "wait")
_STEPS = np.array([1, -1, 0])
FEATURES = ("progress", "checkpoints")
"""Features of a drive: laps of progress, lines crossed."""

BUDGETS = (12, 32, 100, 300, 1000, 3000)
"""Numbers of votes; each vote is on one pair of drives, so two drives are read per vote."""
N, MU = 4, 1.0
ALPHAS, RATES = (0.06, 0.2, 0.6, 2.0), (0.01, 0.03, 0.1, 0.3)
BATCHES = 40
MODEL, LIMITED, SZPO, COUNTING = (
    "PPO, model sees all",
    "PPO, model sees checkpoints",
    "SZPO, panel sees progress",
    "SZPO, panel counts checkpoints",
)
RIDGE = 1e-3


@dataclass(frozen=True)
class Track:
    """A `World`: H moves on the ring, softmax over three moves in each cell, d = 3 · cells.

    ``seen`` is the feature that the return counts. A move slips with probability ``slip``: it
    becomes any of the three. ``start`` has the probabilities of the untrained driver's moves, the
    same in every cell: mostly it waits. A walk starts in the middle of the first section and uses
    2·H uniform numbers: first for its choices, then for its slips.
    """

    seen: Literal["progress", "checkpoints"] = "progress"
    cells: int = 12
    lines: int = 4
    horizon: int = 24
    slip: float = 0.05
    start: tuple[float, float, float] = (0.4, 0.05, 0.55)

    @property
    def dim(self) -> int:
        """Number of parameters d: one logit per cell and move."""
        return 3 * self.cells

    @property
    def width(self) -> int:
        """Uniform numbers of a walk: one for the choice and one for the slip of each move."""
        return 2 * self.horizon

    @property
    def section(self) -> int:
        """Number of cells between two lines."""
        return self.cells // self.lines

    @property
    def first(self) -> int:
        """The cell in which a walk starts."""
        return self.section // 2

    @cached_property
    def theta0(self) -> Floats:
        """Parameters (d,) of the untrained driver."""
        return np.tile(np.log(self.start), self.cells)

    @cached_property
    def landing(self) -> NDArray[np.int64]:
        """The cell (cells, 3) in which each executed move ends."""
        after: NDArray[np.int64] = (np.arange(self.cells)[:, None] + _STEPS) % self.cells
        return after

    @cached_property
    def features(self) -> Floats:
        """`FEATURES` (cells, 3, 2) of a move executed in a cell; each section ends at a line."""
        place = np.arange(self.cells) % self.section
        crossed = np.stack([place == self.section - 1, place == 0, np.zeros_like(place)], axis=1)
        progress = np.broadcast_to(_STEPS / self.cells, crossed.shape)
        return np.stack([progress, crossed.astype(np.float64)], axis=-1)

    @property
    def rewards(self) -> Floats:
        """The reward (cells, 3) of a move executed in a cell."""
        return np.asarray(self.features[..., FEATURES.index(self.seen)])

    def action_probabilities(self, theta: Reals) -> Floats:
        """π(move | cell) of the policies θ (S, d): (S, cells, 3)."""
        logits = np.asarray(theta, dtype=np.float64).reshape(len(theta), self.cells, 3)
        return np.asarray(softmax(logits, axis=-1))

    def value(self, theta: Reals) -> Floats:
        """Exact expected return (S,)."""
        return self.worth(theta, self.rewards)

    def worth(self, theta: Reals, rewards: Floats) -> Floats:
        """Exact expected sum (S,) of any rewards (cells, 3), or (S, cells, 3), over a walk."""
        executed = (1 - self.slip) * self.action_probabilities(theta) + self.slip / 3
        ahead = np.zeros(executed.shape[:2])
        for _ in range(self.horizon):
            ahead = (executed * (rewards + ahead[:, self.landing])).sum(-1)
        return np.asarray(ahead[:, self.first])

    def optimum(self) -> float:
        """The best expected return of any policy, even one that sees the time."""
        ahead = np.zeros(self.cells)
        for _ in range(self.horizon):
            after = self.rewards + ahead[self.landing]
            ahead = (1 - self.slip) * after.max(-1) + self.slip * after.mean(-1)
        return float(ahead[self.first])

    def returns(self, theta: Reals, u: Uniforms) -> Floats:
        """Returns (S, n) of walks."""
        return np.asarray(self.walks(theta, u)[2].sum(-1))

    def walks(
        self, theta: Reals, u: Uniforms
    ) -> tuple[NDArray[np.int16], NDArray[np.int8], Floats]:
        """The walks of policies θ (S, d).

        Returns cells (S, n, H + 1), and of each move (S, n, H) the index in `MOVES` that was
        chosen, and the reward of the executed one.
        """
        edges = self.action_probabilities(theta).cumsum(-1)[..., :2]
        lead, horizon = u.shape[:2], self.horizon
        run = np.arange(lead[0])[:, None]
        slipped = u[:, :, horizon:] < self.slip
        turned = np.minimum(u[:, :, horizon:] * (3 / max(self.slip, 1e-9)), 2).astype(np.int64)
        states = np.full((*lead, horizon + 1), self.first, np.int16)
        actions, rewards = np.zeros((*lead, horizon), np.int8), np.zeros((*lead, horizon))
        cell = np.full(lead, self.first)
        for t in range(horizon):
            choice = (u[:, :, t, None] >= edges[run, cell]).sum(-1)
            made = np.where(slipped[:, :, t], turned[:, :, t], choice)
            actions[:, :, t], rewards[:, :, t] = choice, self.rewards[cell, made]
            cell = self.landing[cell, made]
            states[:, :, t + 1] = cell
        return states, actions, rewards

    def move_features(self, states: NDArray[np.integer]) -> Floats:
        """`FEATURES` (..., H, 2) of each move of walks whose cells are (..., H + 1)."""
        before = states[..., :-1].astype(np.int64)
        ahead = (states[..., 1:] - before) % self.cells
        made = np.select([ahead == 1, ahead == 0], [0, 2], 1)
        return np.asarray(self.features[before, made])


TRUTH, PROXY = Track("progress"), Track("checkpoints")
"""The same world with laps of progress and with checkpoints passed as the return."""


@bench("track")
def main(study: Study) -> dict[str, Any]:
    """A proxy that can be hacked: reward models that see all or some features, and SZPO."""
    budgets = BUDGETS[1:4] if study.quick else BUDGETS
    # β is fitted to single drives of the untrained driver, for each panel's feature.
    beta = {str(world.seen): calibrate_panel(world, 1) for world in (TRUTH, PROXY)}
    trials, repetitions = (4, 20) if study.quick else (20, 100)
    first, end = (2, 3) if study.quick else (0, 4)
    alphas = [{"alpha": x} for x in ALPHAS[first:end]]
    rates = [{"rate": x} for x in RATES[first:end]]
    ours = [
        {"label": label, "sees": seen, "beta": beta[seen].beta, "budgets": list(budgets)}
        for label, seen in ((SZPO, "progress"), (COUNTING, "checkpoints"))
    ]
    theirs = [
        {"label": label, "eyes": list(eyes), "beta": beta["progress"].beta, "votes": votes}
        for label, eyes in ((MODEL, FEATURES), (LIMITED, FEATURES[1:]))
        for votes in budgets
    ]
    often = {"trials": trials, "repetitions": repetitions}
    direct = study.tune("SZPO", ours, run_szpo, [alphas] * len(ours), **often)
    modelled = study.tune(
        "reward models", theirs, run_reward_model, [rates] * len(theirs), **often
    )
    rows = [
        {"label": row["label"], "votes": votes, "answers": 2 * votes, **ends}
        for row in direct
        for votes, ends in zip(row["budgets"], row["ends"], strict=True)
    ] + [
        {"label": row["label"], "votes": row["votes"], "answers": 2 * row["votes"], **row["ends"]}
        for row in modelled
    ]
    untrained = TRUTH.theta0[None]
    bounds: dict[str, tuple[float, float]] = {
        track.seen: (float(track.value(untrained)[0]), track.optimum()) for track in (TRUTH, PROXY)
    }
    study.console.print(
        "; ".join(
            f"{seen}: untrained {low:.2f}, best {best:.2f}, panel {beta[seen]}"
            for seen, (low, best) in bounds.items()
        )
    )
    for seen in FEATURES:
        lines = [
            {"method": label, **{f"{row['votes']:,}": format_interval(row[seen]) for row in of}}
            for label, of in by_label(rows)
        ]
        heads = {head: head for head in lines[0]}
        study.table(f"{seen} by votes, exact, {repetitions} seeds", lines, heads)
    chosen = {(row["label"], _format_step(row), row["edge"]): row for row in (*direct, *modelled)}
    study.table(
        "chosen on seeds of their own, each by the reward that it can see",
        list(chosen.values()),
        {"method": "label", "step": _format_step, "edge of the grid": "edge"},
    )
    flat = [
        {
            **{name: row[name] for name in ("label", "votes", "answers")},
            **{f"{seen} {end}": row[seen][end] for seen in FEATURES for end in row[seen]},
        }
        for row in rows
    ]
    study.csv("track", flat)
    _draw(study, rows, modelled, bounds)
    study.end()
    return {"rows": flat, "bounds": bounds}


def value_intervals(theta: Reals) -> dict[str, dict[str, float]]:
    """Exact progress and checkpoints of policies (S, d), with intervals over seeds."""
    return {track.seen: interval(track.value(theta).tolist()) for track in (TRUTH, PROXY)}


def run_szpo(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Run SZPO (known, antithetic, N = 4, D = M = 1) on votes of a panel that sees one feature."""
    track = TRUTH if spec["sees"] == "progress" else PROXY
    marks = [votes // N for votes in spec["budgets"]]
    chosen = settings_for(track, rule="known", N=N, mu=MU, alpha=spec["alpha"])
    runs = train(track, chosen, spec["seeds"], marks[-1], marks=marks, sharpness=spec["beta"])
    return {
        "values": runs.final.tolist(),
        "ends": [value_intervals(runs.trail[:, i]) for i in range(len(marks))],
    }


def run_reward_model(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Fit a reward model to votes on untrained drives, then run PPO on it; scored by the model."""
    seeds = spec["seeds"]
    w = fit_weights(seeds, spec["votes"], spec["eyes"], spec["beta"])
    how = rivals.PpoRecipe(BATCHES, rate=spec["rate"])
    trail = list(islice(train_ppo(w, seeds, how), BATCHES + 1))
    believed = TRUTH.worth(trail[-1], np.einsum("cmf,sf->scm", TRUTH.features, w))
    return {
        "values": believed.tolist(),
        "ends": value_intervals(trail[-1]),
        "practice": [value_intervals(at) for at in trail],
    }


def _format_step(row: Mapping[str, Any]) -> str:
    return f"α = {row['alpha']:g}" if "alpha" in row else f"PPO rate {row['rate']:g}"


def _draw(
    study: Study,
    rows: Sequence[Mapping[str, Any]],
    modelled: Sequence[Mapping[str, Any]],
    bounds: Mapping[str, tuple[float, float]],
) -> None:
    names = {"progress": "meant: laps made good", "checkpoints": "counted: checkpoints passed"}
    with study.figure("track", columns=2, height=3.9) as axes:
        for here, seen in zip(axes, FEATURES, strict=True):
            for label, of in by_label(rows):
                draw_curve(here, [row["votes"] for row in of], [row[seen] for row in of], label)
            for height, word in zip(bounds[seen], ("untrained", "best"), strict=True):
                here.axhline(height, color="#777777", linewidth=0.9, linestyle="--")
                here.annotate(
                    word, (1, height), xycoords=("axes fraction", "data"), xytext=(-2, 2),
                    textcoords="offset points", ha="right", fontsize=8, color="#555555",
                )  # fmt: skip
            here.set(xscale="log", xlabel="votes", ylabel=names[seen])
            here.set_ylim(0, 1.1 * bounds[seen][1])
            spent = list(dict.fromkeys(row["votes"] for row in rows))
            here.set_xticks(spent, [f"{votes:,}" for votes in spent])
            above = here.secondary_xaxis("top", functions=(lambda x: 2 * x, lambda x: x / 2))
            above.set_xlabel("answers read", fontsize=8.5)
            above.set_xticks([2 * v for v in spent], [f"{2 * v:,}" for v in spent])
            for axis in (here, above):
                axis.minorticks_off()
        axes[0].figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8.5
        )
    believed = [row for row in modelled if row["label"] == LIMITED][-1]
    with study.figure("track-practice", height=3.4) as here:
        for seen in FEATURES:
            best = bounds[seen][1]
            line = [
                {end: 100 * value / best for end, value in at[seen].items()}
                for at in believed["practice"]
            ]
            draw_curve(here, range(len(line)), line, names[seen], marker="")
        here.set(xlabel="batches of PPO on the learned reward", ylabel="% of the best possible")
        here.set_ylim(0, 110)
        here.set_title(f"PPO, model sees checkpoints, {believed['votes']:,} votes", fontsize=9.5)
        here.legend(fontsize=8.5)


def fit_weights(
    root_seeds: Sequence[int], votes: int, eyes: Sequence[str], sharpness: float
) -> Floats:
    """Fitted weights (S, features) from one vote on each of ``votes`` pairs of untrained drives.

    Features outside ``eyes`` have weight 0. Drives and votes come from each repetition's root
    seed: they do not depend on ``eyes``, and fewer votes are the first ones of more votes.
    """
    theta = np.tile(TRUTH.theta0, (len(root_seeds), 1))
    states, _, rewards = TRUTH.walks(theta, draws(TRUTH, root_seeds, 0, 0, 2 * votes, "pairs"))
    pairs = (len(root_seeds), votes, 2)
    gap = np.diff(rewards.sum(-1).reshape(pairs))[..., 0]
    won = count_plus(gap, sharpness, draw_coins(root_seeds, 0, (votes, 1))[0])
    visible = [FEATURES.index(name) for name in eyes]
    seen = TRUTH.move_features(states).sum(2)[..., visible].reshape(*pairs, len(visible))
    x = seen[:, :, 1] - seen[:, :, 0]
    spread = x.std(1) + 1e-12  # so that the ridge is equally strong for laps and counts
    found = np.zeros((len(root_seeds), len(FEATURES)))
    found[:, visible] = rivals.fit_reward(x / spread[:, None], won, RIDGE) / spread
    return found


def train_ppo(w: Floats, root_seeds: Sequence[int], how: rivals.PpoRecipe) -> Iterator[Floats]:
    """`rivals.iterate` on the reward of weights (S, features): θ (S, d), without end.

    It uses no votes and no true reward.
    """

    def sample(theta: Floats, batch: int) -> tuple[Ints, Floats]:
        u = draws(TRUTH, root_seeds, batch, 0, how.walks, "practice")
        states, actions, _ = TRUTH.walks(theta, u)
        cells = states[:, :, :-1].astype(np.int64)
        rewards = np.einsum("snhf,sf->snh", TRUTH.move_features(states), w)
        return cells * len(MOVES) + actions, rewards

    theta = np.tile(TRUTH.theta0, (len(root_seeds), 1))
    return rivals.iterate(theta, sample, how, moves=len(MOVES))
