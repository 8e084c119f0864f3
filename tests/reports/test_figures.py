"""Figures and the notebook's view of a run: the numbers drawn are those of the record."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest

import szpo
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.reports import gain_chart
from szpo.training import step_rows

matplotlib.use("agg")
LEDGER = Path(__file__).parents[1] / "ledgers" / "regression.db"


@pytest.fixture(autouse=True)
def closed():
    yield
    from matplotlib import pyplot

    pyplot.close("all")


@pytest.mark.full
def test_figures_hold_the_numbers_of_the_steps():
    with Ledger.open(LEDGER, readonly=True) as ledger:
        rows = step_rows.read(ledger)
        assert szpo.plots.estimates(ledger).lines[0].get_ydata().tolist() == [
            row.estimate for row in rows if row.estimate is not None
        ]
    axes = szpo.plots.length(LEDGER)
    assert axes.lines[0].get_xdata().tolist() == [r.step for r in rows if r.length is not None]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "tokens")
    assert szpo.plots.length(LEDGER, ax=axes) is axes and len(axes.lines) == 2
    if all(row.kl is None for row in rows):
        with pytest.raises(UsageError, match="nothing to draw under 'KL to the base'"):
            szpo.plots.kl(LEDGER)


def test_a_gain_is_drawn_with_its_interval_and_never_made_up(monkeypatch):
    with pytest.raises(UsageError, match="no gain was measured"):
        szpo.plots.gain(LEDGER)
    series = gain_chart.Series("held out", [0, 8], [0.5, 0.75], [0.5, 0.6], [0.5, 0.9])
    monkeypatch.setattr(gain_chart, "make_series", lambda helped: series)
    axes = szpo.plots.gain(LEDGER)
    assert axes.lines[0].get_ydata().tolist() == [0.5, 0.75]
    low, high = axes.collections[0].get_datalim(axes.transData).intervaly
    assert (low, high) == pytest.approx((0.5, 0.9))


def test_a_notebook_shows_the_run_escaped(monkeypatch):
    with szpo.open(LEDGER) as run:
        html = run._repr_html_()
        assert "szpo run regression" in html and "<td" in html and "<script" not in html
        monkeypatch.setitem(run.ledger.spec, "optimizer", {"rule": "<script>alert(1)</script>"})
        assert "&lt;script&gt;" in run._repr_html_()
