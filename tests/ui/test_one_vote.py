"""How many statements of SQL one vote of the page runs, from its request to the next screen."""

import re

import pytest
from starlette.testclient import TestClient

from szpo.ledger import connection
from szpo_ui import app, comparison_view
from szpo_ui.site import of_ledger
from tests.support.browser import CALL, make, panel_call

ROWS = ("optimizer.D=1", "optimizer.N=8", "panel.sheet=8")


@pytest.mark.full
@pytest.mark.parametrize(
    ("sets", "done", "most"),
    [((), 'data-number="2"', 16), (ROWS, {"choice": "A", "notice": None}, 8)],
)
def test_a_vote_of_the_page_runs_few_statements(tmp_path, monkeypatch, sets, done, most):
    """As measured with nothing in memory."""
    statements, plain = [], connection.sqlite3.connect

    def connect(*given, **named):
        made = plain(*given, **named)
        made.set_trace_callback(statements.append)
        return made

    monkeypatch.setattr(connection.sqlite3, "connect", connect)
    stage = make(tmp_path / "run.db", sets=sets)
    stage.advance()
    site = app.create(stage.site, pages=("panelist",))
    first = TestClient(site, base_url="http://localhost")
    first.cookies.update(stage.cookie("panelist", "P-01"))
    with first:
        page = first.post(CALL, json=panel_call(first, "do", do="agree")).json()
    seat = re.search('data-seat="([0-9a-f]+)"', page)[1]
    comparison_view.format_pair.cache_clear()
    site = app.create(of_ledger(stage.ledger), pages=("panelist",))  # nothing is in its memory
    again = TestClient(site, base_url="http://localhost", cookies=first.cookies)
    ballot = {
        "assignment": seat, "choice": "A", "idem": "k" * 16, "tab": "tab-0001",
        "dwell_ms": 60_000, "details": {"seen": 3},
    }  # fmt: skip
    with again:
        call = panel_call(again, "do", do="vote", seat=seat, ballot=ballot)
        if sets:
            call = {**call, "fn_name": "give", "data": ballot}
        del statements[:]
        page = again.post(CALL, json=call).json()
        ran = [one for one in statements if not one.startswith("--")]  # what a statement starts
    assert (done == page if sets else done in page) and len(stage.ledger.votes()) == 1
    assert 0 < len(ran) <= most, ran
