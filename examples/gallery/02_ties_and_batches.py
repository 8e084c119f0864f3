"""Many pairs at once, ties and weights.

Votes often come in batches. `ask(n)` gives n pairs, and `tell` takes a list: "a", "b", "tie", a
share for a, or None without an answer. A weight says how many votes an answer counts as.

Here a careful voter says "tie" where the difference is small. A hasty one picks a side whatever
the difference. Both see the same number of pairs. Each curve is a mean over five seeds.
"""

import matplotlib.pyplot as plt
import numpy as np

import szpo

GOAL = np.array([1.0, -2.0])
ROUNDS, PAIRS, SEEDS = 20, 4, 5


def careful(gap):
    return "tie" if abs(gap) < 0.3 else "a" if gap > 0 else "b"


def hasty(gap):
    return "a" if gap > 0 else "b"


def curve(voter, seed):
    opt, path = szpo.Optimizer(dim=2, seed=seed), []
    for _ in range(ROUNDS):
        gaps = [np.linalg.norm(b - GOAL) - np.linalg.norm(a - GOAL) for a, b in opt.ask(PAIRS)]
        opt.tell([voter(gap) for gap in gaps], weight=[1.0] * PAIRS)
        path.append(np.linalg.norm(opt.best - GOAL))
    return path


votes = PAIRS * np.arange(1, ROUNDS + 1)
for voter in (careful, hasty):
    mean = np.mean([curve(voter, seed) for seed in range(SEEDS)], axis=0)
    plt.plot(votes, mean, label=voter.__name__)
    print(f"{voter.__name__:8} distance after {votes[-1]} pairs: {mean[-1]:.2f}")
plt.xlabel("pairs shown")
plt.ylabel("distance to the goal")
plt.legend()
plt.tight_layout()
plt.savefig("ties_and_batches.svg")
