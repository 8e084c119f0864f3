"""``szpo vote``: one person votes on a run's sheets in a terminal, without a server.

A process beside this one holds the model, unless one elsewhere drives the run. Each verdict is
stored when it is given.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import shlex
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Final

import typer

from szpo.analysis import taught_taste
from szpo.analysis.measuring import WRITTEN, is_compared
from szpo.cli import child_process, console, run, run_paths
from szpo.config.schema import RUBRIC_VERSION, Config
from szpo.config.sentences import ENGLISH
from szpo.errors import LeaseError, UsageError
from szpo.improvement.begun_before import last_begun
from szpo.ledger import orders, theta
from szpo.ledger.database import Ledger, Record
from szpo.ledger.run_spec import FEATURES, recorded_config
from szpo.optim.parameters import NO_COORDINATES
from szpo.runs import known_addresses, samples, setup_progress
from szpo.runs.budget import DRAWN, WORDS_PER_MINUTE
from szpo.runs.setup_progress import Countdown, Stage
from szpo.runs.status import LIMIT, RoundStatus, StatusReader
from szpo.types import Assignment, Choice, Comparison
from szpo.voting import blind, casting, counting, lease, seats
from szpo.voting.casting import VoteConflictError
from szpo.voting.pauses import describe_pause
from szpo.voting.service import VoteService

PRESET: Final = "people"
ALONE: Final = "terminal"
"""The usual pseudonym."""
LOOK_S: Final = 0.25
"""Seconds between two looks at the run while the person waits."""
ENOUGH_TIMES: Final = 3
"""Fewest verdicts from which a person's own pace is known."""
RECENT: Final = 16
"""Latest verdicts by which it is known: people grow faster, or tired."""
LONG: Final = 4.0
"""A row counts as at most so many usual ones: somebody took a break."""
USUAL_STEPS: Final = 10
"""Steps that an improvement takes as a rule: seven to ten were measured on SmolLM2, by 3 nats."""
DOING: Final = {
    "none": "the model writes the first answers", "generating": "the model writes answers",
    "open": "waiting for the others", "closed": "learning from the votes",
}  # fmt: skip
"""What goes on while this person has nothing to judge, by the round's state."""
VERDICTS: Final[dict[str, tuple[Choice, str | None]]] = {
    "left": ("A", None), "a": ("A", None), "right": ("B", None), "b": ("B", None),
    "down": ("tie", None), "s": ("tie", None), "?": ("skip", None),
    "h": ("skip", counting.HARMFUL),
}  # fmt: skip
"""Choice and reason of a skip, by key."""
BACK: Final = ("up", "u")
HELP: Final = (
    "left or a: A is better; right or b: B; down or s: about the same; ?: can't judge; "
    "h: harmful, nobody is shown it again; up or u: back one row; q: leave"
)
SAID: Final = ("warning: ", "say: ", "not improved: ")
"""How the lines of the model's process begin that the person reads too."""
REPEATS: Final = "Some pairs come twice, with sides changed: that tells how far your votes agree."
SHOWN: Final = "the votes show a taste by now; the end says which, so that it leads none of them"
SHORT_HELP: Final = "a ← A   b → B   s ↓ same   ? can't judge   h harmful   u ↑ back   q leave"


def vote(
    name: str | None = typer.Argument(
        None, metavar="RUN",
        help="Name or file of a run, or a settings file; without it, the newest run, or a new "
        "one where there is none.",
    ),
    preset: str | None = typer.Option(
        None, "--preset", help=f"Begin a run from a preset; default: {PRESET}."
    ),
    sets: list[str] = run_paths.SETS,
    pseudonym: str = typer.Option(
        ALONE, "--as", help="Pseudonym under which your votes are stored."
    ),
    accept_samples: bool = typer.Option(
        False, "--accept-samples", help="Open the run even if its sample answers are poor."
    ),
    features: list[str] = typer.Option(
        [], "--feature", help="A feature that is code of yours, given again; see szpo run."
    ),
    trust: list[str] = run_paths.TRUST,
    plan: bool = typer.Option(False, "--plan", help="Estimate what a new run costs, and stop."),
    votes: str | None = typer.Option(
        None, "--votes", help="Add votes to a recorded run, such as +40, even if it is finished."
    ),
    folder: Path | None = run_paths.FOLDER_OF_NEW,
) -> int:  # fmt: skip
    """Vote in this terminal: begin a run, or join one; the model answers in the background."""
    known_addresses.trust(trust)
    if name is None and preset is None and (sets or not run_paths.files(folder or run_paths.RUNS)):
        preset = PRESET
    path, config = run_paths.find_target(name, folder, preset, sets)
    accepted = ["--accept-samples"] if accept_samples else []
    if plan:
        if config is None:
            raise UsageError(
                f"--plan is for a new run, and {path.stem} has begun; give --preset {PRESET}"
            )
        _require_people(path, config)
        run.show_plan(config, "the same without --plan")
        return 0
    if config is not None:
        if votes is not None:
            raise UsageError("--votes adds to a recorded run; for a new one: --set run.votes=40")
        _require_people(path, config)
        features = [*config.features.own]
        _offer_question(config)
    elif votes is not None:
        run.add_votes(path, votes, features)
    with contextlib.ExitStack() as stack:
        keys = stack.enter_context(console.Keys())
        model = _Model()
        stack.callback(model.close)
        if config is not None:
            model.start(child_process.beginner(name, preset, sets, path.parent, *accepted))
            if not _set_up(path, model, keys):
                return 0
        ledger = stack.enter_context(Ledger.open(path))
        config = recorded_config(ledger)
        if config is None:
            raise UsageError(f"{path.name} was not made by szpo run; vote in your own program")
        _require_people(path, config)
        if accept_samples:
            samples.accept_samples(ledger, "szpo vote --accept-samples")
        words = ["szpo", "vote", str(path)]
        words += ["--as", pseudonym] if pseudonym != ALONE else []
        words += [word for each in features for word in ("--feature", each)]
        again = shlex.join(words)
        console.set_resumable(again)
        drive = child_process.controller(path, features, *accepted)
        return _Sitting(ledger, config, pseudonym, keys, model, drive, again).go()


def _require_people(path: Path, config: Config) -> None:
    if config.panel.kind != "people":
        raise UsageError(
            f"{path.stem}: its panel is {config.panel.kind}, not people; begin a run of your own: "
            "szpo vote --set run.name=mine"
        )


def _offer_question(config: Config) -> None:
    """Say what will be asked while it can still be another question."""
    asked = ENGLISH.rubric(config.panel, rows=config.asks_rows).question
    if asked != config.panel.question:
        console.say(f"you will be asked: {asked}")
        console.say(
            f"  another question: {console.LEAVE} now, then again with "
            "--set 'panel.question=\"…\"'"
        )


class _Model:
    """The process that drives the run, if this command started one, and what it prints."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self.lines: list[str] = []
        """Lines that nobody has taken yet."""
        self.error = ""
        """Its last refusal."""

    def start(self, command: Sequence[str]) -> None:
        self.child = child_process.start(command, heard=True)
        self._listener = threading.Thread(target=self._listen, args=[self.child], daemon=True)
        self._listener.start()

    def _listen(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        with child.stdout as out:
            for line in out:
                text = line.decode(errors="replace").rstrip()
                self.lines.append(text)
                if text.startswith("error: "):
                    self.error = text.removeprefix("error: ")

    def ended(self) -> int | None:
        """Its exit code once it has ended and all that it printed was heard."""
        code = None if self.child is None else self.child.poll()
        if code is not None:
            self._listener.join()
        return code

    def close(self) -> None:
        if self.child is not None:
            child_process.end(self.child)
            self._listener.join()


def _set_up(path: Path, model: _Model, keys: console.Keys) -> bool:
    """Wait until the run's file stands; False if the person leaves."""
    console.say(f"setting up {path.stem}")
    with console.never_silent("loading libraries, checking settings and prompts"):
        while not path.exists():
            if (code := model.ended()) is not None:
                why = model.error or f"exit code {code}"
                raise child_process.failed(code, f"the run could not be set up: {why}")
            stages = setup_progress.read(path)
            if stages:
                console.doing(f"set-up: {stages[-1]} ({console.LEAVE}: leave)")
            if keys.pause(LOOK_S):
                console.say("left before the run began")
                return False
    return True


@dataclass(slots=True)
class _Asked:
    """A row that was put to the person, or several that are judged together."""

    seat: Assignment
    comparison: Comparison
    place: str
    """Its place in the sheet, in words."""
    given: tuple[Choice, str | None] | None
    """The verdict that stands."""


def usual_seconds(times: Sequence[float]) -> float:
    """Seconds that a row takes by the latest verdicts' times; a break counts as `LONG` rows.

    >>> usual_seconds([9.0] * 40 + [3.0] * 15 + [600.0])
    3.5625
    """
    latest = times[-RECENT:]
    usual = median(latest)
    return fmean(min(each, LONG * usual) for each in latest)


def _minutes(seconds: float) -> str:
    return console.count(max(1, round(seconds / 60)), "minute")


class _Pace:
    """How fast the improvement at a run's end goes, and the measuring that follows."""

    def __init__(self, measured: int):
        """``measured``: answers of the measuring; one takes as long as one of a step."""
        self._steps, self._after = Countdown(time.monotonic), round(measured / DRAWN)

    def describe(self, steps: Stage, now: str) -> str:
        """How far it is, and how long it takes as fast as its steps were so far."""
        some = steps.done < USUAL_STEPS
        told = f"some {USUAL_STEPS} steps, at most {steps.of}" if some else f"{steps.of} at most"
        told = f"improving: {steps.done} of {told}"
        if now:
            self._steps = Countdown(time.monotonic)  # what comes before a step is no part of it
        most = USUAL_STEPS if some else steps.of
        left = self._steps.left(replace(steps, of=most + self._after))
        if now or left is None:
            return f"{told}; {now}" if now else told
        rest = console.count(max(1, math.ceil(left / 60)), "minute")
        told = f"{told}; {'about' if some else 'at most'} {rest}"
        return f"{told} with measuring" if self._after else told


class _Sitting:
    """One person's sitting at a run."""

    def __init__(
        self,
        ledger: Ledger,
        config: Config,
        pseudonym: str,
        keys: console.Keys,
        model: _Model,
        drive: Sequence[str],
        again: str,
    ):
        self.ledger, self.config, self.keys, self.model = ledger, config, keys, model
        self.drive, self.again = drive, again
        self.service = VoteService(ledger, rubric_version=RUBRIC_VERSION)
        self.me = self.service.enroll("person", pseudonym)
        self.pseudonym, self.tab = pseudonym, secrets.token_hex(8)
        self.status = StatusReader(ledger, self.service.look)
        self.asked: list[_Asked] = []
        aside, e = ledger.spec.get("prompts", {}).get("heldout", 0), config.evaluation
        self.read_at_end = 2 * e.samples * min(e.prompts, aside)
        """Answers of start and end by which the run is measured."""
        self.pace, self.measured = _Pace(self.read_at_end), Countdown()
        self.shown = self._shows()

    def go(self) -> int:
        """Ask until the run ends or the person leaves; returns the exit code."""
        self._is_driven()  # the model loads while the person reads
        if not self._agree():
            return self._leave()
        while True:
            if not (sheet := self._wait()):
                return self._leave() if sheet is None else self._conclude()
            if not self._ask(sheet):
                return self._leave()

    # ---- consent ----

    def _agree(self) -> bool:
        """Say what is recorded, and ask before the first row; False if the person leaves."""
        if seats.has_agreed(self.ledger, self.me):
            return True
        panel = ENGLISH.rubric(self.config.panel, rows=self.config.asks_rows)
        wording = ENGLISH.consent(moves=self.ledger.layout != NO_COORDINATES)
        console.say(f"{panel.question} {panel.brief}")
        for text in (*wording, panel.consent, REPEATS * self.config.picks_pairs):
            if text:
                console.say(text.replace("{name}", self.pseudonym))
        agreed = self._goes_on(ENGLISH.page["agree_start"], "leave")
        if agreed:
            seats.record_consent(self.ledger, self.me, wording, panel.consent)
        return agreed

    def _goes_on(self, on: str, leave: str) -> bool:
        """Whether the person goes ``on``, with Enter, rather than ``leave``."""
        key = None
        while key not in ("", "y", console.LEAVE):
            console.say(f"Enter: {on.lower()}; {console.LEAVE}: {leave.lower()}")
            key = self.keys.read()
        return key != console.LEAVE

    # ---- waiting ----

    def _wait(self) -> tuple[Assignment, ...] | None:
        """The next sheet, as soon as there is one; () at the run's end, None to leave."""
        told, over = console.draws(), False  # a log's first line would come after a minute
        with console.never_silent(""):
            while True:
                status = self.status.read()
                if status.state == "open":
                    sheet = self.service.sheet(self.me, self.config.sheet, tab=self.tab)
                    if sheet:
                        if not self.shown and self._shows():
                            self.shown = True
                            console.say(f"\n{SHOWN}")
                        return sheet
                driven = self._is_driven()
                while self.model.lines:
                    if (line := self.model.lines.pop(0)).startswith(SAID):
                        console.complain(line)
                if not driven:
                    return ()
                if status.state == "finished" and not over:
                    console.say(f"\nall votes are in{self._what_follows()}")
                    over = True
                if not told and status.state in ("none", "generating"):
                    console.complain(DOING[status.state])
                    told = True
                console.doing(f"{self._describe(status)} ({console.LEAVE}: leave)")
                if self.keys.pause(LOOK_S):
                    return None

    def _is_driven(self) -> bool:
        """Whether the run goes on, here or elsewhere; starts the model where nobody else does."""
        code, status = self.model.ended(), self.status.read()
        if self.model.child is not None and code is None:
            return True
        if code is not None and code != LeaseError.exit_code:
            if code == 0 or status.paused_by is not None:
                return False
            why = self.model.error or f"the model's process ended with code {code}"
            raise child_process.failed(
                code, f"{why}; your votes are stored, go on with: {self.again}"
            )
        if status.state == "finished" and not self._goes_further():
            return False
        held = lease.controller(self.ledger)
        if not lease.is_driven(held["lease"], held["expires_us"], self.ledger.clock()):
            self.model.start(self.drive)
        return True

    def _shows(self) -> bool:
        """Whether the votes show a taste."""
        return bool(taught_taste.shown_from(self.ledger))

    def _undone(self) -> tuple[bool, bool]:
        """Whether a run whose votes are in still has to be improved, and to be compared."""
        ledger, steps = self.ledger, len(theta.theta_digests(self.ledger)) - 1
        improves = self.config.improves and self._shows() and last_begun(ledger) < steps
        moves = improves or not theta.is_still(ledger)
        return improves, moves and self.read_at_end > 0 and not is_compared(ledger)

    def _goes_further(self) -> bool:
        """Whether a run whose votes are in has not done all that it does then."""
        return any(self._undone()) or bool(orders.open_orders(self.ledger))

    def _what_follows(self) -> str:
        """What a run whose votes are in does next, in order; "" where it does nothing."""
        improves, measured = self._undone()
        after = "measuring on prompts set aside, then blind pairs for you" if measured else ""
        if improves:
            then = f"; if it gains, {after}" if after else ""
            return f". Now improving on what they liked{then}"
        return f". Now {after}" if after else ""

    def _describe(self, status: RoundStatus) -> str:
        if status.state == "finished":
            if (found := setup_progress.read_improving(self.ledger.path)) is not None:
                return self.pace.describe(*found)
            if not self._goes_further():
                return "the run ends"
            if theta.is_still(self.ledger):
                return "the model loads"
            if any(each.kind == "final" for each in orders.open_orders(self.ledger)):
                return "the model writes blind pairs of its start and its end"
            stages = setup_progress.read(self.ledger.path, setup_progress.MEASURING)
            far = f": {self.measured.describe(stages[-1])}" if stages else ""
            then = "; then they are read" if stages and stages[-1].name == WRITTEN else ""
            return f"measuring on prompts set aside{far}{then}"
        if status.paused_by is not None:
            return f"paused by {describe_pause(status.paused_by, status.pause_reason or '')}"
        if status.state == "open" and status.votes_in >= status.votes_needed:
            return self._describe_model(status)
        return DOING[status.state]

    def _describe_model(self, status: RoundStatus) -> str:
        """What the model does once all verdicts of an open round are in."""
        if not status.generated:
            return "the model writes the next answers"
        if not list(self.ledger.events(FEATURES)) and self.ledger.layout == NO_COORDINATES:
            return "the model reads answers of its own, once, to compare yours with"
        return "learning from your votes"

    # ---- asking ----

    def _ask(self, sheet: Sequence[Assignment]) -> bool:
        """Ask the rows of a sheet; False if the person leaves."""
        self.asked = [row for row in self.asked if row.given is not None]
        first = len(self.asked)
        self.asked += self._read(sheet)
        at = self._next(first)
        while at < len(self.asked):
            row = self.asked[at]
            self._show(row)
            began, key = time.monotonic(), self.keys.read()
            while key not in VERDICTS and key not in (*BACK, console.LEAVE):
                console.say(HELP)
                key = self.keys.read()
            if key == console.LEAVE:
                return False
            if key in BACK:
                if not at:
                    console.say("this is the first row")
                at = max(0, at - 1)
                continue
            if VERDICTS[key] != row.given and not self._cast(row, key, began):
                return True
            at = self._next(at)
        return True

    def _read(self, sheet: Sequence[Assignment]) -> list[_Asked]:
        found, sheets = [], self._count_sheets()
        for number, seat in enumerate(sheet, 1):
            comparison = self.ledger.comparison(seat.comparison)
            assert comparison is not None, seat.comparison
            last = casting.read_seat(self.ledger, seat.id)[-1]
            given = None
            if last["vote"] is not None:  # in an earlier sitting
                self.service.take(seat.id, self.tab)
                given = last["choice"], last["skip_reason"]
            row = f"row {number} of {len(sheet)}, " if len(sheet) > 1 else ""
            final = comparison.kind == "final"
            place = f"pair {len(self.asked) + 1}" if final else f"{row}sheet {sheets}"
            found.append(_Asked(seat, comparison, place, given))
        return found

    def _next(self, at: int) -> int:
        """The index of the first row from ``at`` on without a verdict."""
        while at < len(self.asked) and self.asked[at].given is not None:
            at += 1
        return at

    def _show(self, row: _Asked) -> None:
        out = console.console
        left = self._finals_left() if row.comparison.kind == "final" else self._left()
        out.print(f"\n{row.place}{left}", style="dim", markup=False)
        console.show(row.comparison, row.seat, out)
        if row.given is not None:
            choice, reason = row.given
            said = reason if reason == counting.HARMFUL else ENGLISH.choices[choice]
            console.say(f"your vote so far: {said}")
        out.print(SHORT_HELP, style="dim", markup=False)

    def _left(self) -> str:
        """How many sheets this person has in all, and how many minutes are left, in words."""
        status, size = self.status.read(), self.config.sheet
        known = self.ledger.query(
            "SELECT (SELECT coalesce(sum(n_votes), 0) FROM updates) AS done, count(DISTINCT "
            "panelist) AS others FROM votes JOIN assignments USING (assignment) "
            "WHERE panelist <> ?",
            (self.me,),
        )[0]
        left = max(0, status.votes_planned - known["done"] - status.votes_in) / (
            known["others"] + 1
        )
        here = sum(row.given is None for row in self.asked)
        each = max(1, status.votes_needed)
        rounds, rest = divmod(max(0.0, left - here), each)
        sheets = self._count_sheets() + rounds * math.ceil(each / size) + math.ceil(rest / size)
        seconds = left * self._seconds() + rounds * self._wait_s()
        return f" of about {sheets:.0f}, about {_minutes(seconds)} left"

    def _finals_left(self) -> str:
        """How many blind pairs there are, and how many minutes are left, in words."""
        left = blind.count_left(self.ledger, self.me, self.ledger.clock())
        here = sum(row.given is None for row in self.asked)
        minutes = _minutes((left + here) * self._seconds())
        return f" of {len(self.asked) + left}, about {minutes} left"

    def _count_sheets(self) -> int:
        sql = "SELECT count(DISTINCT sheet) AS n FROM assignments WHERE panelist = ?"
        return int(self.ledger.query(sql, (self.me,))[0]["n"])

    def _seconds(self) -> float:
        """Seconds that a row takes this person: as measured, or at the usual speed of reading."""
        times = [row["dwell_ms"] / 1000 for row in self._own_votes()]
        if len(times) >= ENOUGH_TIMES:
            return usual_seconds(times)
        rows = [row for each in self.asked for row in each.comparison.rows if not row.identical]
        texts = [text for row in rows for text in (row.prompt.text, row.plus.text, row.minus.text)]
        words = sum(len(text.split()) for text in texts)
        return 60 * words / WORDS_PER_MINUTE / len(self.asked)

    def _wait_s(self) -> float:
        """Seconds that this person usually waits for the model between two rounds."""
        waits = [
            (after["received_us"] - before["received_us"]) / 1e6 - after["dwell_ms"] / 1000
            for before, after in pairwise(self._own_votes())
            if after["step"] > before["step"] > 0  # the first wait is longer, and comes once
        ]
        return max(0.0, median(waits)) if waits else 0.0

    def _own_votes(self) -> list[Record]:
        """Step, time and dwell time of this person's verdicts, in order."""
        return self.ledger.query(
            "SELECT step, received_us, dwell_ms FROM votes JOIN assignments USING (assignment) "
            "JOIN comparisons USING (comparison) WHERE panelist = ? AND kind = 'train' "
            "AND revision = 0 AND dwell_ms IS NOT NULL ORDER BY vote", (self.me,),
        )  # fmt: skip

    def _cast(self, row: _Asked, key: str, began: float) -> bool:
        """Store a verdict; False if it came too late, so that the sheet is over."""
        choice, reason = VERDICTS[key]
        spent = round(1000 * (time.monotonic() - began))
        notices = ENGLISH.notices
        try:
            receipt = self.service.cast(
                row.seat.id, choice, secrets.token_hex(16), skip_reason=reason, dwell_ms=spent,
                tab=self.tab, panelist=self.me,
            )  # fmt: skip
        except VoteConflictError as refusal:
            if refusal.code == "stale_tab":
                raise UsageError(
                    f"{self.pseudonym} votes elsewhere by now; here: szpo vote --as ANOTHER"
                ) from None
            closed = "final_closed" if row.comparison.kind == "final" else "closed"
            console.say(notices["often" if refusal.code == "changed_often" else closed])
            return True
        row.given = VERDICTS[key]
        if receipt.late:
            final = row.comparison.kind == "final"
            console.say(notices["final_closed" if final else "late"])
        return not receipt.late

    # ---- the end ----

    def _leave(self) -> int:
        given = self.ledger.query(
            "SELECT count(DISTINCT assignment) AS n FROM votes JOIN assignments "
            "USING (assignment) WHERE panelist = ?", (self.me,),
        )[0]["n"]  # fmt: skip
        console.say(f"your votes stored: {given}. Continue with: {self.again}")
        return 0

    def _conclude(self) -> int:
        """Say how the run ended, what its votes taught, and what to do next."""
        status = self.status.read()
        ended: str = status.state if status.state == "finished" else "stopped"
        if status.paused_by == LIMIT and ended == "stopped":
            ended = f"stopped: {status.pause_reason}"
        elif status.paused_by is not None and ended == "stopped":
            how = describe_pause(status.paused_by, status.pause_reason or "")
            by_samples = status.paused_by == samples.PAUSED_BY
            then = " --accept-samples" if by_samples else ""
            advice = f"; {samples.ADVICE}" if by_samples else ""
            console.say(f"paused by {how}{advice}\n  {self.again}{then}  # continues from there")
            return 1
        console.say(f"{ended}; thank you: {self._count_given()}")
        self._compare()
        run.say_result(self.ledger)
        return 0

    def _compare(self) -> None:
        """Ask the blind pairs of start and end that are left, and close them if nobody else may.

        No further vote counts then, and the result is known.
        """
        self.asked, page = [], ENGLISH.page
        if (seat := self.service.final(self.me, tab=self.tab)) is not None:
            left = 1 + blind.count_left(self.ledger, self.me, self.ledger.clock())
            console.say(f"{console.count(left, 'blind pair')}: {page['finished_final_text']}")
            if not self._goes_on("begin", page["final_stop"]):
                return
        while seat is not None:
            if not self._ask((seat,)):
                return
            seat = self.service.final(self.me, tab=self.tab)
        if sum(each["kind"] == "person" for each in self.service.panelists()) == 1:
            for order in orders.results(self.ledger, "final"):
                if order.closed_us is None and orders.comparisons(order):
                    orders.close(self.ledger, order.id, "szpo vote")

    def _count_given(self) -> str:
        """How many verdicts this person gave, and how many of them decided, in words."""
        row = self.ledger.query(
            "SELECT count(*) AS given, coalesce(sum(choice IN ('A', 'B')), 0) AS decided FROM "
            "votes v JOIN assignments USING (assignment) JOIN comparisons USING (comparison) "
            "WHERE panelist = ? AND kind = 'train' AND revision = "
            "(SELECT max(revision) FROM votes w WHERE w.assignment = v.assignment)", (self.me,),
        )[0]  # fmt: skip
        given = console.count(row["given"], "vote")
        return f"{given} of yours, {row['decided']} of them for one of the two"
