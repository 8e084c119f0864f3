"""How far had a finished run come after fewer votes? Read from its ledger, no vote spent anew.

Question: gain and guards against votes. The weights after any step follow from the ledger, and a
run with a smaller budget is a prefix of this one, so one run gives the whole curve.

Command: python experiments/along_a_run.py runs/bench-demo/sentiment-0.db 80 160 240
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from szpo.ledger.database import Ledger
from szpo.policies import text_guards
from szpo.replay import replay
from szpo.runs import assemble
from szpo_simulators.rewards import heldout, text_rewards


def along(path: Path, budgets: list[int]) -> list[dict[str, Any]]:
    """Held-out gain and guards of the run after each number of votes."""
    with Ledger.open(path, readonly=True) as ledger:
        parts = assemble.reopen(ledger, until=0, panel=False)
        config, policy = parts.config, parts.language
        liked = text_rewards.parse(config.panel.reward, logprob=policy.logprob_base)
        held_out = parts.prompts.heldout[: config.evaluation.prompts]

        def measure(moved: bool) -> heldout.Measurement:
            return heldout.measure(
                policy, held_out, liked.score, samples=config.evaluation.samples,
                seed=config.run.seed, moved=moved,
            )  # fmt: skip

        before = measure(moved=False)
        found = []
        for votes in budgets:
            steps = votes // config.votes_per_step
            policy.move_to(policy.start())
            for _, updates in replay.read_applied_updates(ledger, parts.settings, steps):
                for update in updates:
                    policy.apply(update)
            after = measure(moved=True)
            mean, low, high = heldout.gain(before, after, seed=config.run.seed)
            found.append(
                {
                    "run": path.stem, "votes": steps * config.votes_per_step, "gain": mean,
                    "interval": [low, high], "kl": after.kl,
                    "guards": [asdict(guard) for guard in text_guards.guards(before, after)],
                }
            )  # fmt: skip
            print(json.dumps(found[-1]), flush=True)
    return found


if __name__ == "__main__":
    along(Path(sys.argv[1]), sorted(map(int, sys.argv[2:])))
