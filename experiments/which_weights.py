"""In which weights a policy is improved best: what a taste gains a root nat there, held out.

    python experiments/which_weights.py [--answers 768] [adapter.rank=4] [adapter.layers=all] ...

Each argument is a place beside the default one, settings joined by +. Answers of the start to the
training prompts of ``frozen/improve.toml``, 16 each, are read there (`score_ascent.Pool`). Two
thirds of the prompts give the natural gradient d of a true reward r; on the others, with s the
score functions, E[r sᵀd] / √E[(sᵀd)²] is the gain for a small step of √(2 KL) = 1, and over the
spread of r its correlation: 1 is all that any policy could gain so. Printed by how many answers
gave the direction.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np

from szpo.improvement.score_ascent import Pool, along_natural, draw_pool, read_pool
from szpo.optim.sample_directions import Law
from szpo.policies import subspace_setup, subspaces
from szpo.policies.basis import centre
from szpo.policies.lora_policy import LoraPolicy
from szpo.runs import assemble
from szpo.types import Answer, Floats, Prompt
from szpo_simulators import plan, start
from szpo_simulators.panels import text_rewards

EACH: Final = 16
TASTES: Final = {
    "sentiment": "sentiment", "no comma": "verify:no_comma",
    "first person": r"regex:\b(I|my|me|I'm)\b", "reader": r"regex:(?i)\b(you|your)\b",
}  # fmt: skip
RIDGE: Final = 0.03


def read(place: str, answers: int, rows: Pool | None) -> Pool:
    """The start's answers and their score functions in a place; the same answers as ``rows``."""
    frozen = plan.read(Path(__file__).parent / "frozen" / "improve.toml")
    cell = plan.cell(frozen, frozen.group("votes-sentiment-regression"), 4000)
    sets = [*cell.spec["sets"], *filter(None, place.split("+"))]
    config = start.load_config({**cell.spec, "sets": sets})
    with closing(assemble.build(config, say=lambda line: None)) as parts:
        assert parts.base is not None
        host, asked = parts.base.host, parts.prompts.train[: answers // EACH]
        sites, _ = host.places(config.adapter, None)
        factors = subspace_setup.read_factors(host, sites, asked, config)
        policy = LoraPolicy(
            parts.base.loaded, subspaces.every_b(sites, factors), root_seed=1, law=Law(),
            sampling=parts.language.sampling, host=host,
        )  # fmt: skip
        if rows is None:
            return draw_pool(policy, asked, EACH, seed=1)
        return read_pool(policy, rows.prompts, EACH, rows.rows)


def gain(pool: Pool, taste: str, answers: int) -> str:
    """Gain a root nat on the last third of the prompts, by the first answers; its correlation."""
    reward = text_rewards.parse(TASTES[taste])

    def score(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        return np.array([reward.score(*pair) for pair in zip(prompts, answers, strict=True)])

    at = len(pool.rows) * 2 // 3 // EACH * EACH
    few = slice(0, answers)
    first = Pool(pool.policy, pool.prompts[few], EACH, pool.rows[few], pool.cuts, pool.scores[few])
    drawn = first.gradient(score)
    assert drawn is not None
    d = along_natural(drawn, RIDGE).direction
    groups = np.repeat(np.arange((len(pool.rows) - at) // EACH), EACH)
    along = centre(pool.scores[at:].sum(1, dtype=np.float64), groups) @ d
    worth = score(pool.prompts[at:], [pool.policy.answer(row) for row in pool.rows[at:]])
    worth = centre(worth[:, None], groups)[:, 0]
    rate = float((along * worth).mean() / np.sqrt((along**2).mean()))
    return f"{rate:.3f} ({rate / float(worth.std()):.2f})"


def main() -> None:
    """Read the same answers in each place."""
    parser = argparse.ArgumentParser()
    parser.add_argument("places", nargs="*")
    parser.add_argument("--answers", type=int, default=48 * EACH)
    given = parser.parse_args()
    pool = None
    for place in ("", *given.places):
        began = time.process_time()
        pool = read(place, given.answers, pool)
        most = given.answers * 2 // 3 // EACH * EACH
        for answers in (most // 4, most // 2, most):
            told = [f"{taste} {gain(pool, taste, answers)}" for taste in TASTES]
            print(f"{place or 'default'}; {answers} answers; {'; '.join(told)}", flush=True)
        spent = time.process_time() - began
        print(f"{place or 'default'}; {pool.policy.dim} weights; {spent:.0f} s", flush=True)


if __name__ == "__main__":
    main()
