"""A run in a notebook: its name, settings and progress as a small table with a chart."""

from __future__ import annotations

from html import escape

from szpo.analysis import improvement
from szpo.ledger.database import Ledger
from szpo.reports import charts, gain_chart


def draw(ledger: Ledger) -> str:
    """The run as HTML without scripts; every text in it is escaped."""
    config = ledger.spec.get("config", {})
    updates = ledger.query(
        "SELECT count(DISTINCT step) AS steps, coalesce(sum(n_votes), 0) AS votes FROM updates"
    )[0]
    helped = improvement.read(ledger)
    rows = {
        "model": config.get("model", {}).get("name", "–"),
        "rule": ledger.spec.get("optimizer", {}).get("rule", "–"),
        "panel": config.get("panel", {}).get("kind", "–"),
        "steps": str(updates["steps"]),
        "votes": f"{round(updates['votes']):,}",
        "held out": helped.sentence,
    }
    body = "".join(
        f'<tr><th scope="row" style="text-align:left">{name}</th>'
        f'<td style="text-align:left">{escape(str(value))}</td></tr>'
        for name, value in rows.items()
    )
    chart = gain_chart.draw(helped)
    picture = "" if chart is None else charts.standalone(chart)
    return (
        f"<table><caption>szpo run {escape(ledger.path.stem)}</caption><tbody>{body}</tbody>"
        f'</table><div style="max-width:40em">{picture}</div>'
    )
