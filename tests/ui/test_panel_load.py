"""The load benchmark itself, small: what it counts is what the ledger holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from szpo.errors import RunError
from szpo.ledger.database import Ledger
from szpo_ui.bench import crowd, panel_load


@pytest.mark.full
def test_a_burst_at_the_page_loses_and_doubles_nothing_while_an_operator_looks() -> None:
    """With a folder's home page and the browser of comparisons open; one that does not answer 200
    ends the benchmark. The other parts below go to a server of one run."""
    found = panel_load.main(parts=("gradio",), voters=12, bursts=2, watched=True, strict=False)
    figures = found["parts"]["gradio"]
    assert (figures["votes"], figures["refused"]) == (24, 0)
    assert (figures["lost"], figures["doubled"], figures["reopened"]) == (0, 0, 0)
    assert 0 < figures["p50"] <= figures["p95"] <= figures["slowest"]
    assert figures["rss_mb"] > 20 and figures["cpu_ms"] > 0


@pytest.mark.slow
def test_panelists_at_the_api_with_something_heavy_beside() -> None:
    found = panel_load.main(
        parts=("api", "beside"), voters=3, panelists=20, think=0.2, seconds=1, model="multiply",
        strict=False,
    )  # fmt: skip
    assert found["parts"]["api"]["votes"] >= 20  # each of them once
    for figures in found["parts"].values():
        assert figures["votes"] > 0
        assert (figures["lost"], figures["doubled"], figures["reopened"]) == (0, 0, 0)


def test_a_lost_vote_is_noticed(tmp_path: Path) -> None:
    panel_load.make_run(tmp_path / "run.db", 2, 4)
    seen = crowd.Measured(seconds=[0.1], acknowledged={"0" * 32: "key"})
    assert panel_load.figures(seen, tmp_path / "run.db", 0)["lost"] == 1


def test_the_run_takes_the_votes_that_were_asked_for(tmp_path: Path) -> None:
    sessions = panel_load.make_run(tmp_path / "run.db", 3, 130)
    assert len(set(sessions)) == 3
    with Ledger.open(tmp_path / "run.db") as ledger:
        (step,) = ledger.steps()
        assert (step["state"], step["n"] * step["m"]) == ("open", 192)


def test_a_missed_target_fails_with_its_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = dict.fromkeys(("p50", "p95", "p99", "slowest"), 0.7)
    none = dict.fromkeys(("lost", "doubled", "refused", "reopened", "rss_mb", "cpu_ms"), 0.0)
    monkeypatch.setattr(panel_load, "_part", lambda *_, **__: {"votes": 9, **slow, **none})
    with pytest.raises(RunError, match=r"gradio p95 is 0\.7 s, not < 0\.5"):
        panel_load.main(parts=("gradio",))
