"""Which KL radius κ and which memory λ make the most of 296 votes under `bayes`?

Question: the first defaults (κ = .72, λ = .97) came from a prototype. Is a wider radius, which
makes every vote more telling, or a shorter memory, which stops following gradients that are gone,
better at the same number of votes?

Set-up: the project's own optimizer on a quadratic surrogate of SmolLM2 with a sentiment reward in
whitened score coordinates (d = 8): value g·z₁ − h|z|²/2 with g = .16 and h = .04, the spread of
one answer's reward .38, D = 8, N = 8, M = 1, antithetic, logistic evaluators with β = 11.

Command: python experiments/radius_and_memory.py     (about a minute)
Found: see experiments/LOG.md, 2026-11-20.
"""

from __future__ import annotations

import itertools

import numpy as np

from szpo.optim import optimizer, parameters
from szpo.optim.checked_settings import defaults
from szpo.types import Tally

G, H, SPREAD, BETA, DIM, STEPS, SEEDS = 0.16, 0.04, 0.38, 11.0, 8, 37, 40
LAYOUT = (("z", (DIM,)),)


def run(seed: int, kl_radius: float, forget: float) -> tuple[float, float]:
    """Value reached and |z|²/2 after 296 votes."""
    rng = np.random.default_rng(seed)
    settings = defaults(seed, LAYOUT, kl_radius=kl_radius, forget=forget)
    state, theta = optimizer.init(settings), parameters.zeros(LAYOUT)
    gradient = np.eye(DIM)[0] * G
    for step in range(STEPS):
        query = optimizer.ask(state)
        v = parameters.direction_vector(settings.space, step, 0)
        shift = v * query.shifts[0][0].radius
        rise = 2 * float((gradient - H * theta["z"]) @ shift)  # exact: the curvature cancels
        noise = SPREAD * np.sqrt(2 / settings.D) * rng.normal(size=(1, settings.N))
        plus = (rng.random((1, settings.N)) < 1 / (1 + np.exp(-BETA * (rise + noise)))) * 1.0
        nothing = np.zeros_like(plus)
        tally = Tally(plus, 1 - plus, nothing, nothing.astype(bool))
        state, updates, _ = optimizer.tell(state, query, tally)
        for update in updates:
            theta = parameters.apply_update(settings.space, theta, update)
    z = theta["z"].astype(float)
    return float(gradient @ z - H * z @ z / 2), float(z @ z / 2)


def main() -> None:
    print(f"best possible {G * G / (2 * H):.3f}; {SEEDS} seeds, mean ± 1.96 standard errors")
    for kl_radius, forget in itertools.product((0.72, 1.62, 2.88), (0.90, 0.94, 0.97, 0.985)):
        found = np.array([run(seed, kl_radius, forget) for seed in range(SEEDS)])
        gain, drift = found.mean(0)
        error = 1.96 * found[:, 0].std(ddof=1) / np.sqrt(SEEDS)
        worst = np.quantile(found[:, 0], 0.1)
        print(
            f"kl_radius {kl_radius:4.2f}  forget {forget:.3f}  gain {gain:.3f} ± {error:.3f}  "
            f"lowest tenth {worst:.3f}  |z|²/2 {drift:.1f}"
        )


if __name__ == "__main__":
    main()
