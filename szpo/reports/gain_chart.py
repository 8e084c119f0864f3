"""The chart of a run's gain over its votes, as the report and the operator's page show it."""

from __future__ import annotations

from typing import Final

from szpo.analysis.improvement import Improvement
from szpo.reports.charts import Series, line_chart

TITLE: Final = "Gain over votes"


def make_series(helped: Improvement) -> Series | None:
    """The share of held-out pairs won over votes, with intervals; None where none was measured."""
    gained = [(p.votes, p.wins) for p in helped.points if p.wins is not None]
    if not gained:
        return None
    # Before any vote the tuned policy is the base, which wins half of the pairs against itself.
    return Series(
        "held out",
        [0, *(votes for votes, _ in gained)],
        [0.5, *(wins.value or 0.0 for _, wins in gained)],
        [0.5, *(wins.low for _, wins in gained)],
        [0.5, *(wins.high for _, wins in gained)],
    )


def draw(helped: Improvement) -> str | None:
    """The share of held-out pairs won, with intervals, as SVG; None where none was measured."""
    series = make_series(helped)
    if series is None:
        return None
    return line_chart(
        TITLE, [series], x_label="votes", y_label="pairs won", reference=0.5, bounds=(0, 1)
    )
