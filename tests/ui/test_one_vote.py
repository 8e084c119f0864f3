"""What one vote of the page runs through, from its request to the next screen as HTML."""

import re
import threading
from collections import Counter
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from szpo.ledger import connection
from szpo_ui import app, formatting
from szpo_ui.site import of_ledger
from tests.support.browser import CALL, make, panel_call

ROOT = Path(__file__).parents[2]
TREES = tuple(str(ROOT / tree) for tree in ("szpo/", "ui/"))
MOST = {"functions": 146, "files": 31, "statements": 16}
"""What was measured with nothing in memory: 145, 31 (3 are templates), 16, and a function."""
MOST_OF_A_ROW = {"functions": 73, "files": 17, "statements": 8}
"""The same for a verdict on a row of a sheet: 71, 16, 8."""
ROWS = ("optimizer.D=1", "optimizer.N=8", "panel.sheet=8")


class Walk:
    """Counts functions, files, calls and SQL statements of the project in threads begun in it."""

    def __init__(self, monkeypatch):
        self.on, self.called, self.statements = False, Counter(), []
        plain = connection.sqlite3.connect

        def connect(*given, **named):
            made = plain(*given, **named)
            made.set_trace_callback(self.seen)
            return made

        monkeypatch.setattr(connection.sqlite3, "connect", connect)
        threading.setprofile(self.note)

    def note(self, frame, event, _):
        code = frame.f_code
        own = event == "call" and code.co_filename.startswith(TREES)
        if self.on and own and not code.co_name.endswith(("comp>", "<genexpr>")):
            self.called[code.co_filename[len(str(ROOT)) + 1 :], code.co_qualname] += 1

    def seen(self, statement):
        if self.on and not statement.startswith("--"):  # so SQLite marks what a statement starts
            self.statements.append(" ".join(statement.split()))


@pytest.mark.full
@pytest.mark.parametrize(
    ("sets", "done", "most"),
    [((), 'data-number="2"', MOST), (ROWS, {"choice": "A", "notice": None}, MOST_OF_A_ROW)],
)
def test_a_vote_of_the_page_runs_through_few_functions_files_and_statements(
    tmp_path, monkeypatch, sets, done, most
):
    walk = Walk(monkeypatch)
    stage = make(tmp_path / "run.db", sets=sets)
    stage.advance()
    try:
        first = TestClient(
            app.create(stage.site, pages=("panelist",)), base_url="http://localhost"
        )
        first.cookies.update(stage.cookie("panelist", "P-01"))
        with first:
            page = first.post(CALL, json=panel_call(first, "do", do="agree")).json()
        seat = re.search('data-seat="([0-9a-f]+)"', page)[1]
        site = of_ledger(stage.ledger)  # nothing is in its memory
        formatting.formatted.cache_clear()
        again = TestClient(app.create(site, pages=("panelist",)), base_url="http://localhost")
        again.cookies.update(first.cookies)
        ballot = {
            "assignment": seat, "choice": "A", "idem": "k" * 16, "tab": "tab-0001",
            "dwell_ms": 60_000, "details": {"seen": 3},
        }  # fmt: skip
        with again:
            call = panel_call(again, "do", do="vote", seat=seat, ballot=ballot)
            if sets:
                call = {**call, "fn_name": "give", "data": ballot}
            walk.on = True
            page = again.post(CALL, json=call).json()
            walk.on = False
    finally:
        threading.setprofile(None)
    assert (done == page if sets else done in page) and len(stage.ledger.votes()) == 1
    found = {
        "functions": len(walk.called),
        "files": len({file for file, _ in walk.called}),
        "statements": len(walk.statements),
    }
    assert all(found[name] <= bound for name, bound in most.items()), found
