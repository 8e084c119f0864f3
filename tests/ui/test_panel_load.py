"""The load benchmark itself, small: what it counts is what the ledger holds."""

from __future__ import annotations

import pytest

from szpo_ui.bench import crowd, panel_load


@pytest.mark.full
def test_a_burst_at_the_page_loses_and_doubles_nothing_while_an_operator_looks():
    """With a folder's home page and the browser of comparisons open; one that does not answer 200
    ends the benchmark. The other parts below go to a server of one run."""
    found = panel_load.main(parts=("gradio",), voters=12, bursts=2, watched=True, strict=False)
    figures = found["parts"]["gradio"]
    assert (figures["votes"], figures["refused"]) == (24, 0)
    assert (figures["lost"], figures["doubled"], figures["reopened"]) == (0, 0, 0)
    assert 0 < figures["p50"] <= figures["p95"] <= figures["slowest"]
    assert figures["rss_mb"] > 20 and figures["cpu_ms"] > 0


def test_a_lost_vote_is_noticed(tmp_path):
    panel_load.make_run(tmp_path / "run.db", 2, 4)
    seen = crowd.Measured(seconds=[0.1], acknowledged={"0" * 32: "key"})
    assert panel_load.figures(seen, tmp_path / "run.db", 0)["lost"] == 1
