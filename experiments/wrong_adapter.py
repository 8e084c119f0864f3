"""How far a wrong adapter's log-probabilities lie from the right one's, and how often it passes.

The embedded SmolLM2 in bf16 at the usual radius: 96 answers of the start to 24 prompts, read under
the start and under six members (three directions, both sides). Groups of rows are drawn with
replacement, 40,000 per pair. Takes about two minutes on two cores, with the set-up in the cache.

    python experiments/wrong_adapter.py
"""

import numpy as np

from szpo.cluster import rescoring
from szpo.config import settings_file
from szpo.optim import parameters
from szpo.runs import assemble
from szpo.types import Shift

ROWS = (1, 2, 3, 4, 6)


def main() -> None:
    parts = assemble.build(settings_file.load(sets=["model.dtype=bf16", "panel.kind=people"]))
    policy, prompts = parts.language, list(parts.prompts.train[:24])
    radius = float(parameters.round13(policy.subspace.mu(1.62)))
    answers = policy.sample_tokens(prompts, 4, seed=3)
    asked = [policy.encode(prompt) for prompt in prompts for _ in range(4)]
    start = policy.start()
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
    six = range(1, len(members))
    pairs = {
        "the start": [(0, m) for m in six],
        "the other side": [(1, 2), (3, 4), (5, 6)],
        "another direction": [(a, b) for a in six for b in six if (a + 1) // 2 != (b + 1) // 2],
    }
    random = np.random.default_rng(1)
    tolerance = rescoring.TOLERANCE["bf16"]
    lengths = np.array([len(row) for row in answers])
    for name, those in pairs.items():
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
                f"{name}: {rows} rows, median {np.median(mean):.3f} nats per token, missed "
                f"{missed.mean():.6f}, the worst pair {missed.max():.6f}"
            )


if __name__ == "__main__":
    main()
