"""`szpo bench cartpole`: votes on single episodes against gradients of the true reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from szpo.types import Floats
from szpo_simulators.study import (
    COLOURS,
    MARKS,
    Study,
    bench,
    by_label,
    draw_curve,
    format_interval,
    interval,
    seed_range,
)
from szpo_simulators.worlds import notebook, world
from szpo_simulators.worlds import repetitions as batched
from szpo_simulators.worlds.cartpole import HORIZON, NOTEBOOK, CartPole, Network
from szpo_simulators.worlds.world import LinkPanel

EPISODES = 300
"""Episodes of each run with the notebook's settings."""
AFTER = (8, 16, 32, 64, 96, 128, 192, 256)
"""Numbers of episodes at which learning curves are measured."""
NETS: Mapping[str, Network] = {"linear": Network(), "notebook's net": NOTEBOOK}
RATES = (0.003, 0.01, 0.03)
"""Learning rates of Adam that are tried for the gradient methods."""
WAYS: Mapping[str, tuple[dict[str, Any], tuple[float, ...]]] = {
    "linear": ({"rule": "known", "mu": 2.0}, (1.0, 2.0, 4.0)),
    "notebook's net": ({"rule": "sign", "mu": 0.3}, (0.03, 0.1, 0.3)),
}
"""SZPO's settings on each net, and its grid of step sizes; one vote per step."""


@bench("cartpole")
def main(study: Study) -> dict[str, Any]:
    """CartPole: SZPO against a notebook's REINFORCE and PPO, with its mistakes and repaired."""
    quick = study.quick
    episodes, each = (60, 2) if quick else (EPISODES, 5)
    specs = [
        {"label": label, "episodes": episodes, "seed": seed}
        for label in ("REINFORCE", *(f"PPO {form}" for form in notebook.FORMS))
        for seed in seed_range(each)
    ]
    written = study.cells("the notebook", specs, run_notebook)
    study.table(
        f"the notebook's settings, {episodes} episodes, {each} seeds from {seed_range(each)[0]}",
        [_summarise(label, of) for label, of in by_label(written)],
        {
            "method": "label",
            "first episode of 500 moves, by seed": "first",
            "mean of the last 20": format_interval,
        },
    )
    marks = AFTER[:5] if quick else AFTER
    beta = {rows: world.calibrate_panel(CartPole(), rows) for rows in (1, 4)}
    study.console.print(
        "; ".join(f"panel bt70 on batches of D = {D}: {one}" for D, one in beta.items())
    )
    direct: list[dict[str, Any]] = [
        {"label": f"SZPO, {net}, D = {D}", "net": net, "D": D, "beta": beta[D].beta,
         "marks": [mark for mark in marks if mark % (2 * D) == 0]}
        for net in NETS for D in beta
    ]  # fmt: skip
    gradient = [
        {"label": f"{method}, {net}", "method": method, "net": net, "marks": list(marks)}
        for net in NETS
        for method in ("REINFORCE", "PPO repaired")
    ]
    trials, repetitions = (1, 3) if quick else (3, 10)
    first, end = (1, 2) if quick else (0, 3)
    rows = [
        *study.tune(
            "SZPO", direct, run_szpo,
            [[{"alpha": x} for x in WAYS[row["net"]][1][first:end]] for row in direct],
            trials=trials, repetitions=repetitions,
        ),
        *study.tune(
            "gradients of the true reward", gradient, run_gradient_method,
            [[{"rate": x} for x in RATES[first:end]]] * len(gradient),
            trials=trials, repetitions=repetitions,
        ),
    ]  # fmt: skip
    study.table(
        f"mean length of the same {CartPole.evaluations} episodes, {repetitions} seeds",
        rows,
        {
            "method": "label",
            "step": _format_step,
            **{f"{mark} episodes": _format_at(mark) for mark in marks[3::2]},
            "votes": lambda row: row["marks"][-1] // (2 * row["D"]) if "D" in row else "none",
        },
    )
    flat = [
        {"label": row["label"], "episodes": mark,
         "votes": mark // (2 * row["D"]) if "D" in row else 0,
         "answers": mark if "D" in row else 0, **at}
        for row in rows
        for mark, at in zip(row["marks"], row["curve"], strict=True)
    ]  # fmt: skip
    study.csv("cartpole", flat)
    study.csv("cartpole-notebook", written)
    _draw(study, rows, written, episodes)
    study.end()
    return {"rows": flat}


def run_notebook(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Lengths of one seed's episodes with the notebook's net and learning rate."""
    name, _, form = spec["label"].partition(" ")
    learning = (
        notebook.reinforce(spec["seed"])
        if name == "REINFORCE"
        else notebook.ppo(spec["seed"], notebook.FORMS[form])
    )
    return {"lengths": [length for length, _ in islice(learning, spec["episodes"])]}


def run_gradient_method(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a gradient method at the marks; each seed's score is their mean."""
    net, marks = NETS[spec["net"]], spec["marks"]
    learn = notebook.reinforce if spec["method"] == "REINFORCE" else notebook.ppo
    world, found = CartPole(net), []
    for seed in spec["seeds"]:
        learning = learn(seed, rate=spec["rate"], policy=net)
        values = [
            float(world.value(learner.theta()[None])[0])
            for episode, (_, learner) in enumerate(islice(learning, marks[-1]), 1)
            if episode in marks
        ]
        found.append(values)
    return _score(np.array(found))


def run_szpo(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Values of SZPO at the marks, with one vote per step on two batches of D episodes."""
    net, D = NETS[spec["net"]], spec["D"]
    world = CartPole(net)
    marks = [mark // (2 * D) for mark in spec["marks"]]
    how = WAYS[spec["net"]][0]
    chosen = batched.settings_for(world, N=1, D=D, alpha=spec["alpha"], **how)
    runs = batched.train(
        world, chosen, spec["seeds"], marks[-1], marks=marks, panel=LinkPanel(beta=spec["beta"])
    )
    return _score(runs.curve)


def _score(curves: Floats) -> dict[str, Any]:
    """A score for each seed and an interval for each mark, from curves (S, marks)."""
    return {
        "values": curves.mean(1).tolist(),
        "curve": [interval(at) for at in curves.T.tolist()],
    }


def _summarise(label: str, of: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each seed's first episode (from 1) of 500 moves, and the mean length of the last 20."""
    runs = [row["lengths"] for row in of]
    firsts = [str(run.index(HORIZON) + 1) if HORIZON in run else "never" for run in runs]
    last = [float(np.mean(run[-20:])) for run in runs]
    return {"label": label, "first": ", ".join(firsts), **interval(last)}


def _format_step(row: Mapping[str, Any]) -> str:
    return f"{row.get('alpha', row.get('rate')):g}{' (edge)' if row['edge'] else ''}"


def _format_at(mark: int) -> Any:
    return lambda row: format_interval(row["curve"][row["marks"].index(mark)], 0)


def _draw(
    study: Study,
    rows: Sequence[Mapping[str, Any]],
    written: Sequence[Mapping[str, Any]],
    episodes: int,
) -> None:
    looks = {
        "SZPO, D = 1": {"color": COLOURS[0], "marker": MARKS[0]},
        "SZPO, D = 4": {"color": COLOURS[5], "marker": MARKS[1]},
        "REINFORCE": {"color": COLOURS[1], "marker": MARKS[2]},
        "PPO repaired": {"color": COLOURS[2], "marker": MARKS[3]},
    }
    with study.figure("cartpole", columns=3, height=3.9) as axes:
        for row in rows:
            name = f"SZPO, D = {row['D']}" if "D" in row else row["method"]
            index = list(NETS).index(row["net"])
            draw_curve(axes[index], row["marks"], row["curve"], name, **looks[name])
            if "D" in row:
                spent = [mark / (2 * row["D"]) for mark in row["marks"]]
                style = {**looks[name], "linestyle": "-" if index == 0 else "--"}
                draw_curve(axes[2], spent, row["curve"], f"D = {row['D']}, {row['net']}", **style)
        for here, (net, policy) in zip(axes, NETS.items(), strict=False):
            here.set(title=f"{net}, d = {policy.dim}", xlabel="episodes")
        axes[2].set(title="SZPO on both; the others read no votes", xlabel="votes")
        for here in axes:
            here.set(xscale="log", ylabel="mean length of an episode", ylim=(0, 1.04 * HORIZON))
            ticks = [1, 4, 16, 64] if here is axes[2] else [8, 16, 32, 64, 128, 256]
            here.set_xticks(ticks, [str(tick) for tick in ticks])
            here.minorticks_off()
            here.legend(fontsize=8, loc="upper left")
    with study.figure("cartpole-notebook", height=3.6) as here:
        wide = 20
        for label, of in by_label(written):
            table = np.array([row["lengths"] for row in of], dtype=np.float64)
            smooth = np.apply_along_axis(np.convolve, 1, table, np.ones(wide) / wide, "valid")
            line = [interval(at) for at in smooth.T.tolist()]
            draw_curve(here, range(wide, episodes + 1), line, label, marker="")
        here.set(xlabel="episodes", ylabel=f"mean length of the last {wide}")
        here.set_ylim(0, 1.04 * HORIZON)
        here.legend(fontsize=8)
