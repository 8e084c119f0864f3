"""Two of seven voters are hostile.

They always vote for the worse side. With equal weights they undo a part of what the others say.
The weighting `skill` learns from earlier votes who agrees with the rest, and silences those who
do not.

The world is the small grid with a known truth. Each curve is a mean over twenty seeds, with its
95 % interval.
"""

import matplotlib.pyplot as plt
import numpy as np

from szpo_simulators.worlds.gridworld import GridWorld
from szpo_simulators.worlds.people import People
from szpo_simulators.worlds.repetitions import settings_for, train

world = GridWorld()
SEEDS, marks = range(20), range(10, 121, 10)
CASES = (
    ("seven honest, equal", "bt70", "equal"),
    ("two hostile, equal", "bt70+hostile=2", "equal"),
    ("two hostile, skill", "bt70+hostile=2", "skill"),
)

for label, line, weighting in CASES:
    settings = settings_for(world, rule="known", alpha=1.0, weighting=weighting)
    panel = People(line, size=7)
    runs = train(world, settings, root_seeds=SEEDS, steps=120, panel=panel, marks=marks)
    mean = runs.curve.mean(axis=0)
    half = 2.093 * runs.curve.std(axis=0, ddof=1) / np.sqrt(len(SEEDS))
    votes = runs.votes * np.array(marks)
    (curve,) = plt.plot(votes, mean, label=label)
    plt.fill_between(votes, mean - half, mean + half, color=curve.get_color(), alpha=0.15)
    print(f"{label:20} value {mean[-1]:.2f} ± {half[-1]:.2f}")
plt.xlabel("votes")
plt.ylabel("true value")
plt.legend()
plt.tight_layout()
plt.savefig("hostile_voters.svg")
