"""Judges as panelists of the vote service: several are asked at once, each vote is stored."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Final, TypeAlias

from szpo.errors import RunError, UsageError
from szpo.evaluators import panel_evaluator
from szpo.evaluators.protocol import NobodyLeftError
from szpo.judges.llm_judge import UNREADABLE, Opinion, Opinionated, shorten
from szpo.ledger.database import Ledger
from szpo.types import Assignment, Comparison
from szpo.visible_text import visible
from szpo.voting import steps
from szpo.voting.casting import VoteConflictError, VoteRequest
from szpo.voting.service import VoteService

TOLD_AFTER: Final = 10
"""Comparisons after which it is said how many of a judge's replies had no verdict."""
Seat: TypeAlias = tuple[Comparison, str, Assignment]


class JudgeEvaluator:
    """Panelists of kind judge, named ``name``-0, ``name``-1, …; an `Evaluator`.

    Up to ``concurrency`` comparisons are judged at once. Without ``complete``, others may vote in
    the same run, and seats that these judges cannot fill are left to them.
    """

    def __init__(
        self,
        service: VoteService,
        judges: Sequence[Opinionated],
        *,
        name: str = "judge",
        concurrency: int = 1,
        complete: bool = True,
    ):
        if not judges:
            raise UsageError("judge: no judges; give at least one")
        self.service: Final = service
        self.judges: Final = tuple(judges)
        self.name: Final = name
        self.concurrency: Final = concurrency
        self.complete: Final = complete
        self._panel: dict[str, Opinionated] = {}
        self._asked, self._unread = 0, list[str]()

    def submit(self, comparisons: Sequence[Comparison]) -> None:
        """Judge these comparisons; those that all judges skip are left out of the step.

        Raises:
            UsageError: M is larger than the panel.
            RunError: a judge stopped the run, or all of them skipped a whole step. Votes cast
                before are kept.
        """
        service = self.service
        self._panel = self._panel or panel_evaluator.enroll(
            service, "judge", self.name, self.judges
        )
        try:
            while seats := panel_evaluator.open_seats(
                service, list(self._panel), comparisons, complete=self.complete
            ):
                self._round(seats)
        except NobodyLeftError:
            self._close(comparisons[0].step)

    def poll(self, step: int) -> None:
        """Nothing to do: `submit` has stored every answer."""

    def _round(self, seats: Sequence[Seat]) -> None:
        """Ask about every seat; raise the first error after storing all answers."""
        failed: BaseException | None = None
        left, ended = {seat.id for _, _, seat in seats}, threading.Event()

        def ask(comparison: Comparison, panelist: str, seat: Assignment) -> Opinion | None:
            if ended.is_set():
                return None
            key = panel_evaluator.judge_key(self.service.ledger.root_seed, comparison, panelist)
            return self._panel[panelist].opinion(
                comparison, panelist=panelist, plus_side=seat.plus_side, key=key
            )

        with ThreadPoolExecutor(self.concurrency) as pool:
            asked = {pool.submit(ask, *seat): seat for seat in seats}
            try:
                for future in as_completed(asked):
                    if (error := future.exception()) is not None:
                        failed = failed or error
                        ended.set()
                    elif (opinion := future.result()) is not None:
                        self._cast(asked[future], opinion)
                        left.discard(asked[future][2].id)
            finally:
                ended.set()  # an interrupt waits only for questions under way
        if failed is not None:
            with self.service.ledger.transaction("votes"):
                for seat in left:
                    self.service.release(seat)
            raise failed

    def _tell_unread(self, opinion: Opinion) -> None:
        """After the first `TOLD_AFTER` comparisons warn of replies without a verdict."""
        self._asked += 1
        if UNREADABLE in str(opinion.details.get("error", "")):
            texts = [shorten(reply["text"]) for reply in opinion.details["replies"]]
            self._unread.append(texts[-1])
        if self._asked == TOLD_AFTER and self._unread:
            logging.getLogger("szpo").warning(
                f"judge: {UNREADABLE} to {len(self._unread)} of the first {TOLD_AFTER} "
                f"comparisons; one ends: {visible(self._unread[0])!r}"
            )

    def _cast(self, seat: Seat, opinion: Opinion) -> None:
        self._tell_unread(opinion)
        comparison, panelist, assignment = seat
        # Another process of this judge was faster, or the step closed: keep the stored vote.
        with contextlib.suppress(VoteConflictError):
            self.service.cast(
                VoteRequest(
                    assignment.id,
                    opinion.choice,
                    idem=panel_evaluator.idem_key(
                        self.service.ledger.root_seed, comparison, panelist
                    ),
                    skip_reason=opinion.reason,
                    details=opinion.details,
                )
            )

    def _close(self, step: int) -> None:
        """Close a step with the votes there are."""
        ledger = self.service.ledger
        reasons = _reasons(ledger, step)
        top = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common(3))
        if not self.service.counted(step):
            raise RunError(
                f"step {step}: no comparison was judged ({top or 'nobody is left to ask'}); "
                "correct the judge, then let it answer as new panelists: szpo judge RUN --name NEW"
            )
        reason = f"skipped by every judge: {top}" if top else "nobody is left to ask"
        steps.close(ledger, step, steps.Closing("operator", actor="judge", reason=reason))


def tokens(ledger: Ledger) -> Mapping[str, tuple[int, int]]:
    """Tokens read and written by each judge of a run so far, by panelist's name."""
    rows = ledger.query(
        "SELECT p.pseudonym AS name, sum(json_extract(v.details, '$.tokens[0]')) AS read, "
        "sum(json_extract(v.details, '$.tokens[1]')) AS written "
        "FROM votes v JOIN assignments a USING (assignment) JOIN panelists p USING (panelist) "
        "WHERE p.kind = 'judge' GROUP BY p.pseudonym ORDER BY p.pseudonym"
    )
    return {row["name"]: (int(row["read"] or 0), int(row["written"] or 0)) for row in rows}


def _reasons(ledger: Ledger, step: int) -> Counter[str]:
    rows = ledger.query(
        "SELECT v.skip_reason FROM votes v JOIN assignments a USING (assignment) "
        "JOIN comparisons c USING (comparison) JOIN panelists p USING (panelist) "
        "WHERE c.run = ? AND c.step = ? AND c.kind = 'train' AND v.choice = 'skip' "
        "AND p.kind = 'judge'",
        (ledger.run, step),
    )
    return Counter(row["skip_reason"] or "skipped" for row in rows)
