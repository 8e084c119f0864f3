"""Two of seven voters are hostile.

They always vote for the worse side. With equal weights they undo a part of what the others say.
The weighting `skill` learns from earlier votes who agrees with the rest, and silences those who
do not. The world is the small grid. Each curve is a mean over ten seeds, with its 95 % interval.
"""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

from szpo.optim import optimizer, parameters
from szpo.optim.weighting import MINUS, PLUS, VotesByVoter
from szpo_simulators.worlds.gridworld import GridWorld
from szpo_simulators.worlds.world import draws, settings_for

world = GridWorld()
SEEDS, STEPS = range(10), 120
CASES = (
    ("seven honest, equal", 0, "equal"),
    ("two hostile, equal", 2, "equal"),
    ("two hostile, skill", 2, "skill"),
)


def climb(settings, hostile):
    """The true value after each step of one run."""
    rng, names = np.random.default_rng(settings.root_seed), tuple("abcdefg")
    beta = np.repeat([1.0, -1.0], [7 - hostile, hostile])
    theta, state, N = (
        {"theta": world.theta0.astype(np.float32)},
        optimizer.init(settings),
        settings.section.N,
    )
    for step in range(STEPS):
        query = optimizer.ask(state)
        walks = draws(world, [settings.root_seed], step, 0, N)
        up, down = (
            world.returns(parameters.shift(settings.space, theta, side)["theta"][None], walks)[0]
            for side in query.shifts[0]
        )
        who = (step * N + np.arange(N)) % 7  # a round robin, one vote each
        chance = 1 / (1 + np.exp(-beta[who] * (up - down)))
        verdicts = np.zeros((7, 1, N), dtype=np.int8)
        verdicts[who, 0, np.arange(N)] = np.where(rng.random(N) < chance, PLUS, MINUS)
        cast = VotesByVoter(names, verdicts, np.zeros((1, N), dtype=bool))
        state, updates, _ = optimizer.tell(state, query, cast.tally(), by_voter=cast)
        for update in optimizer.added_updates(settings, updates):
            theta = parameters.apply_update(settings.space, theta, update)
        yield world.value(theta["theta"][None]).item()


for label, hostile, weighting in CASES:
    runs = []
    for seed in SEEDS:
        settings = replace(settings_for(world, alpha=1.0, weighting=weighting), root_seed=seed)
        runs.append(list(climb(settings, hostile)))
    mean = np.mean(runs, axis=0)
    half = 2.262 * np.std(runs, axis=0, ddof=1) / np.sqrt(len(SEEDS))
    votes = settings.section.N * np.arange(1, STEPS + 1)
    (curve,) = plt.plot(votes, mean, label=label)
    plt.fill_between(votes, mean - half, mean + half, color=curve.get_color(), alpha=0.15)
    print(f"{label:20} value {mean[-1]:.2f} ± {half[-1]:.2f}")
plt.xlabel("votes")
plt.ylabel("true value")
plt.legend()
plt.tight_layout()
plt.savefig("hostile_voters.svg")
