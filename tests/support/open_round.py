"""A round that is open for votes."""

from pathlib import Path

from szpo.ledger.theta import theta_digest
from szpo.types import Answer, Comparison, Prompt, Query, Row
from szpo.voting import lease, steps
from tests.support.quadratic import new_ledger, settings_of

ROW = Row(Prompt.user("?"), Answer("warm 1"), Answer("cold 0"))


EQUAL = Row(Prompt.user("?"), Answer("warm"), Answer("warm"))


def open_run(folder, *, k=1, n, m, identical=(), seed=11):
    """A ledger with step 0 open: k directions of n comparisons, M votes each."""
    plan = settings_of(root_seed=seed, K=k, N=n, M=m)
    ledger = new_ledger(Path(folder) / "run.db", plan)
    epoch = lease.acquire(ledger, "test").epoch
    steps.record_plan(ledger, epoch, plan, Query(0, (), 0.5, None), theta_digest(ledger))
    steps.begin(ledger, epoch, 0)
    places = [(i, j) for i in range(k) for j in range(n)]
    asked = [
        Comparison(f"c{i}-{j}", 0, i, j, ((EQUAL if (i, j) in identical else ROW),) * 2)
        for i, j in places
    ]
    steps.store(ledger, epoch, steps.StepAnswers(0, asked, theta_digest(ledger)), then_open=True)
    return ledger
