"""How far apart should two policies stand?

Too close, and votes are coin tosses. Too far, and the direction that the vote is about no
longer matters near the centre. `scale` sets the distance. Each dot is the mean final distance to a
goal over six seeds, with its 95 % interval, after 40 votes of the same noisy voter.
"""

import matplotlib.pyplot as plt
import numpy as np

import szpo

GOAL = np.array([1.5, -1.0])
SCALES, SEEDS = (0.1, 0.4, 1.0, 2.0, 4.0), 6


def final_distance(scale, seed):
    opt = szpo.Optimizer(dim=2, scale=scale, seed=seed)
    rng = np.random.default_rng(seed)
    for _ in range(40):
        a, b = opt.ask()
        gap = np.linalg.norm(b - GOAL) - np.linalg.norm(a - GOAL)
        opt.tell("a" if rng.random() < 1 / (1 + np.exp(-2 * gap)) else "b")
    return np.linalg.norm(opt.best - GOAL)


found = np.array([[final_distance(scale, seed) for seed in range(SEEDS)] for scale in SCALES])
half = 2.571 * found.std(axis=1, ddof=1) / np.sqrt(SEEDS)
for scale, mean, width in zip(SCALES, found.mean(axis=1), half, strict=True):
    print(f"scale {scale:4}: distance {mean:.2f} ± {width:.2f}")
plt.errorbar(SCALES, found.mean(axis=1), half, fmt="o-", capsize=3)
plt.axhline(np.linalg.norm(GOAL), ls="--", color="grey", label="start")
plt.xscale("log")
plt.xlabel("scale: distance of a shown point from the centre")
plt.ylabel("distance to the goal after 40 votes")
plt.legend()
plt.tight_layout()
plt.savefig("how_far_apart.svg")
