"""The chart of what votes taught, as the report and the operator's page show it."""

from __future__ import annotations

from typing import Final

from szpo.analysis.taught import Lesson
from szpo.reports.charts import Series, legend, line_chart

TITLE: Final = "What the votes taught"


def draw(lesson: Lesson) -> str:
    """The probability of each leading group over votes, as SVG with its legend.

    Empty before a taste is shown. Every text in it is escaped.
    """
    if not lesson.lines:
        return ""
    series = [Series(line.name, line.votes, line.chances) for line in lesson.lines]
    chart = line_chart(
        TITLE, series, x_label="votes", y_label="probability", reference=0.5, bounds=(0, 1)
    )
    return chart + legend(series)
