"""`szpo bench cartpole`: votes on single episodes against gradients of the true reward.

Among these are REINFORCE and PPO-clip as in a widely copied RLHF notebook, with its mistakes. It
uses a net 4 → 128 ReLU → 2, Adam at 1e-2, γ = .99, an episode's returns normalised to mean 0 and
deviation 1, and one update per episode; PPO has ε = .2, four epochs and no critic. Two lines of
its PPO are wrong. *Resampled*: the new log-probabilities are of newly drawn actions, so that a
ratio compares two different actions. *Crossed*: ratios (T, 1) times returns (T,) make a (T, T)
table of every action with every return; returns have mean 0, so nothing is left to learn from.
Either mistake alone prevents learning.

Moves are drawn in NumPy, and an episode's log-probabilities are computed in one pass; the
arithmetic is the notebook's. Both also train any `Network`, to compare methods on one policy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from szpo.drawing import COLOURS, MARKS
from szpo.seeds import derive, generator, integer
from szpo.types import Floats
from szpo_simulators.bench_study import (
    Study,
    bench,
    by_label,
    draw_curve,
    format_interval,
    interval,
    seed_range,
)
from szpo_simulators.worlds import world
from szpo_simulators.worlds.cartpole import HORIZON, SCALE, CartPole, Network
from szpo_simulators.worlds.world import settings_for, train

GAMMA, RATE, CLIP, EPOCHS = 0.99, 1e-2, 0.2, 4

FORMS: Mapping[str, tuple[str, ...]] = {
    "as written": ("resampled", "crossed"),
    "only resampled": ("resampled",),
    "only crossed": ("crossed",),
    "repaired": (),
}
"""Forms of PPO, each with the mistakes that it still has."""

EPISODES = 300
"""Episodes of each run with the notebook's settings."""
AFTER = (8, 16, 32, 64, 96, 128, 192, 256)
"""Numbers of episodes at which learning curves are measured."""
NOTEBOOK = Network(128, scaled=False)
"""The notebook's net: 4 → 128 ReLU → 2, with its two logits as one; d = 769."""
NETS: Mapping[str, Network] = {"linear": Network(), "notebook's net": NOTEBOOK}
RATES = (0.003, 0.01, 0.03)
"""Learning rates of Adam that are tried for the gradient methods."""
WAYS: Mapping[str, tuple[dict[str, Any], tuple[float, ...]]] = {
    "linear": ({"rule": "known", "mu": 2.0}, (1.0, 2.0, 4.0)),
    "notebook's net": ({"rule": "sign", "mu": 0.3}, (0.03, 0.1, 0.3)),
}
"""SZPO's settings on each net, and its grid of step sizes; one vote per step."""


class Learner:
    """A net with two logits, its optimizer, the environment and the random numbers of one seed."""

    def __init__(self, seed: int, rate: float = RATE, policy: Network = NOTEBOOK) -> None:
        self.policy = policy
        self.torch = torch.Generator().manual_seed(integer(derive(seed, "torch"), 0, 2**62))
        hidden = policy.hidden
        inner = [nn.Linear(4, hidden), nn.ReLU()] if hidden else []
        self.net = nn.Sequential(*inner, nn.Linear(hidden or 4, 2))
        for parameter in self.net.parameters():
            # torch's own initialisation, from this seed; a linear policy starts at 0.
            reach = 0.0 if not hidden else 0.5 if len(parameter) == hidden else hidden**-0.5
            nn.init.uniform_(parameter, -reach, reach, generator=self.torch)
        self.adam = torch.optim.Adam(self.net.parameters(), lr=rate)
        self.chance = generator(derive(seed, "moves"))
        self.world = gymnasium.make("CartPole-v1")
        self.world.reset(seed=integer(derive(seed, "starts"), 0, 2**31))

    def theta(self) -> Floats:
        """The weights (d,) for `Network.logit`, with the two logits as one."""
        *inner, outward, last = (
            p.detach().numpy().astype(np.float64) for p in self.net.parameters()
        )
        parts = [np.ravel(p.T) for p in inner]
        return np.concatenate([*parts, outward[1] - outward[0], [last[1] - last[0]]])

    def episode(self) -> tuple[Tensor, Tensor]:
        """Play an episode with the current net: inputs (T, 4) and chosen actions (T,)."""
        theta = self.theta()[None]
        seen, _ = self.world.reset()
        states, actions, over = [], [], False
        while not over:
            odds = self.policy.logit(theta, seen[None, None].astype(np.float64))[0, 0]
            action = int(self.chance.random() < 1 / (1 + np.exp(-odds)))
            states.append(seen)
            actions.append(action)
            seen, _, fallen, cut, _ = self.world.step(action)
            over = fallen or cut
        entered = np.array(states) / (SCALE if self.policy.scaled else 1.0)
        return torch.from_numpy(entered.astype(np.float32)), torch.tensor(actions)

    def logprob(self, states: Tensor, actions: Tensor) -> Tensor:
        """Log-probabilities log π(action | state), (T,)."""
        logs = torch.log_softmax(self.net(states), dim=1)
        return logs.gather(1, actions[:, None])[:, 0]

    def resample(self, states: Tensor) -> Tensor:
        """Newly drawn actions (T,) at the states of an episode."""
        chances = torch.softmax(self.net(states).detach(), dim=1)
        return torch.multinomial(chances, 1, generator=self.torch)[:, 0]

    def descend(self, loss: Tensor) -> None:
        """One step of Adam."""
        self.adam.zero_grad()
        torch.autograd.backward(loss)
        self.adam.step()


def returns(length: int, gamma: float = GAMMA) -> Tensor:
    """Returns to go of an episode with reward 1 per move, normalised over its moves.

    >>> [round(x, 2) for x in returns(3).tolist()]
    [1.0, 0.0, -1.0]
    """
    to_go = torch.from_numpy((1 - gamma ** np.arange(length, 0, -1)) / (1 - gamma)).float()
    return (to_go - to_go.mean()) / (to_go.std() + 1e-9)


def reinforce(
    seed: int, rate: float = RATE, policy: Network = NOTEBOOK
) -> Iterator[tuple[int, Learner]]:
    """REINFORCE (Williams 1992): yields each episode's length and the learner, without end."""
    learner = Learner(seed, rate, policy)
    while True:
        states, actions = learner.episode()
        learner.descend(-(learner.logprob(states, actions) * returns(len(actions))).sum())
        yield len(actions), learner


def ppo(
    seed: int,
    mistakes: Collection[str] = FORMS["repaired"],
    rate: float = RATE,
    policy: Network = NOTEBOOK,
) -> Iterator[tuple[int, Learner]]:
    """PPO-clip (Schulman et al. 2017) with some of the notebook's mistakes; see `reinforce`."""
    learner = Learner(seed, rate, policy)
    while True:
        states, actions = learner.episode()
        advantages = returns(len(actions))
        old = learner.logprob(states, actions).detach()
        for _ in range(EPOCHS):
            taken = learner.resample(states) if "resampled" in mistakes else actions
            ratio = torch.exp(learner.logprob(states, taken) - old)
            if "crossed" in mistakes:
                ratio = ratio[:, None]
            clipped = torch.clamp(ratio, 1 - CLIP, 1 + CLIP)
            learner.descend(-torch.min(ratio * advantages, clipped * advantages).mean())
        yield len(actions), learner


@bench("cartpole")
def main(study: Study) -> dict[str, Any]:
    """CartPole: SZPO against a notebook's REINFORCE and PPO, with its mistakes and repaired."""
    quick = study.quick
    episodes, each = (60, 2) if quick else (EPISODES, 5)
    specs = [
        {"label": label, "episodes": episodes, "seed": seed}
        for label in ("REINFORCE", *(f"PPO {form}" for form in FORMS))
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
    learning = reinforce(spec["seed"]) if name == "REINFORCE" else ppo(spec["seed"], FORMS[form])
    return {"lengths": [length for length, _ in islice(learning, spec["episodes"])]}


def run_gradient_method(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a gradient method at the marks; each seed's score is their mean."""
    net, marks = NETS[spec["net"]], spec["marks"]
    learn = reinforce if spec["method"] == "REINFORCE" else ppo
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
    chosen = settings_for(world, N=1, D=D, alpha=spec["alpha"], **how)
    runs = train(world, chosen, spec["seeds"], marks[-1], marks=marks, sharpness=spec["beta"])
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
