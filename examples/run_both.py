"""The two examples together: 96 votes for brevity make a hesitant policy come to the point."""

import sys
import tempfile
from pathlib import Path

from own_evaluator import Brief
from own_policy import Hesitant

from szpo.config.optimizer import make_settings, record_settings
from szpo.ledger.creation import NewRun
from szpo.ledger.database import Ledger
from szpo.runs.controller import run
from szpo.runs.services import Services, prompt_order
from szpo.testing import check_judge, check_policy
from szpo.types import Prompt, Shift
from szpo.voting.panel_evaluator import PanelEvaluator
from szpo.voting.service import VoteService


def words(policy):
    (answers,) = policy.rollout([[Prompt.user("Well?")]], [Shift(0, 0, 0, 0.0)], seed=0)
    return len(answers[0].text.split())


def main(path):
    policy = Hesitant(root_seed=1)
    prompts = [Prompt.user("Shall we?"), Prompt.user("Is it raining?")]
    check_judge(Brief())
    check_policy(Hesitant(root_seed=1), prompts, radius=0.5)
    settings = make_settings(1, policy.layout, rule="known", N=4, D=2, mu=0.5, alpha=0.2)
    spec = {"optimizer": record_settings(settings)}
    new = NewRun(spec, root_seed=1, layout=policy.layout)
    with Ledger.create(path, new) as ledger:
        panel = PanelEvaluator(VoteService(ledger), [Brief()] * 3)
        order = prompt_order(prompts, settings)
        before = words(policy)
        outcome = run(Services(ledger, policy, panel, order, votes_budget=96))
    return before, words(policy), outcome.votes


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    before, after, votes = main(folder / "both.db")
    print(f"{votes} votes: from {before} words to {after}")
