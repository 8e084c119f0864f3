"""One preference, two optimizers: votes that szpo and CMA-ES need to come near the optimum.

CMA-ES ranks a population, so each of its steps sorts six points by comparisons of two; szpo asks
for one comparison a step. Both see nothing but which of two points is better.
"""

import functools

import numpy as np
from cmaes import CMA

import szpo

TARGET = np.array([1.0, -2.0, 0.5])
NEAR = 0.5
"""Distance at which the count stops; the start is 2.3 away."""


def distance(point):
    return float(np.linalg.norm(point - TARGET))


def by_szpo(seed):
    opt = szpo.Optimizer(dim=3, seed=seed)
    while distance(opt.best) > NEAR:
        a, b = opt.ask()
        opt.tell("a" if distance(a) < distance(b) else "b")
    return round(opt.votes)


def by_cmaes(seed):
    opt, votes = CMA(mean=np.zeros(3), sigma=1.0, seed=seed, population_size=6), 0

    def compare(a, b):
        nonlocal votes
        votes += 1
        return -1 if distance(a) < distance(b) else 1

    while distance(opt.mean) > NEAR:
        points = sorted((opt.ask() for _ in range(6)), key=functools.cmp_to_key(compare))
        opt.tell([(point, float(rank)) for rank, point in enumerate(points)])
    return votes


if __name__ == "__main__":
    for name, tune in (("szpo", by_szpo), ("cmaes", by_cmaes)):
        votes = sorted(tune(seed) for seed in range(1, 12))
        print(f"{name}: {votes[5]} votes in the median, {votes[0]} to {votes[-1]} over 11 seeds")
