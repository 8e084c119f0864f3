"""Evaluators over the vote service: people elsewhere, a panel of judges here, or a function.

`LedgerEvaluator` waits for people or other processes; `PanelEvaluator` asks judges in this one.
Both write the same kinds of rows.

A `FunctionPanel`'s votes come from a plain Python function. `visit` is for a panel in a process of
its own: it answers a run's open comparisons through the vote service, like people in a browser,
and writes the same rows as a panel inside the run's process, until the run ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, TypeAlias, TypeVar

from szpo import plugins, seeds
from szpo.config.schema import Config
from szpo.errors import RunError, SzpoError, UsageError
from szpo.files import quoted
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.ledger.orders import Order
from szpo.types import Answer, Assignment, Choice, Comparison, Prompt
from szpo.voting import blind, lease, step_states
from szpo.voting.counting import StepVotes
from szpo.voting.evaluator import Evaluator, Judge, NobodyLeftError, Tiring
from szpo.voting.seats import Letter, PanelistKind
from szpo.voting.service import VoteService

Asked = TypeVar("Asked")
"""A member of a panel: a `Judge`, or one that also gives reasons."""

FUNCTION: Final = "function"
"""The ``panel.kind`` of runs in which a Python function votes."""
Better: TypeAlias = Callable[[Any, Any, Any], str | float | None]
"""``better(prompt, a, b)`` gets a prompt's last turn and two answers to it, as texts. Where
verdicts are on batches it is ``better(prompts, a, b)`` and gets lists of these.

It returns "a", "b" or "tie", or the probability from 0 to 1 that a is better, or None or "skip" to
abstain. With a probability, the vote is drawn by the run's own random numbers.
"""
SHARES: Final[Mapping[str, float]] = {"a": 1.0, "tie": 0.5, "b": 0.0}
"""The words that a function may return, with the share of the vote that goes to batch a."""
TRIES: Final = 3
"""How often a function is asked that returns a text which is no vote."""
MAX_EMPTY_STEPS: Final = 3
"""A run ends after this many steps in a row without any vote."""
NO_FUNCTION: Final = (
    "the votes of this run come from a Python function; go on with it by "
    "szpo.Tuner.resume(ledger, better)"
)
Score: TypeAlias = Callable[[Prompt, Answer], float]
"""A function that scores an answer to a prompt; more is better."""
PATIENCE = 300
"""The process gives up after this many polls without a live controller: a minute at .2 s each."""


class LedgerEvaluator:
    """Waits for answers from elsewhere: people in a browser, or the process of `szpo simulate`."""

    def __init__(self, service: VoteService):
        self.service: Final = service

    def submit(self, comparisons: Sequence[Comparison]) -> None:
        """Nothing to do: people are shown every open step."""

    def poll(self, step: int) -> None:
        """Nothing to do: the service stores votes as they come."""


@dataclass(eq=False)
class PanelEvaluator:
    """A panel of judges in this process, who are assigned by a seeded round robin.

    Panelists are named ``name``-0, ``name``-1, …; their ids and seats derive from the root seed,
    so a repeated or resumed run has the same votes.
    """

    service: VoteService
    judges: Sequence[Judge]
    _: KW_ONLY
    name: str = "panel"
    _panel: dict[str, Judge] = field(default_factory=dict, init=False)

    def submit(self, comparisons: Sequence[Comparison]) -> None:
        """Assign seats, ask the panel about these comparisons, and record its answers.

        Raises:
            UsageError: M is larger than the panel, or it is empty.
            RunError: after skips, too few panelists are left for a comparison to reach M.
        """
        self._panel = self._panel or enroll(self.service, "simulated", self.name, self.judges)
        answer(self.service, self._panel, comparisons)

    def poll(self, step: int) -> None:
        """Nothing to do: `submit` has stored every answer."""


def enroll(
    service: VoteService, kind: PanelistKind, name: str, judges: Sequence[Asked]
) -> dict[str, Asked]:
    """Enroll a panel as ``name``-0, ``name``-1, …; returns its members by their ids."""
    if not judges:
        raise UsageError(f"{name}: no judges; give at least one")
    with service.ledger.transaction("votes"):
        return {service.enroll(kind, f"{name}-{i}"): judge for i, judge in enumerate(judges)}


def answer(
    service: VoteService, panel: dict[str, Judge], comparisons: Sequence[Comparison]
) -> None:
    """Let a panel (id → judge, in order) answer comparisons of the open step until M is met.

    Each round has two transactions: all seats, then all answers. Judges are asked in between, so a
    slow one holds no lock. A skip frees the seat for the next panelist in line. Nobody is asked
    once the step is closed; answers that come after that are stored as late.
    """
    ledger = service.ledger
    panel = _advance_tiring(ledger, panel, comparisons)
    while seats := open_seats(service, list(panel), comparisons):
        chosen = [
            panel[panelist].judge(
                comparison,
                panelist=panelist,
                plus_side=seat.plus_side,
                key=judge_key(ledger.root_seed, comparison, panelist),
            )
            for comparison, panelist, seat in seats
        ]
        with ledger.transaction("votes"):
            for (comparison, panelist, seat), choice in zip(seats, chosen, strict=True):
                idem = idem_key(ledger.root_seed, comparison, panelist)
                service.cast(seat.id, choice, idem=idem)


def answer_order(service: VoteService, order: Order, panel: Sequence[tuple[str, Judge]]) -> None:
    """Let a panel answer the comparisons of a final order in turn, and close it, in one commit."""
    ledger, names = service.ledger, orders.comparisons(order)
    asked = [c for c in map(ledger.comparison, names) if c is not None and not c.identical]
    sides = blind.planned_sides(ledger.root_seed, order.id, max(1, len(asked)), 0)
    choices = []
    for i, (comparison, side) in enumerate(zip(asked, sides, strict=False)):
        panelist, judge = panel[i % len(panel)]
        key = judge_key(ledger.root_seed, comparison, panelist)
        choice = judge.judge(comparison, panelist=panelist, plus_side=side, key=key)
        choices.append((comparison.id, side, panelist, choice))
    with ledger.transaction("votes"):
        for comparison_id, side, panelist, choice in choices:
            seat = service.make_seat(comparison_id, side, panelist, None)
            service.cast(seat.id, choice, idem=seat.id)
        orders.close(ledger, order.id, "szpo run")


def _advance_tiring(
    ledger: Ledger, panel: dict[str, Judge], comparisons: Sequence[Comparison]
) -> dict[str, Judge]:
    """Advance each tiring judge by its votes in earlier steps, so a resumed run is the same."""
    tiring = {who for who, judge in panel.items() if isinstance(judge, Tiring) and judge.tires}
    if not tiring or not comparisons:
        return panel
    rows = ledger.query(
        "SELECT a.panelist AS who, count(DISTINCT a.assignment) AS given FROM votes v "
        "JOIN assignments a USING (assignment) JOIN comparisons c USING (comparison) "
        "WHERE c.run = ? AND c.step < ? AND v.choice <> 'skip' GROUP BY a.panelist",
        (ledger.run, comparisons[0].step),
    )
    given = {row["who"]: int(row["given"]) for row in rows}
    return {
        who: judge.after(given.get(who, 0)) if isinstance(judge, Tiring) and judge.tires else judge
        for who, judge in panel.items()
    }


def open_seats(
    service: VoteService,
    ids: Sequence[str],
    comparisons: Sequence[Comparison],
    *,
    complete: bool = True,
) -> list[tuple[Comparison, str, Assignment]]:
    """Seats for these panelists at comparisons of the open step that lack votes, in one commit.

    Empty once M is met, or the step is closed. Without ``complete``, votes that these
    panelists cannot give are left to others.

    Raises:
        UsageError: the step does not exist, or ``complete`` and M is larger than the panel.
        NobodyLeftError: everybody has been asked and a comparison still lacks votes.
    """
    asked = [c for c in comparisons if not c.identical]
    if not asked:
        return []
    ledger = service.ledger
    row = ledger.step(asked[0].step)
    if row is None:
        raise UsageError(f"step {asked[0].step} does not exist in {ledger.path.name}")
    m = row["m"]
    if complete and m > len(ids):
        raise UsageError(f"M = {m} votes need {m} panelists; the panel has {len(ids)}; enlarge it")
    seats = []
    with ledger.transaction("votes"):
        now = ledger.step(row["step"])
        if now is None or now["state"] != "open":
            return []
        left = dict(zip(asked, service.missing(row["step"], [c.id for c in asked]), strict=True))
        short = [comparison for comparison in asked if left[comparison]]
        for comparison in short:
            lack = left[comparison]
            first = (comparison.k * row["n"] + comparison.n) * m
            for panelist in seat_order(ledger.root_seed, comparison.step, first, ids):
                seat = service.assign_to(comparison.id, panelist) if lack else None
                if seat is not None:
                    seats.append((comparison, panelist, seat))
                    lack -= 1
    if complete and short and not seats:
        raise NobodyLeftError(
            f"step {short[0].step}: comparison k={short[0].k} n={short[0].n} has "
            f"{m - left[short[0]]} of {m} votes and everybody has been asked; let others vote "
            "(szpo judge, szpo simulate), or close the round on the operator's page (szpo serve)"
        )
    return seats


def seat_order(root_seed: int, step: int, first: int, ids: Sequence[str]) -> list[str]:
    """The order in which panelists are asked, from seat number ``first`` of a step on.

    A round robin over a permutation drawn per step. With an even panel each round starts one
    later, so that no panelist has plus always on the same side.

    >>> [seat_order(0, 0, first, ["a", "b"])[0] for first in range(4)]
    ['a', 'b', 'b', 'a']
    """
    size = len(ids)
    line = seeds.permutation(seeds.derive(root_seed, "panel", step=step), size)
    order: list[str] = []
    seat = first
    while len(order) < size:
        late = seat // size if size % 2 == 0 else 0
        panelist = ids[int(line[(seat + late) % size])]
        if panelist not in order:
            order.append(panelist)
        seat += 1
    return order


def judge_key(root_seed: int, comparison: Comparison, panelist: str) -> bytes:
    """The key for all randomness in a panelist's answer to a comparison."""
    return _key(root_seed, "judge", comparison, panelist)


def idem_key(root_seed: int, comparison: Comparison, panelist: str) -> str:
    """The idempotency key, under which a panelist's answer to a comparison is stored only once."""
    return _key(root_seed, "idem", comparison, panelist).hex()


def _key(root_seed: int, purpose: str, comparison: Comparison, panelist: str) -> bytes:
    name = f"{comparison.n}/{panelist}"
    return seeds.derive(root_seed, purpose, step=comparison.step, k=comparison.k, name=name)


def check_function(better: object) -> None:
    """Check that ``better`` can be called; None means no function."""
    if better is not None and not callable(better):
        raise UsageError(f"better: {better!r} is no function; give better(prompt, a, b)")


def read_share(answer: object) -> float | None:
    """Turn a function's answer into the share of the vote for batch a, 0 to 1; a tie is .5.

    None if the function abstains.

    >>> [read_share(each) for each in ("a", "tie", 0.75, "B", "skip", True)]
    [1.0, 0.5, 0.75, 0.0, None, 1.0]
    """
    if answer is None or (isinstance(answer, str) and answer.strip().lower() == "skip"):
        return None
    if isinstance(answer, str) and (word := answer.strip().lower()) in SHARES:
        return SHARES[word]
    if isinstance(answer, str) or not hasattr(answer, "__float__"):
        raise _refuse(answer)
    share = float(answer)
    if not (math.isfinite(share) and 0 <= share <= 1):
        raise _refuse(answer)
    return share


def read_choice(answer: object, key: bytes) -> Choice:
    """Turn a function's answer into a vote; with a probability, the vote is drawn by the key.

    >>> [read_choice(each, bytes(16)) for each in ("a", "tie", 1.0, 0, None)]
    ['A', 'tie', 'A', 'B', 'skip']
    """
    share = read_share(answer)
    if share is None:
        return "skip"
    if isinstance(answer, str):
        return "A" if share == 1 else "B" if share == 0 else "tie"
    return "A" if float(seeds.uniform(key, 1)[0]) < share else "B"


def _refuse(answer: object) -> UsageError:
    return UsageError(
        f'better: the function returned {answer!r}; return "a" or True, "b" or False, "tie", the '
        "probability that a is better (0 to 1), or None to abstain"
    )


class FunctionEvaluator(PanelEvaluator):
    """Asks the function; comparisons from which it abstains are left out of their step."""

    def submit(self, comparisons: Sequence[Comparison]) -> None:
        """Ask the function about these comparisons."""
        ledger, step = self.service.ledger, comparisons[0].step
        try:
            super().submit(comparisons)
            if self.service.counted(step):
                return
        except NobodyLeftError:
            pass
        step_states.close(
            ledger, step, "operator", actor=FUNCTION, reason="the function abstained"
        )
        sql = "SELECT sum(n_votes) AS n, min(step) AS first FROM updates WHERE step > ?"
        (past,) = ledger.query(sql, (step - MAX_EMPTY_STEPS,))
        empty = past["n"] == 0 and past["first"] == step - MAX_EMPTY_STEPS + 1
        if empty and not self.service.counted(step):
            raise RunError(
                "better: the function abstained from every pair of steps "
                f"{step - MAX_EMPTY_STEPS + 1} to {step}; nothing can be learned from it"
            )


@dataclass(frozen=True, slots=True)
class FunctionPanel:
    """A panel of ``size`` panelists who all ask one function, and also its own factory."""

    better: Better | None = None
    """The function; None where the run is only read."""
    size: int = 1
    rows: bool = False
    """It is asked about two answers, not about two batches."""

    @property
    def judges(self) -> tuple[FunctionPanel, ...]:
        """One per panelist: itself."""
        if self.better is None:
            raise UsageError(NO_FUNCTION)
        return (self,) * self.size

    def judge(
        self, comparison: Comparison, *, panelist: str, plus_side: Letter, key: bytes
    ) -> Choice:
        """Ask the function, with batch plus as a or b according to ``plus_side``."""
        plus = [row.plus.text for row in comparison.rows]
        minus = [row.minus.text for row in comparison.rows]
        a, b = (plus, minus) if plus_side == "A" else (minus, plus)
        return read_choice(self._ask([row.prompt.text for row in comparison.rows], a, b), key)

    def _ask(self, prompts: list[str], a: list[str], b: list[str]) -> object:
        """What the function returns; asked again after a text that is no vote, a typo."""
        if self.better is None:
            raise UsageError(NO_FUNCTION)
        asked = [each[0] if self.rows else each for each in (prompts, a, b)]
        for left in reversed(range(TRIES)):
            answer = self.better(*asked)
            try:
                read_share(answer)
            except UsageError as error:
                if not left or not isinstance(answer, str):
                    raise
                print(error)
            else:
                break
        return answer

    @property
    def spec(self) -> Mapping[str, Any]:
        """The function's name, for the run's record."""
        name = getattr(self.better, "__qualname__", type(self.better).__name__)
        return {"panel": FUNCTION, "function": name, "size": self.size}

    def evaluator(self, service: VoteService) -> FunctionEvaluator:
        """The panel as an evaluator over a vote service."""
        return FunctionEvaluator(service, self.judges)

    def check(self, config: Config, prompts: Sequence[Prompt]) -> None:
        """Refuse a run without a function to vote in it."""
        if self.better is None:
            raise UsageError(
                'panel.kind "function" needs a Python function: szpo.Tuner(model, prompts, better)'
            )

    def build(
        self, config: Config, start: Any, recorded: Mapping[str, Any] | None = None
    ) -> FunctionPanel:
        """The panel of these settings; without a function it can be described, but not asked."""
        return FunctionPanel(self.better, config.panel.size, config.asks_rows)

    def __str__(self) -> str:
        return f"panel: the function {self.spec['function']}, {self.size} panelists"


def find_reward(ledger: Ledger) -> Score | None:
    """The reward of a run's simulated panel as a function; None if there is none at hand.

    It is only for people who look at a run. Rewards that need the base model are left out.
    """
    panel = ledger.spec.get("config", {}).get("panel", {})
    if panel.get("kind", "people") in ("people", "judge", FUNCTION):
        return None
    try:
        reward = plugins.read_reward(str(panel["reward"]))
    except (SzpoError, KeyError):
        return None
    score: Score = reward.score
    return score


def wait_a_poll() -> None:
    """Wait .2 seconds."""
    time.sleep(0.2)


def visit(
    ledger: Ledger,
    panel: Evaluator,
    *,
    limit: int | None = None,
    once: bool = False,
    leave: int = 0,
    wait: Callable[[], None] = wait_a_poll,
    patience: int = PATIENCE,
    read: Callable[[], None] | None = None,
) -> tuple[int, str]:
    """Answer open comparisons until the run's controller ends, or ``limit`` votes are cast.

    Returns how many votes this process cast, and why it ended.

    Args:
        ledger: the run, opened for writing; its controller lives in another process.
        panel: who answers; comparisons that it cannot complete are left to others.
        limit: most votes of this process; a comparison is begun only if it can be completed.
        once: answer what is open now and return.
        leave: how many comparisons of each step are left to people.
        wait: called whenever nothing is open.
        patience: after this many waits in a row without a live controller the panel gives up.
        read: called before each comparison, which is then answered alone: a human pace.
    """
    cast, idle, driven = 0, 0, False
    step = OpenComparisons(ledger)
    while True:
        held, live = _check_controller(ledger)
        asked = leave_to_people(ledger, step.lacking(), leave)
        if asked and read is not None:
            read()  # somebody else may have voted meanwhile
            asked = leave_to_people(ledger, step.lacking(), leave)[:1]
        chosen = asked if limit is None else _affordable(asked, limit - cast)
        last = ledger.query("SELECT coalesce(max(vote), 0) AS vote FROM votes")[0]["vote"]
        if chosen:
            try:
                step.submit(panel, [comparison for comparison, _ in chosen])
            except NobodyLeftError:
                if not leave and not _are_read(ledger, chosen[0][0].step):
                    raise  # else a person has the last seat, and votes or loses it
        added = _count_votes(ledger, last)
        cast += added
        if limit is not None and (cast >= limit or len(chosen) < len(asked)):
            return cast, f"at most {limit} were asked for"
        if once:
            return cast, "nothing else is open"
        if driven and not held and not added:
            return cast, "the process that drives the run has ended"
        driven |= live
        idle = 0 if live or added else idle + 1
        if idle > patience:
            again = f"szpo run --resume {quoted(ledger.path)}"
            return cast, f"nobody drives this run; start it with: {again}"
        if not added:
            wait()


class OpenComparisons:
    """The comparisons of the open step, and the votes that each lacks.

    A step's comparisons are read once; each call reads only votes that are new.
    """

    def __init__(self, ledger: Ledger):
        self.ledger: Final = ledger
        self._votes: StepVotes | None = None
        self._comparisons: tuple[Comparison, ...] = ()
        self._asked: tuple[Comparison, ...] = ()

    def lacking(self) -> list[tuple[Comparison, int]]:
        """Comparisons of the open step with the votes they lack, those already begun first.

        Empty while the run is paused, when people cannot vote either.
        """
        rows = self.ledger.query(
            "SELECT step, m FROM steps WHERE run = ? AND state = 'open' "
            "ORDER BY step DESC LIMIT 1",
            (self.ledger.run,),
        )
        if not rows or lease.is_paused(self.ledger):
            return []
        step, m = rows[0]["step"], rows[0]["m"]
        if self._votes is None or self._votes.step != step:
            self._votes = StepVotes(self.ledger, step)
            self._comparisons = self.ledger.comparisons(step)
            self._asked = tuple(c for c in self._comparisons if not c.identical)
        votes = self._votes.look()
        found = [(comparison, votes.missing_at(comparison.id)) for comparison in self._asked]
        return sorted(((c, lack) for c, lack in found if lack), key=lambda pair: pair[1] == m)

    def submit(self, panel: Evaluator, asked: Sequence[Comparison]) -> None:
        """Let the panel answer, unless the step closes meanwhile (a deadline, an operator)."""
        step, wanted = asked[0].step, {comparison.id for comparison in asked}
        lack = {comparison.id for comparison, _ in self.lacking()}
        every = [c for c in self._comparisons if c.step == step] or asked
        try:
            # Complete ones are submitted again, as after a crash, and are not changed.
            panel.submit([c for c in every if c.id in wanted or c.id not in lack])
        except UsageError:
            row = self.ledger.step(step)
            if row is not None and row["state"] == "open":
                raise


def leave_to_people(
    ledger: Ledger, asked: list[tuple[Comparison, int]], leave: int
) -> list[tuple[Comparison, int]]:
    """The comparisons that this panel may answer if ``leave`` of the step's are for people.

    Comparisons that a person has open, or has answered, count towards them. With ``leave`` 0 the
    panel may answer all.
    """
    if not leave or not asked:
        return asked
    now = ledger.clock()
    rows = ledger.query(
        "SELECT DISTINCT a.comparison FROM assignments a JOIN panelists p USING (panelist) "
        "JOIN comparisons c USING (comparison) WHERE p.kind = 'person' AND c.kind = 'train' "
        "AND c.run = ? AND c.step = ? AND (a.expires_us > ? OR EXISTS "
        "(SELECT 1 FROM votes v WHERE v.assignment = a.assignment AND v.choice <> 'skip'))",
        (ledger.run, asked[0][0].step, now),
    )
    theirs = {row["comparison"] for row in rows}
    free = [pair for pair in asked if pair[0].id not in theirs]
    reserved = max(0, leave - len(theirs))
    return free[: len(free) - reserved] if reserved else free


def _are_read(ledger: Ledger, step: int) -> bool:
    """Whether a person has an unanswered comparison of the step before them."""
    held = (
        "SELECT 1 FROM assignments a JOIN panelists p USING (panelist) "
        "JOIN comparisons c USING (comparison) WHERE p.kind = 'person' AND c.kind = 'train' "
        "AND c.run = ? AND c.step = ? AND a.expires_us > ? AND NOT EXISTS "
        "(SELECT 1 FROM votes v WHERE v.assignment = a.assignment)"
    )
    return bool(ledger.query(held, (ledger.run, step, ledger.clock())))


def _affordable(asked: list[tuple[Comparison, int]], left: int) -> list[tuple[Comparison, int]]:
    """The first comparisons that ``left`` votes can complete."""
    chosen = []
    for comparison, lack in asked:
        left -= lack
        if left < 0:
            break
        chosen.append((comparison, lack))
    return chosen


def _count_votes(ledger: Ledger, after: int) -> int:
    """Count votes after the given one, without those of people."""
    rows = ledger.query(
        "SELECT count(*) AS n FROM votes v CROSS JOIN assignments USING (assignment) "
        "JOIN panelists USING (panelist) WHERE v.vote > ? AND kind <> 'person'",
        (after,),
    )
    return int(rows[0]["n"])


def _check_controller(ledger: Ledger) -> tuple[bool, bool]:
    """Whether a controller holds the run, and whether its lease is still valid."""
    # A lease may be held although it has expired: its controller was killed, or is
    # generating for long.
    row = lease.controller(ledger)
    held = row["lease"] is not None
    return held, held and row["expires_us"] > ledger.clock()
