"""A policy in a small world, tuned by votes on walks.

A walker on a 5 × 5 grid has a policy of a hundred numbers: a logit per cell and move. Voters
see two batches of walks and say which came closer to the far corner, never the reward. The true
value of every policy is known exactly. The dashed line is the best possible value; sixteen seeds.
"""

import matplotlib.pyplot as plt
import numpy as np

from szpo_simulators.worlds.gridworld import GridWorld
from szpo_simulators.worlds.world import settings_for, train

world = GridWorld()
settings = settings_for(world, rule="known", alpha=1.0)
marks = range(10, 161, 10)
runs = train(world, settings, root_seeds=range(16), steps=160, marks=marks)

start = world.value(world.theta0[None]).item()
votes = runs.votes * np.array([0, *marks])
values = np.column_stack([np.full(16, start), runs.curve])
print(f"start {start:.2f}, end {runs.final.mean():.2f}, best possible {world.optimum():.2f}")
plt.plot(votes, values.T, color="tab:blue", alpha=0.25, lw=0.8)
plt.plot(votes, values.mean(axis=0), color="tab:blue", label="mean of 16 runs")
plt.axhline(world.optimum(), ls="--", color="grey", label="best possible")
plt.xlabel("votes")
plt.ylabel("true value")
plt.legend()
plt.tight_layout()
plt.savefig("gridworld.svg")
