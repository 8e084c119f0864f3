"""One preference, three optimizers: votes that each needs to come near the optimum.

None sees more than which points are better. szpo asks which of two is. CMA-ES ranks a population,
so each of its steps sorts six points by such comparisons. Optuna's preferential study shows four
points and asks which is the worst; a Gaussian process proposes another in its place.

    python examples/three_optimizers.py [szpo] [cmaes] [optuna]
"""

import functools
import sys
import time
import warnings

import numpy as np

TARGET = np.array([1.0, -2.0, 0.5])
NEAR = 0.5
"""Distance at which the count stops; szpo and CMA-ES start 2.3 away."""


def distance(point):
    return float(np.linalg.norm(point - TARGET))


def by_szpo(seed, most=1000):
    import szpo

    opt = szpo.Optimizer(dim=3, seed=seed)
    while distance(opt.best) > NEAR and opt.votes < most:
        a, b = opt.ask()
        opt.tell("a" if distance(a) < distance(b) else "b")
    return round(opt.votes)


def by_cmaes(seed, most=1000):
    from cmaes import CMA

    opt, votes = CMA(mean=np.zeros(3), sigma=1.0, seed=seed, population_size=6), 0

    def compare(a, b):
        nonlocal votes
        votes += 1
        return -1 if distance(a) < distance(b) else 1

    while distance(opt.mean) > NEAR and votes < most:
        points = sorted((opt.ask() for _ in range(6)), key=functools.cmp_to_key(compare))
        opt.tell([(point, float(rank)) for rank, point in enumerate(points)])
    return votes


def by_optuna(seed, most=1000, shown=4):
    import optuna
    from optuna.distributions import FloatDistribution
    from optuna_dashboard.preferential import create_study
    from optuna_dashboard.preferential.samplers.gp import PreferentialGPSampler

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def far(trial):
        return distance([trial.params[name] for name in "xyz"])

    space = {name: FloatDistribution(-3, 3) for name in "xyz"}
    study = create_study(n_generate=shown, sampler=PreferentialGPSampler(seed=seed))
    trials, votes = [], 0
    while not (trials and far(trials[0]) <= NEAR) and votes < most:
        trials += [study.ask(space) for _ in range(shown - len(trials))]
        *trials, worst = sorted(trials, key=far)
        study.report_preference(trials, worst)
        votes += 1
        print(f"optuna: run {seed} of 11, vote {votes} ", end="\r", file=sys.stderr, flush=True)
    return votes


WAYS = {"szpo": by_szpo, "cmaes": by_cmaes, "optuna": by_optuna}

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # Optuna marks its study as experimental
    for name in sys.argv[1:] or WAYS:
        print(f"{name}: loading the library", end="\r", file=sys.stderr, flush=True)
        WAYS[name](1, most=2)  # loads the library
        began = time.process_time()
        votes = []
        for seed in range(1, 12):
            print(f"{name}: run {seed} of 11      ", end="\r", file=sys.stderr, flush=True)
            votes.append(WAYS[name](seed))
        votes.sort()
        seconds = (time.process_time() - began) / sum(votes)
        print(
            f"{name}: {votes[5]} votes in the median, {votes[0]} to {votes[-1]} over 11 seeds; "
            f"{seconds:.2g} s a vote"
        )
