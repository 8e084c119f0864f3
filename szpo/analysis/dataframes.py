"""A run as tables: ``szpo.open(path)`` gives votes, steps and more as pandas data frames.

A notebook shows a run as a small table with a chart.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from szpo.analysis import charts, improvement, run_taste
from szpo.analysis.vote_export import COLUMNS, export_votes
from szpo.ledger.database import Ledger
from szpo.replay import replay, verification
from szpo.replay.record_checks import Report
from szpo.types import Theta

if TYPE_CHECKING:
    import pandas as pd


STEPS: Final = ("step", "state", "mu", "n", "d", "m", "k", "head_sha256", "closed_by")
COMPARISONS: Final = ("comparison", "step", "kind", "k", "n", "identical", "plus", "minus", "tie")
ANSWERS: Final = ("step", "k", "n", "comparison", "i", "prompt", "plus", "minus")
UPDATES: Final = ("step", "k", "coef", "vector", "rule", "estimate", "stderr", "n_votes")


class Tables:
    """A run opened for reading. Tables are read when first used, and cached.

    ``votes``: one row per vote that was not withdrawn, with the panelist's pseudonym, its verdict
    and whether it counts. ``steps``: one row per step with its plan, close, figures and digest.
    ``comparisons``: one row per comparison with counts of votes. ``answers``: one row per pair of
    texts. ``updates``: one row per recorded update.
    """

    def __init__(self, path: str | Path):
        self.ledger: Final = Ledger.open(path, readonly=True)

    @property
    def spec(self) -> dict[str, Any]:
        """The run's settings as recorded."""
        return self.ledger.spec

    @cached_property
    def votes(self) -> pd.DataFrame:
        """All stored votes but withdrawn ones, in order."""
        return _frame(list(export_votes(self.ledger)), COLUMNS)

    @cached_property
    def steps(self) -> pd.DataFrame:
        """All planned steps; applied ones with the figures that their event recorded."""
        recorded = {event["body"]["step"]: event["body"] for event in self.ledger.events("step")}
        rows = []
        for row in self.ledger.steps():
            figures = recorded.get(row["step"], {})
            figures = {k: v for k, v in figures.items() if k not in row and k != "row"}
            del row["run"], row["counted"]
            rows.append({**row, **figures})
        return _frame(rows, STEPS)

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """All comparisons, with their counted votes for plus, minus and tie."""
        heads = self.ledger.query("SELECT * FROM comparisons ORDER BY step, k, n")
        counted = self.votes[self.votes["counted"].astype(bool)]
        counts = counted.groupby(["comparison", "verdict"]).size()
        for head in heads:
            del head["run"]
            for verdict in ("plus", "minus", "tie"):
                head[verdict] = int(counts.get((head["comparison"], verdict), 0))
            head["identical"] = bool(head["identical"])
        return _frame(heads, COMPARISONS)

    @cached_property
    def answers(self) -> pd.DataFrame:
        """All compared rows: the prompt's last turn and both texts."""
        rows = self.ledger.query(
            "SELECT c.step, c.k, c.n, a.* FROM answers a JOIN comparisons c USING (comparison) "
            "ORDER BY c.step, c.k, c.n, a.i"
        )
        for row in rows:
            row["prompt"] = json.loads(row["prompt"])[-1][1]
        return _frame(rows, ANSWERS)

    @cached_property
    def updates(self) -> pd.DataFrame:
        """All recorded updates; vectors are lists of numbers."""
        rows = self.ledger.update_rows()
        for row, update in zip(rows, self.ledger.updates(), strict=True):
            row["vector"] = None if update.vector is None else list(update.vector)
        return _frame(rows, UPDATES)

    def theta(self, until: int | None = None) -> Theta:
        """The recommended weights after the steps < ``until``; None: after all."""
        return replay.fold(self.ledger, until)

    def verify(self, *, deep: bool = True) -> Report:
        """Verify the ledger, as `szpo verify` does."""
        return verification.verify(self.ledger, deep=deep, also=[run_taste.check_recorded])

    def _repr_html_(self) -> str:
        return draw(self.ledger)

    def close(self) -> None:
        """Close the file; tables that were already read stay."""
        self.ledger.close()

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open(path: str | Path) -> Tables:
    """Open a run's ledger as tables."""
    return Tables(path)


def _frame(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(columns))


def draw(ledger: Ledger) -> str:
    """The run as HTML without scripts; all texts are escaped."""
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
    chart = charts.draw_gain(helped)
    picture = charts.standalone(chart) if chart else ""
    return (
        f"<table><caption>szpo run {escape(ledger.path.stem)}</caption><tbody>{body}</tbody>"
        f'</table><div style="max-width:40em">{picture}</div>'
    )
