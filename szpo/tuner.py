"""`szpo.Tuner`: a language model tuned from votes, by a function or by ask and tell.

A tuner holds the parts of a run and its ledger. It generates, asks, counts and applies with the
same code as `szpo run`, so `szpo show`, `verify` and `replay` read its ledger like any other.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from szpo import seeds, whole_run
from szpo.analysis import exported_weights, improvement, taught_taste
from szpo.analysis.improvement import Improvement
from szpo.analysis.taught_taste import Lesson
from szpo.config import settings_file
from szpo.config.schema import RUBRIC_VERSION, Config
from szpo.data.prompts import SUFFIXES
from szpo.errors import StorageError, UsageError
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import with_budget
from szpo.metrics import Share
from szpo.policies.text_guards import Guard
from szpo.runs import (
    assemble,
    budget,
    callbacks,
    guards,
    samples,
    setup_progress,
)
from szpo.runs.assemble import RunParts
from szpo.runs.callbacks import Callback, GivenCallback, as_callback, read_facts
from szpo.types import Assignment, Choice, Comparison
from szpo.voting import lease, panel_evaluator
from szpo.voting.applied_step import Outcome, StepReport
from szpo.voting.panel_evaluator import FUNCTION, Better, FunctionPanel, check_function
from szpo.voting.panel_factory import PEOPLE
from szpo.voting.service import VoteService
from szpo.whole_run import Driving

if TYPE_CHECKING:
    from szpo.analysis.dataframes import Tables


CHOICES: Final[Mapping[str, Choice]] = {"a": "A", "b": "B", "tie": "tie", "skip": "skip"}
"""The votes of `Tuner.tell`, and how they are stored."""
FEWEST_TO_HOLD_OUT: Final = 8
"""With fewer prompts, none is held out."""
NOT_KEPT: Final = "szpo.Tuner(..., ledger=FILE) keeps a run, this one ends with its process"
"""What to say of a run without a named file, which cannot continue."""
log: Final = logging.getLogger("szpo")
TELL_EVERY_S: Final = 5.0
"""Seconds between lines on a set-up's progress."""


@dataclass(frozen=True, slots=True)
class TextPair:
    """Two answers to a prompt, or two batches to the same prompts, to be judged as wholes.

    Rows with equal answers are left out, and the sides are drawn for each pair, as on the panel's
    page. ``print(pair)`` shows the pair as text; notebooks show a table.
    """

    prompts: tuple[str, ...]
    """The last turn of each prompt."""
    a: tuple[str, ...]
    """One answer to each prompt, in order."""
    b: tuple[str, ...]

    @property
    def rows(self) -> Iterator[tuple[str, str, str]]:
        """(prompt, answer of a, answer of b) in order."""
        return zip(self.prompts, self.a, self.b, strict=True)

    def __str__(self) -> str:
        return "\n\n".join(f"> {p}\nA: {a}\nB: {b}" for p, a, b in self.rows)

    def _repr_html_(self) -> str:
        return _table(("Prompt", "A", "B"), self.rows)


@dataclass(frozen=True, slots=True)
class Sample:
    """Answers of the base and of the tuned model, drawn with the same random numbers."""

    prompt: str
    base: str
    tuned: str

    def __str__(self) -> str:
        return f"> {self.prompt}\nbase:  {self.base}\ntuned: {self.tuned}"

    def _repr_html_(self) -> str:
        return _table(("Prompt", "Base", "Tuned"), iter([(self.prompt, self.base, self.tuned)]))


def make_pair(comparison: Comparison, seat: Assignment) -> TextPair:
    """A comparison as the panelist with this assignment sees it."""
    shown = [row for i in seat.prompt_order if not (row := comparison.rows[i]).identical]
    sides = [seat.sides(row) for row in shown]
    return TextPair(
        tuple(row.prompt.text for row in shown),
        tuple(a.text for a, _ in sides),
        tuple(b.text for _, b in sides),
    )


def _table(names: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@dataclass(frozen=True, slots=True)
class Result(Outcome):
    """An outcome with its findings; ``print(result)`` shows them all."""

    improvement: Improvement
    """The tuned policy against the base, as far as it was measured."""
    guards: tuple[Guard, ...]
    """The guards on held-out prompts; empty if nothing was measured at the end."""
    taught: Lesson | None
    """What the votes are about, or why they show no taste; None if nothing can be said."""
    more_votes: str = ""
    """How to continue the run; empty if it is not finished, or more votes would not help."""

    @property
    def verdict(self) -> str:
        """better, worse, unclear, or unknown if nothing was measured or compared."""
        return self.improvement.verdict

    @property
    def gain(self) -> Share | None:
        """Held-out comparisons that the tuned policy won, with a 95 % interval."""
        return self.improvement.share

    def __str__(self) -> str:
        helped = self.improvement
        lines = [f"{self.status}: {self.reason}", helped.sentence]
        lines += [guard.line() for guard in self.guards]
        lines += [] if self.taught is None else [str(self.taught)]
        lines += [f"for more votes: {self.more_votes}"] if self.more_votes else []
        lines += [] if helped.last is None else [helped.last.line]
        return "\n".join(lines)


def read_result(outcome: Outcome, ledger: Ledger, measurable: bool = True) -> Result:
    """Read the result of a run with this outcome from its ledger.

    ``measurable``: the run has held-out prompts.
    """
    measured, helped = guards.read_held_out(ledger), improvement.read(ledger)
    if not any(point.steps for point in helped.points):
        how = "run(measure=True) does that" if measurable else "no prompt is held out"
        helped = replace(helped, lack=f"it was not measured; {how}")
    lesson = taught_taste.read(ledger)
    return Result(
        outcome.status, outcome.reason, outcome.steps, outcome.votes,
        helped,
        () if measured is None else measured.guards,
        lesson,
        taught_taste.more_votes(ledger, lesson) if outcome.status == "finished" else "",
    )  # fmt: skip


class _VoteNeededError(Exception):
    """The run needs a vote: leaves the loop, which resumes when the vote is there."""


class Tuner:
    """Tunes a language model's LoRA weights from votes on pairs of its answers.

    With ``better``, votes come from that function and `run` drives the run. Without it they come
    from you: `ask` gives a pair, `tell` takes the vote.

    Args:
        model: smollm2, tiny, a folder, or a hub id, as ``model.name`` in a settings file.
        prompts: a list of texts, the path of a prompt file, or None for the prompts that ship.
        better: ``better(prompt, a, b)`` returns "a", "b", "tie", the probability that a is
            better, or None to abstain. Where ``optimizer.D`` is set above 1, verdicts are on
            batches, and it gets lists of texts: ``better(prompts, a, b)``.
        votes: the run ends when this many are counted; None: 240, or as ``settings`` say.
        ledger: file of the run, such as runs/mine.db; None: a temporary file.
        settings: values by dotted name, such as {"optimizer.D": 4, "run.seed": 1}, and
            {"preset": NAME}; `szpo init` lists them all.

    Raises:
        UsageError: a setting, a prompt or the model cannot be used.
        StorageError: the ledger exists; `Tuner.resume` continues it.
    """

    def __init__(
        self,
        model: str = "smollm2",
        prompts: Sequence[str] | str | Path | None = None,
        better: Better | None = None,
        *,
        votes: int | None = None,
        ledger: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ):
        from szpo.cache import quiet

        check_function(better)
        forget: Callable[[], object] | None = None
        if ledger is None:
            folder = tempfile.mkdtemp(prefix="szpo-")
            forget = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            ledger = Path(folder, "tuner.db")
        place = find_place(ledger)
        try:
            file = None if prompts is None else _find_prompts(prompts, place)
            if place.exists():
                raise StorageError(f"{place} exists; continue it: szpo.Tuner.resume(ledger)")
            config = _make_config(model, place, better, file, votes, dict(settings or {}))
            checked = assemble.check(config, None if better is None else FunctionPanel(better))
            path = assemble.new_path(checked.config)
            tell = setup_progress.telling(_say, TELL_EVERY_S)
            tell("loading the model", 0, 0)  # the libraries alone take seconds
            with quiet():
                parts = assemble.build(checked.config, say=_say, checked=checked, progress=tell)
            self._begin(assemble.create_ledger(parts, path), parts, forget)
            _say(assemble.describe_new(parts, path))
            if self._by_hand:
                samples.accept_samples(self._ledger, "szpo.Tuner")
        except BaseException:
            if forget is not None:
                forget()
            raise

    @classmethod
    def resume(
        cls,
        ledger: str | Path,
        better: Better | None = None,
        *,
        features: Sequence[str] = (),
        more_votes: int = 0,
    ) -> Self:
        """Continue the run of a ledger file, also one that `szpo run` began.

        ``features`` repeats those of ``features.add`` that are code, which a record cannot run.
        With ``more_votes`` the run ends that many votes later, even if it was finished.

        Raises:
            StorageError: there is no such file, or it is no ledger.
            UsageError: the run's votes come from a function and ``better`` is missing, or the
                reverse; or ``more_votes`` pay for no step.
            LeaseError: votes are to be added while another process drives the run.
        """
        from szpo.cache import quiet

        check_function(better)
        tuner = cls.__new__(cls)
        record = Ledger.open(find_place(ledger))
        try:
            _say("loading the run's model")
            with quiet():
                parts = assemble.reopen(record, say=_say, features=features)
            kind = parts.config.panel.kind
            if (kind == FUNCTION) != (better is not None):
                lack = "its votes come from a function; give it: Tuner.resume(ledger, better)"
                more = f"its votes come from {kind}; leave out better=..."
                raise UsageError(f"{record.path.name}: {lack if better is None else more}")
            if more_votes:
                with lease.hold(record):
                    budget.add_votes(record, "szpo.Tuner.resume", _plain(more_votes))
                parts = replace(parts, config=with_budget(parts.config, record))
            if better is not None:
                asked = FunctionPanel(better, parts.config.panel.size, parts.config.asks_rows)
                parts = replace(parts, panel=asked)
        except BaseException:
            record.close()
            raise
        tuner._begin(record, parts)
        return tuner

    def _begin(
        self, ledger: Ledger, parts: RunParts, forget: Callable[[], object] | None = None
    ) -> None:
        """``forget`` removes a temporary ledger."""
        self._ledger, self._parts, self._forget = ledger, parts, forget
        self._outcome: Outcome | None = None
        self._seats: dict[str, tuple[Assignment, TextPair]] = {}
        self._service: VoteService | None = None
        self._driving: Driving | None = None
        self._tables: Tables | None = None
        self._reports: list[StepReport] = []
        self._tracked: tuple[Callback, ...] | None = None
        self._one_at_a_time = threading.RLock()

    # ---- votes of a function or a panel ----

    def run(self, callbacks: Sequence[GivenCallback] = (), *, measure: bool = False) -> Result:
        """Drive the run until its votes are spent or a guard pauses it, and return the result.

        Args:
            callbacks: functions of a `StepReport`, called after each step, or `Callback`s.
            measure: answer held-out prompts before, during and after the run, as ``[evaluation]``
                says, and compare with the base's answers by the function, or by the reward of a
                simulated panel. It costs no votes, but time and calls of the function.

        Raises:
            UsageError: the votes come from you; use `ask` and `tell`. Or ``callbacks`` is no list.
        """
        if not isinstance(callbacks, Sequence):
            raise UsageError("Tuner.run: callbacks must be a list, also a single one: run([...])")
        if self._by_hand:
            raise UsageError(
                "Tuner: nothing answers in this run; give better=..., or use ask() and tell()"
            )
        every = tuple(as_callback(each) for each in (self._reports.append, *callbacks))
        score = panel_evaluator.find_reward(self._ledger) if measure else None
        self._outcome = whole_run.drive(
            self._ledger, self._parts, every, measured=measure, score=score, say=_say
        )
        result = read_result(self._outcome, self._ledger, bool(self._parts.prompts.heldout))
        if result.more_votes and self._forget is not None:
            return replace(result, more_votes=NOT_KEPT)
        return result

    # ---- votes by hand ----

    def ask(self, voter: str = "me") -> TextPair | None:
        """The pair that this voter should compare next; the same pair until it is answered.

        None: there is no pair for this voter now. If `finished` is true there never will be;
        otherwise other voters have to answer first. Voters may ask and answer concurrently, each
        from their own thread and with their own name. Two threads that ask with one name get the
        same pair, and only the first answer to it counts.

        Raises:
            UsageError: this run's votes come from a function or a panel; use `run`.
        """
        with self._one_at_a_time:
            service = self._votes()
            if voter in self._seats:
                return self._seats[voter][1]
            self._advance()
            if self.finished:
                return None
            seat = service.assign(service.enroll("person", voter))
            comparison = None if seat is None else self._ledger.comparison(seat.comparison)
            if seat is None or comparison is None:
                return None
            pair = make_pair(comparison, seat)
            self._seats[voter] = seat, pair
            return pair

    def tell(self, vote: Literal["a", "b", "tie", "skip"] | bool, voter: str = "me") -> None:
        """Take a voter's answer to the pair of `ask`; the last vote of a step moves the model.

        Where ``improve.nats`` is set, it also improves the model on the taste of the votes so far,
        once they show one and at each doubling of them; that takes minutes.

        Raises:
            UsageError: no pair was given to this voter, or the vote is unknown.
        """
        with self._one_at_a_time:
            service = self._votes()
            if voter not in self._seats:
                raise UsageError(f"tell: {voter} was asked nothing; call ask() first")
            word = vote.strip().lower() if isinstance(vote, str) else _plain(vote)
            if isinstance(word, bool):
                word = "a" if word else "b"
            if word not in CHOICES:
                raise UsageError(
                    f'tell: the vote {vote!r} is unknown; give "a" or True, "b" or False, "tie", '
                    'or "skip"'
                )
            seat, _ = self._seats.pop(voter)
            service.cast(seat.id, CHOICES[word], secrets.token_hex(16))
            self._advance()

    def _votes(self) -> VoteService:
        if not self._by_hand:
            kind = self._parts.config.panel.kind
            raise UsageError(f"Tuner: the votes of this run come from {kind}; use run()")
        if self._service is None:
            self._service = VoteService(self._ledger, rubric_version=RUBRIC_VERSION)
        return self._service

    def _advance(self) -> None:
        """Run the loop as far as it gets without further votes."""

        def leave() -> None:
            raise _VoteNeededError

        if self._tracked is None:
            kind = self._parts.config.run.tracker
            self._tracked = callbacks.open_tracker(kind, self.path.parent, _say)
            for each in self._tracked:
                each.begin(read_facts(self._ledger))
        if self._driving is None:
            every = (as_callback(self._reports.append), *self._tracked)
            self._driving = Driving(self._ledger, self._parts, every, _say, waits=True)
        try:
            with lease.hold(self._ledger) as held:
                self._outcome = self._driving.go(held, leave)
        except _VoteNeededError:
            self._outcome = None
        except BaseException:  # the next call goes on from the last stored step
            self._driving.close()
            self._driving = None
            raise

    # ---- what came of it ----

    def taught(self) -> Lesson | None:
        """What the votes taught so far, or why they show no taste; None if nothing can be said.

        ``str`` of it is one line, such as "31 votes: fewer commas (97 %)".
        """
        return taught_taste.read(self._ledger)

    def sample(self, prompt: str, seed: int = 0) -> Sample:
        """One answer of the base and one of the tuned model to a prompt, for comparison.

        Raises:
            UsageError: the prompt is empty, or longer than the model's context.
        """
        if not isinstance(prompt, str) or not prompt.strip():
            raise UsageError(f"sample: give a prompt that is a text and not empty, not {prompt!r}")
        asked = assemble.own_prompts(self._ledger, [prompt])
        key = seeds.as_seed(seeds.derive(seed, "sample"))
        (base, _), (tuned, _) = (
            samples.sample_answers(self._ledger, self._parts, asked, until=until, seed=key)
            for until in (0, None)
        )
        return Sample(prompt, base[0].text, tuned[0].text)

    def save_adapter(self, folder: str | Path, *, anyway: bool = False) -> Path:
        """Write the adapter for PEFT, with its model card and tokenizer, into a new folder.

        If it was not measured whether the adapter is better than the base, it is written with a
        warning, as by `szpo export`: your own function may need no held-out prompts.

        Raises:
            RunError: it fails a guard or is not clearly better than the base; ``anyway`` writes
                it.
            StorageError: the folder exists, or cannot be written.
        """
        from szpo.analysis import adapter

        target = Path(folder)
        if not adapter.write_folder(self._ledger, target, anyway=anyway):
            log.warning(
                "%s: it has no tokenizer, as the base model is not here; load the base's", target
            )
        if not anyway and (unknown := exported_weights.find_unknown(self._ledger)):
            log.warning("%s: %s", target, unknown)
        return target

    @property
    def finished(self) -> bool:
        """No further vote is needed: the votes are spent, or the run is paused."""
        return self._outcome is not None

    @property
    def outcome(self) -> Outcome | None:
        """Why the run ended; None while it continues."""
        return self._outcome

    @property
    def reports(self) -> tuple[StepReport, ...]:
        """The reports of the steps that this object drove."""
        return tuple(self._reports)

    @property
    def path(self) -> Path:
        """The ledger's file."""
        return self._ledger.path

    @property
    def tables(self) -> Tables:
        """The ledger's current tables, as from `szpo.open`; earlier ones are closed."""
        from szpo.analysis.dataframes import Tables

        if self._tables is not None:
            self._tables.close()
        self._tables = Tables(self.path)
        return self._tables

    def close(self) -> None:
        """Release the model and the file; a temporary ledger is removed."""
        for each in self._tracked or ():
            each.end(self._outcome)
        self._tracked = None
        if self._driving is not None:
            self._driving.close()
        if self._tables is not None:
            self._tables.close()
        self._parts.close()
        self._ledger.close()
        if self._forget is not None:
            self._forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        """The tuner's model, progress and file in one line."""
        votes = self._ledger.votes_applied()
        model = self._parts.config.model.name
        return f"<szpo.Tuner: {model}, {round(votes)} votes applied, {self.path.name}>"

    @property
    def _by_hand(self) -> bool:
        return self._parts.config.panel.kind == PEOPLE


def _make_config(
    model: str,
    place: Path,
    better: Better | None,
    prompts: Path | None,
    votes: int | None,
    given: dict[str, Any],
) -> Config:
    """The settings of a run with its ledger at ``place``; for None, ``given`` decides."""
    preset = given.pop("preset", None)
    tree = {} if preset is None else settings_file.preset(str(preset))
    kind = FUNCTION if better is not None else None if "panel.kind" in given else PEOPLE
    own: dict[str, dict[str, Any]] = {
        "model": {"name": model},
        "run": {"folder": str(place.parent), "name": place.stem, "votes": votes},
        "prompts": {"path": None if prompts is None else str(prompts)},
        "panel": {"kind": kind},
    }
    own = {
        section: {key: value for key, value in values.items() if value is not None}
        for section, values in own.items()
    }
    changes: dict[str, Any] = {}
    for key, value in given.items():
        section, name = settings_file.find_key(str(key), f"settings[{key!r}]")
        if name in own.get(section, {}):
            raise UsageError(
                f"Tuner: settings[{section + '.' + name!r}] is set by an argument of Tuner; leave "
                "it out"
            )
        changes.setdefault(section, {})[name] = value
    for each in (own, changes):
        settings_file.merge(tree, each)
    if kind == FUNCTION:
        tree["panel"].setdefault("size", tree.get("optimizer", {}).get("M", 1))
    return settings_file.check(_plain(tree), where="Tuner")


def _plain(value: Any) -> Any:
    """Settings with Python's numbers in place of NumPy's."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def find_place(ledger: str | Path) -> Path:
    """The path of a ledger's file: ``.db`` is added if it is missing.

    >>> find_place("runs/mine").as_posix()
    'runs/mine.db'
    """
    path = Path(ledger)
    return path if path.suffix == ".db" else path.with_name(f"{path.name}.db")


def _find_prompts(prompts: Sequence[str] | str | Path, place: Path) -> Path:
    """The file of the prompts, which is written for a list; of fewer than 8 none is held out."""
    if isinstance(prompts, (str, os.PathLike)):
        if not (path := Path(prompts)).exists() and path.suffix.lower() not in SUFFIXES:
            text = str(prompts)[:80]
            raise UsageError(f"Tuner: no file {text!r}; give a prompt as a list: [{text!r}]")
        return path
    texts = list(prompts) if isinstance(prompts, Iterable) else [prompts]
    file = place.with_name(f"{place.stem}-prompts.jsonl")
    bad = [text for text in texts if not isinstance(text, str) or not text.strip()]
    if bad or not texts:
        given = repr(bad[0]) if bad else "an empty list"
        raise UsageError(f"Tuner: prompts must be texts that are not empty (got {given})")
    mark = {"split": "train"} if len(set(texts)) < FEWEST_TO_HOLD_OUT else {}
    lines = "".join(json.dumps({"text": text, **mark}) + "\n" for text in texts)
    try:
        if file.exists() and file.read_text(encoding="utf-8") != lines:
            raise StorageError(f"{file} exists with other prompts; choose another ledger")
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_text(lines, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{file} cannot be written ({error.strerror or error})") from None
    return file


def _say(line: str) -> None:
    if line.startswith("warning: "):
        log.warning(line.removeprefix("warning: "))
    else:
        log.info(line)
