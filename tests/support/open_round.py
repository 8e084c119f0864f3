"""A round that is open for votes."""

from pathlib import Path

from szpo.types import Answer, Comparison, Prompt, Row
from tests.support.quadratic import new_ledger, open_step, settings_of

ROW = Row(Prompt.user("?"), Answer("warm 1"), Answer("cold 0"))
EQUAL = Row(Prompt.user("?"), Answer("warm"), Answer("warm"))


def open_run(folder, *, k=1, n, m, identical=(), seed=11, rows=2):
    """A ledger with step 0 open: k directions of n comparisons of D ``rows``, M votes each."""
    plan = settings_of(root_seed=seed, K=k, N=n, M=m, D=rows)
    ledger = new_ledger(Path(folder) / "run.db", plan)
    places = [(i, j) for i in range(k) for j in range(n)]
    asked = [
        Comparison(f"c{i}-{j}", 0, i, j, ((EQUAL if (i, j) in identical else ROW),) * rows)
        for i, j in places
    ]
    open_step(ledger, plan, asked)
    return ledger
