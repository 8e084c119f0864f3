"""Stop, save, and go on elsewhere.

An optimizer is a function of its settings and its votes. `save` writes both as JSON, `load`
reports the votes again, and the result has the same bits, as the digests show. So a vote can take
a minute or a month.
"""

import matplotlib.pyplot as plt
import numpy as np

import szpo

GOAL = np.array([0.5, -1.5])


def answer(opt, votes):
    for _ in range(votes):
        a, b = opt.ask()
        closer = np.linalg.norm(a - GOAL) < np.linalg.norm(b - GOAL)
        opt.tell("a" if closer else "b")
        path.append(opt.best)


path = []
whole = szpo.Optimizer(dim=2, seed=3)
answer(whole, 60)

path = []
monday = szpo.Optimizer(dim=2, seed=3)
answer(monday, 25)
monday.save("votes.json")

tuesday = szpo.Optimizer.load("votes.json")
answer(tuesday, 35)
print("in one go   ", whole.digest()[:16], whole.best.round(3))
print("in two parts", tuesday.digest()[:16], tuesday.best.round(3))

x, y = np.array(path).T
plt.plot(x[:25], y[:25], "o-", ms=3, label="Monday")
plt.plot(x[24:], y[24:], "o-", ms=3, label="Tuesday, from the file")
plt.plot(*GOAL, "k*", ms=12, label="goal")
plt.gca().set(xlabel="first coordinate", ylabel="second coordinate", aspect="equal")
plt.legend()
plt.tight_layout()
plt.savefig("saved_and_loaded.svg")
