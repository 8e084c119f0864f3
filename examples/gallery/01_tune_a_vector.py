"""Tune a vector by votes.

Three numbers make a colour, and somebody has a favourite, but only says which of two colours is
better. `szpo.Optimizer` asks, and finds it. The voter is a line of code with noise. The line shows
how far the recommended colour is from the favourite.
"""

import matplotlib.pyplot as plt
import numpy as np

import szpo

FAVOURITE = np.array([0.9, 0.35, 0.1])
rng = np.random.default_rng(0)


def distance(colour):
    return float(np.abs(colour - FAVOURITE).mean())


opt = szpo.Optimizer(dim=3, bounds=(0, 1), seed=0)
distances = []
for _ in range(120):
    a, b = opt.ask()
    clearly_a = 12 * (distance(b) - distance(a))
    opt.tell("a" if rng.random() < 1 / (1 + np.exp(-clearly_a)) else "b")
    distances.append(distance(opt.best))

print(f"favourite {FAVOURITE}, found {opt.best.round(2)} after {opt.votes:g} votes")

figure, (curve, colours) = plt.subplots(1, 2, figsize=(8, 3), width_ratios=(3, 1))
curve.plot(range(1, 121), distances)
curve.set(xlabel="votes", ylabel="mean distance to the favourite", ylim=0)
colours.imshow([[FAVOURITE], [opt.best.clip(0, 1)]])
colours.set(xticks=[], yticks=[0, 1], yticklabels=["favourite", "found"])
figure.tight_layout()
figure.savefig("tune_a_vector.svg")
