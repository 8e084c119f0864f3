"""Every step of a run as a row: its plan, its times, its figures, read from the ledger.

Summaries, the dashboard and exports all begin here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from szpo.ledger.database import Ledger, Record


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step: its plan, its times, its figures."""

    step: int
    state: str
    pairing: str
    mu: float
    k: int
    n: int
    m: int
    d: int
    asked: int
    """Comparisons that were shown."""
    identical_comparisons: int
    """Comparisons that were tied without asking."""
    opened_us: int | None = None
    closed_us: int | None = None
    closed_by: str | None = None
    applied_us: int | None = None
    generation_s: float | None = None
    estimate: float | None = None
    """Δ̂ as the run recorded it, mean over directions."""
    stderr: float | None = None
    headings: tuple[float, ...] = ()
    """Per direction: cosine of v with the path of the last ten steps; empty where unknown."""
    kl: float | None = None
    length: float | None = None
    length_plus: float | None = None
    length_minus: float | None = None
    norm: float | None = None
    identical: float | None = None
    repetition: float | None = None
    distinct: float | None = None
    """Different word pairs over all word pairs of the answers; see `szpo.analysis.evidence`."""
    not_finite: tuple[str, ...] = ()
    """Watched figures that came out as no number; they stand above as unknown."""
    theta_sha256: str | None = None


def read(ledger: Ledger) -> tuple[StepRow, ...]:
    """One row per planned step, in order; headings and ``distinct`` are left open."""
    generated, applied = (read_figures(ledger, [kind]) for kind in ("generated", "step"))
    updates: dict[int, list[Record]] = defaultdict(list)
    for update in ledger.update_rows():
        updates[update["step"]].append(update)
    shown = {
        row["step"]: (row["shown"], row["same"])
        for row in ledger.query(
            "SELECT step, sum(identical = 0) AS shown, sum(identical) AS same FROM comparisons "
            "WHERE kind = 'train' GROUP BY step"
        )
    }
    rows = []
    for row in ledger.steps():
        step = row["step"]
        figures = generated[step] | applied[step]
        # An applied step notes a time of the same name, with what the step waited.
        figures["generation_s"] = generated[step].get("generation_s")
        rows.append(_row(row, shown.get(step, (0, 0)), figures, updates[step]))
    return tuple(rows)


def _row(
    row: Record, shown: tuple[int, int], figures: Mapping[str, Any], updates: Sequence[Record]
) -> StepRow:
    estimates = [u["estimate"] for u in updates if u["estimate"] is not None]
    errors = [u["stderr"] for u in updates if u["stderr"] is not None]
    return StepRow(
        step=row["step"], state=row["state"], pairing=row["pairing"], mu=row["mu"], k=row["k"],
        n=row["n"], m=row["m"], d=row["d"], asked=shown[0], identical_comparisons=shown[1],
        opened_us=row["opened_us"], closed_us=row["closed_us"], closed_by=row["closed_by"],
        applied_us=updates[-1]["applied_us"] if updates else None,
        generation_s=_number(figures.get("generation_s")),
        estimate=sum(estimates) / len(estimates) if estimates else None,
        stderr=sum(e * e for e in errors) ** 0.5 / len(errors) if errors else None,
        not_finite=tuple(figures.get("not_finite", ())),
        theta_sha256=updates[0]["theta_sha256"] if updates else None,
        kl=_number(figures.get("kl")), length=_number(figures.get("length")),
        length_plus=_number(figures.get("length_plus")),
        length_minus=_number(figures.get("length_minus")), norm=_number(figures.get("norm")),
        identical=_number(figures.get("identical")),
        repetition=_number(figures.get("repetition")),
    )  # fmt: skip


def read_figures(ledger: Ledger, kinds: Iterable[str]) -> defaultdict[int, dict[str, Any]]:
    """What events of these kinds note of each step; later kinds complete earlier ones."""
    found: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    for kind in kinds:
        for event in ledger.events(kind):
            body = event["body"]
            if isinstance(body.get("step"), int):
                noted = {name: value for name, value in body.items() if value is not None}
                found[body["step"]] |= noted
    return found


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
