"""Count the votes that each rule of `szpo.Optimizer` needs on toy preferences.

    python docs/tools/vector_rules.py

Three scales away from the start lies a random optimum. Printed is the median number of votes after
which a twentieth of the first distance's square is left, over four seeds; "–" where 120 votes are
not enough for half of them.
"""

from __future__ import annotations

import math

import numpy as np

import szpo

RULES = ("known", "sign", "regression")
TOYS = (("2 coordinates", 2, None), ("8 coordinates", 8, None), ("8, noisy votes", 8, 2.0))
"""Name, coordinates, and the noise of votes: P(a) = σ(gap of squares / noise); None: no noise."""
VOTES, SEEDS, LEFT = 120, range(4), 0.05


def count_votes(rule: str, dim: int, noise: float | None, seed: int) -> float:
    rng = np.random.default_rng(seed)
    target = rng.normal(size=dim)
    target *= 3 / np.linalg.norm(target)
    opt = szpo.Optimizer(dim, rule=rule, seed=seed)
    for votes in range(1, VOTES + 1):
        a, b = opt.ask()
        gap = float(((b - target) ** 2).sum() - ((a - target) ** 2).sum())
        chance = float(gap > 0) if noise is None else 1 / (1 + math.exp(-gap / noise))
        opt.tell("a" if rng.random() < chance else "b")
        if ((opt.best - target) ** 2).sum() < LEFT * 9:
            return votes
    return math.inf


def main() -> None:
    print("| rule | " + " | ".join(name for name, _, _ in TOYS) + " |")
    print("|---" * (len(TOYS) + 1) + "|")
    for rule in RULES:
        found = [
            float(np.median([count_votes(rule, dim, noise, seed) for seed in SEEDS]))
            for _, dim, noise in TOYS
        ]
        cells = ("–" if math.isinf(each) else f"{each:.0f}" for each in found)
        print(f"| `{rule}` | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
