"""How far a wrong adapter's log-probabilities lie from the right one's, and how often it passes.

The embedded SmolLM2 in bf16, asked about at the radius of the rule ``regression`` (4.5 nats) and
of the other rules (1.62): 96 answers of the start to 24 prompts, read under the start and under
six members (three directions, both sides). Groups of rows are drawn with replacement, 40,000 per
pair. Takes about three minutes on two cores, with the set-up in the cache.

    python experiments/wrong_adapter.py
"""

import numpy as np

from szpo.cluster import rescoring
from szpo.config import settings_file
from szpo.optim import parameters
from szpo.runs import assemble
from szpo.types import Shift

ROWS = (1, 2, 3, 4, 6)
RADII = (4.5, 1.62)
SIX = range(1, 7)
PAIRS = {
    "the start": [(0, m) for m in SIX],
    "the other side": [(1, 2), (3, 4), (5, 6)],
    "another direction": [(a, b) for a in SIX for b in SIX if (a + 1) // 2 != (b + 1) // 2],
}


def main() -> None:
    parts = assemble.build(settings_file.load(sets=["model.dtype=bf16", "panel.kind=people"]))
    policy, prompts = parts.language, list(parts.prompts.train[:24])
    answers = policy.sample_tokens(prompts, 4, seed=3)
    asked = [policy.encode(prompt) for prompt in prompts for _ in range(4)]
    start = policy.start()
    tolerance = rescoring.TOLERANCE["bf16"]
    lengths = np.array([len(row) for row in answers])
    for kl_radius in RADII:
        radius = float(parameters.round13(policy.subspace.mu(kl_radius)))
        members = [start] + [
            parameters.shift(policy.space, start, Shift(2, k, sign, radius))
            for k in range(3)
            for sign in (1, -1)
        ]
        deltas = policy.deltas(members)
        read = [
            policy.engine.logprobs(asked, answers, [m] * len(asked), deltas)
            for m in range(len(members))
        ]
        random = np.random.default_rng(1)
        for name, those in PAIRS.items():
            apart = np.array(
                [
                    [np.abs(x - y).sum() for x, y in zip(read[a], read[b], strict=True)]
                    for a, b in those
                ]
            )
            for rows in ROWS:
                drawn = random.integers(0, len(asked), (40_000, rows))
                mean = apart[:, drawn].sum(-1) / (lengths[drawn].sum(-1) + rescoring.SLACK)
                missed = (mean <= tolerance).mean(-1)
                print(
                    f"radius {kl_radius} nats, {name}: {rows} rows, median "
                    f"{np.median(mean):.3f} nats per token, missed "
                    f"{missed.mean():.6f}, the worst pair {missed.max():.6f}"
                )


if __name__ == "__main__":
    main()
