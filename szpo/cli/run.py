"""The command that begins or continues a run."""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import typer

from szpo.analysis import agreement, improvement, taught_taste
from szpo.analysis.exported_weights import find_doubt
from szpo.cli import console, inspect, run_paths
from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.errors import EngineError, UsageError
from szpo.files import quoted
from szpo.ledger import orders, theta
from szpo.ledger.creation import NO_BASE
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_config
from szpo.optim.optimizer import rule_of
from szpo.optim.parameters import NO_COORDINATES
from szpo.optim.regression import BUDGET, Findings
from szpo.policies import teachable
from szpo.runs import budget, doctor, guards, known_addresses, samples, setup_progress, status
from szpo.runs.callbacks import EachStep
from szpo.voting import (
    applied_step,
    lease,
    panel_evaluator,
    pauses,
    shown_features,
)
from szpo.voting.panel_evaluator import Score

if TYPE_CHECKING:
    from szpo.runs.assemble import CheckedConfig, RunParts

WARN_AT: Final = 0.7
"""A run warns of drift at this share of its KL limit."""

CHECKING: Final = "checking settings, prompts and model"
MEASURING: Final = "all votes are in; measuring what they changed"
IMPROVING: Final = "all votes are in; improving on what they liked, then measuring it"


def run(
    file: Path | None = typer.Argument(None, help="Settings file; see szpo init."),
    preset: str | None = run_paths.PRESET,
    sets: list[str] = run_paths.SETS,
    resume: str | None = typer.Option(
        None, "--resume", help="Continue this run (name or file) instead of starting one."
    ),
    features: list[str] = typer.Option(
        [],
        "--feature",
        help="With --resume: a feature that is code of yours, given again as in features.add, "
        "since a record never runs code; may be repeated.",
    ),
    trust: list[str] = run_paths.TRUST,
    device: str | None = typer.Option(
        None, "--device", help="With --resume: continue on another device, such as cpu or cuda."
    ),
    plan: bool = typer.Option(False, "--plan", help="Estimate what the run costs, and stop."),
    votes: str | None = typer.Option(
        None,
        "--votes",
        help="With --resume: add votes to the run, such as +40, even if it is finished.",
    ),
    stay: bool = typer.Option(
        False, "--stay", help="Wait for the operator's page when paused or finished."
    ),
    hold: bool = typer.Option(
        False, "--hold", help="Begin paused: the first round waits until the operator starts it."
    ),
    folder: Path | None = run_paths.FOLDER_OF_NEW,
    accept_samples: bool = typer.Option(
        False,
        "--accept-samples",
        help="Open a run for people even if its sample answers are poor.",
    ),
    as_json: bool = console.AS_JSON,
) -> int:
    """Tune a model from votes; --plan only estimates votes, time to read, and disk."""
    if resume is not None:
        if resume.startswith("-"):  # an option was read as the run's name
            raise UsageError("--resume takes a run: szpo run --resume NAME; see: szpo show --all")
        if file is not None or preset is not None or hold:
            raise UsageError(
                "--resume takes the run as it is; leave out the file, --preset and --hold"
            )
        changes = _read_changes(sets)
        known_addresses.trust(trust)
        path = run_paths.find(resume, folder)
        if votes is not None:
            add_votes(path, votes, features)
        if accept_samples:
            with Ledger.open(path) as ledger:
                samples.accept_samples(ledger, "szpo run --accept-samples")
        with Ledger.open(path) as ledger:
            return _drive(
                ledger, None, as_json=as_json, stay=stay, changes=changes, device=device,
                features=features,
            )  # fmt: skip
    if device is not None:
        raise UsageError("--device goes with --resume; for a new run set model.device")
    if votes is not None:
        raise UsageError("--votes goes with --resume; for a new run: --set run.votes=40")
    if trust:
        raise UsageError("--trust goes with --resume; a new run's settings name its addresses")
    if features:
        raise UsageError("--feature goes with --resume; for a new run set features.add")
    if file is None and preset is None and not sets:
        raise UsageError("give a settings file (szpo init), a --preset, or --set; see --help")
    given = [*([str(file)] if file else []), *(["--preset", preset] if preset else [])]
    given += [word for text in sets for word in ("--set", text)]
    if folder is not None:
        given += ["--folder", str(folder)]
        sets = [*sets, f"run.folder={folder}"]
    config = settings_file.load(file, preset_name=preset, sets=sets)
    from szpo.runs import assemble

    if plan:
        verb = "serve" if config.panel.kind == "people" else "run"
        show_plan(config, shlex.join(["szpo", verb, *given]), as_json=as_json)
        return 0
    console.doing(CHECKING)
    assemble.free_path(config)
    checked = assemble.check(config)
    new = assemble.new_path(config)
    config, stored = checked.config, False
    if checked.policy_factory is None and config.engine.is_local:
        from szpo.policies import subspace_setup

        stored = subspace_setup.look_up(config, checked.prompts.train) is not None
    costs = budget.estimate_cost(
        config, basis_is_stored=stored, heldout=len(checked.prompts.heldout),
        train=len({*checked.prompts.train}),
    )  # fmt: skip
    console.pairs(dict(budget.describe_cost(costs, config)), to=console.errors)
    ledger, parts = _create(checked, new, as_json=as_json, hold=hold)
    with ledger:
        if accept_samples:
            samples.accept_samples(ledger, "szpo run --accept-samples")
        return _drive(ledger, parts, as_json=as_json, stay=stay, features=config.features.own)


def show_plan(config: Config, then: str, *, as_json: bool = False) -> None:
    """Print what a run of these settings costs, and the command that begins it."""
    from szpo.runs import assemble

    console.doing(CHECKING)
    checked, setup = assemble.check(config), None
    config = checked.config
    can: tuple[teachable.Teachable, ...] = ()
    found = seconds = None
    if checked.policy_factory is None:
        if config.engine.is_local:
            console.doing(f"timing {doctor.TIMED_ANSWERS} answers on this machine")
            seconds = doctor.measure_answer_seconds(config, checked.prompts.train)
        from szpo.policies import subspace_setup

        found = subspace_setup.look_up(config, checked.prompts.train)
        setup = subspace_setup.describe_plan(config, found, budget.coordinate_answers(config))
        if found is not None and found.features is not None:
            can = teachable.read(found.features.names, found.report)
    costs = budget.estimate_cost(
        config,
        basis_is_stored=found is not None,
        heldout=len(checked.prompts.heldout),
        answer_seconds=seconds,
        train=len({*checked.prompts.train}),
    )
    _, equal = assemble.warn_of_equal_answers(checked)
    if as_json:
        origin = None if setup is None else "made" if found is None else found.report["origin"]
        taught = {"basis": origin, "teachable": [*map(asdict, can)]}
        console.emit({**asdict(costs), **taught, "questions": equal or None})
        return
    for line in checked.notes:
        console.complain(line)
    lines = dict(budget.describe_cost(costs, config))
    if seconds is not None and (busy := doctor.describe_load()):
        lines["generation"] += f" {busy}"
    if setup is not None:
        lines |= {"set-up": setup, **teachable.describe(can, config.optimizer.D)}
    if equal:
        lines["questions"] = equal
    console.pairs(lines, to=console.errors)
    console.complain(f"next: {then}")


def _read_changes(sets: list[str]) -> dict[str, Any]:
    """The engine settings that `--set` changes in a resumed run."""
    found: dict[str, Any] = {}
    for text in sets:
        for section, values in settings_file.parse_assignment(text).items():
            if section != "engine":
                raise UsageError(
                    f"--set {text}: --resume takes the run as it is; only some engine.* "
                    "settings can change (for more votes: --votes +40)"
                )
            found |= values
    return found


def add_votes(path: Path, text: str, features: Sequence[str]) -> None:
    """Add votes to the budget of a run that no other process drives."""
    if not re.fullmatch(r"\+\d{1,9}", text):
        raise UsageError(f"--votes {text}: give the votes to add with a plus, such as +40")
    with Ledger.open(path) as ledger, lease.hold(ledger):
        shown_features.require_given(ledger, features)
        config = budget.add_votes(ledger, "szpo run --votes", int(text))
    read = budget.describe_read(*budget.most_read(config, int(text)))
    end = f"{config.run.votes:,} votes"
    console.complain(f"{text[1:]} votes added (at most {read}): the run ends after {end}")


def _create(
    checked: CheckedConfig, path: Path, *, as_json: bool, hold: bool
) -> tuple[Ledger, RunParts]:
    """Set up a new run and write its ledger; the caller closes ledger and parts."""
    from szpo.runs import assemble

    show = console.stages("set-up", as_json=as_json)
    with setup_progress.writing(path, tell=show) as progress:
        parts = assemble.build(
            checked.config, say=console.complain, checked=checked, progress=progress
        )
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(parts))
            ledger = stack.enter_context(assemble.create_ledger(parts, path))
            if hold:
                pauses.pause(ledger, "operator", "the first round waits for its start")
            stack.pop_all()
    console.complain(assemble.describe_new(parts, path))
    return ledger, parts


def _drive(
    ledger: Ledger,
    parts: RunParts | None,
    *,
    as_json: bool = False,
    stay: bool = False,
    changes: Mapping[str, Any] = MappingProxyType({}),
    device: str | None = None,
    features: Sequence[str] = (),
) -> int:
    """Run the controller with a progress display; returns the exit code."""
    from szpo import whole_run
    from szpo.runs import assemble, run_engine

    # ``stay`` is for the pages of szpo serve.
    console.set_resumable(f"szpo {'serve' if stay else 'run --resume'} {ledger.path}")
    console.doing("loading the run's model")
    score, reported = panel_evaluator.find_reward(ledger), None
    while True:
        begun = parts is None
        try:
            parts = parts or assemble.reopen(
                ledger, say=console.complain, device=device, engine=changes, features=features
            )
            with contextlib.closing(parts):
                if begun:
                    _record_return(ledger, parts, device=device, stay=stay)
                if parts.panel is None and not stay:  # szpo serve uses ``stay`` and has the pages
                    console.complain(
                        "people vote in this run through its pages (szpo serve "
                        f"{quoted(ledger.path)}) or in a terminal (szpo vote "
                        f"{quoted(ledger.path)})"
                    )
                votes = not stay and parts.panel is not None
                console.doing("the run goes on" if votes else "")
                show = _show_steps(ledger, parts.config, score, as_json=as_json, stay=stay)
                say = console.complain if as_json else console.tell
                outcome = whole_run.drive(
                    ledger, parts, (EachStep(show),), score=score, say=say, stay=stay
                )
                break
        except (EngineError, UsageError) as error:
            if not stay or "config" not in ledger.spec:
                raise
            config = run_engine.read_settings(ledger, changes)
            if not isinstance(error, EngineError) and not run_engine.is_away(config):
                raise
            if str(error) != reported:
                reported = str(error)
                console.complain(f"{error}; waiting for it")
        parts = None
        run_engine.note_away(ledger)
        run_engine.leave(config)
        time.sleep(run_engine.RETRY_S)
    _conclude(ledger, parts, outcome, as_json=as_json)
    return 1 if outcome.status == "paused" else 0


def _record_return(ledger: Ledger, parts: RunParts, *, device: str | None, stay: bool) -> None:
    """Record where a resumed run is driven, and end its pause unless the operator has to."""
    from szpo.runs import assemble, run_engine

    assemble.require_counted(parts)  # before a pause is ended
    if parts.base is not None:
        run_engine.record_engine_move(ledger, parts.config)
        if device is not None:
            run_engine.record_device_move(ledger, parts.base.loaded)
    run_engine.note_back(ledger)
    held = lease.controller(ledger)
    # With ``stay`` a paused run waits for its operator; a restart does not unpause it.
    if held["paused_by"] is not None and not stay:
        by = pauses.describe_pause(held["paused_by"], held["pause_reason"])
        console.complain(f"was paused by {by}")
        pauses.unpause(ledger, "szpo run --resume")


def _show_steps(
    ledger: Ledger, config: Config, score: Score | None, *, as_json: bool, stay: bool
) -> Callable[[applied_step.StepReport], None]:
    """What shows each finished step: on the progress line, or as a line where none may move."""
    warned: list[str] = []
    watch, ends = taught_taste.Watch(ledger), IMPROVING if config.improves else MEASURING
    total, last = config.votes_per_step * config.steps, ledger.last_applied()
    done = 0 if last is None else applied_step.read_reports(ledger, last)[0].total_votes
    tell = console.counting("votes", total, done)

    def show(report: applied_step.StepReport) -> None:
        read = budget.describe_read(*budget.read_so_far(ledger))
        note = f"{read}, {_note(ledger, report, score)}"
        over = report.total_votes >= total and not stay
        tell(report.total_votes, ends if over else note)
        if not console.draws() and not as_json:
            console.complain(
                f"step {report.step}: {console.count(report.total_votes, 'vote')}, {note}"
            )
        if equal := watch.look():
            console.complain(f"warning: {equal}")
        if not warned and (text := warn_of_drift(config, report.kl)) is not None:
            warned.append(text)
            console.complain(text)

    return show


def _conclude(
    ledger: Ledger, parts: RunParts, outcome: applied_step.Outcome, *, as_json: bool
) -> None:
    """Print how the run ended, what the votes taught, and what to do next."""
    if as_json:
        noted = inspect.findings_of(
            ledger, taught_taste.last_findings(ledger), taught_taste.read(ledger)
        )
        result = {**asdict(outcome), "improvement": improvement.read(ledger).as_dict(), **noted}
        console.emit({"run": ledger.run, "path": str(ledger.path), **result})
        return
    total = status.read_results(ledger, open_round=False)
    skips, answers = total.skips, total.answers_read
    said = f", {budget.describe_read(answers, total.person_minutes)}" if answers else ""
    said += f", {console.count(skips, 'time')} somebody could not judge" if skips else ""
    votes = console.count(outcome.votes, "vote")
    console.say(f"{outcome.status}: {outcome.reason}; {votes}{said}")
    if outcome.status == "paused":
        way = "szpo run --resume", "continues from there"
        if parts.config.panel.kind == "people":
            way = "szpo serve", "its operator's page starts and resumes the run"
        console.say(f"  {way[0]} {ledger.path}  # {way[1]}")
    if outcome.steps:
        say_result(ledger, goes_on=outcome.status != "paused")


def say_result(ledger: Ledger, *, goes_on: bool = True) -> None:
    """Print whether a run helped, what its votes taught, and the commands that come next.

    ``goes_on``: among them the one by which it gets more votes.
    """
    helped = improvement.read(ledger)
    console.say(helped.sentence)
    if (measured := guards.read_held_out(ledger)) is not None and measured.guards:
        console.say(f"guards on held-out prompts: {measured.verdict}")
    lesson = taught_taste.read(ledger)
    if lesson is not None:
        console.say(str(lesson))
    for line in agreement.whose_taste(ledger):
        console.say(line)
    found = taught_taste.last_findings(ledger)
    if mix := taught_taste.describe_mix(ledger, found):
        console.say(f"mixed: {mix}")
    asks = taught_taste.ask_about_length(ledger, found)
    if asks:
        console.say(asks)
    if helped.last is not None:
        console.say(helped.last.line)
    more = taught_taste.more_votes(ledger, lesson) if goes_on else ""
    _say_next(ledger, helped, measured, found, more)


def warn_of_drift(config: Config, kl: float | None) -> str | None:
    """A warning if KL nears guards.kl, or regression's budget, under a rule without a budget.

    ``kl`` is in nats. None if there is no need to warn.
    """
    if kl is None or rule_of(config.optimizer.rule).two_points:
        return None
    limit = BUDGET if config.guards.kl is None else config.guards.kl
    if kl < WARN_AT * limit:
        return None
    then = "guards.kl pauses the run"
    if config.guards.kl is None:
        then = "szpo's own rule would stay (guards.kl limits it)"
    return f"warning: KL is {kl:.1f} nats; at {limit:g} {then}"


def _note(ledger: Ledger, report: applied_step.StepReport, score: Score | None) -> str:
    parts = []
    if score is not None:
        rows = [row for c in ledger.comparisons(report.step) for row in c.rows]
        values = [score(r.prompt, answer) for r in rows for answer in (r.plus, r.minus)]
        parts.append(f"reward {sum(values) / len(values):.3f}")
    if report.kl is not None and ledger.layout != NO_COORDINATES:
        about = "" if report.extra.get("kl_measured") else "≈ "
        parts.append(f"KL {about}{report.kl:.2f}")
    if note := taught_taste.note(report.extra, report.total_votes):
        parts.append(note)
    return ", ".join(parts)


def _say_next(
    ledger: Ledger, helped: improvement.Improvement, measured: guards.HeldOut | None,
    found: Findings | None, more: str,
) -> None:  # fmt: skip
    path, config, moves = ledger.path, recorded_config(ledger), not theta.is_still(ledger)
    people = config is not None and config.panel.kind == "people"
    spent = config is not None and config.is_spent(int(ledger.votes_applied()))
    moves = moves and ledger.row["base_sha256"] != NO_BASE
    texts = {
        "sample": "the base and the tuned model answer side by side",
        "export": "the adapter, for PeftModel.from_pretrained",
    }
    every = {
        "report": "one HTML page: curves, samples, votes, verification",
        "verify": "recompute everything from the votes",
    }
    if find_doubt(ledger, helped):
        del texts["export"]
    if not moves and found is not None and found.shown and found.chance < taught_taste.LIKELY:
        every = {"taste": "what is liked, and the answers that show it", **every}
    if measured is not None and measured.failure:
        texts["export --scale 0.5"] = "weights half as far from the start; their guards, measured"
    if pairs := orders.asked(ledger):
        asks = (
            f"asks {pairs} blind pairs of start and end here, szpo serve on its page; there its "
            "operator closes them"
        )
        every = {"vote": asks, **every}
    elif moves and helped.share is None and people and spent:
        page = "its operator's page orders blind pairs of start and end, for people"
        every = {"serve": page, **every}
    for command, what in {**(texts if moves else {}), **every}.items():
        console.say(f"  szpo {command} {quoted(path)}  # {what}")
    if more:
        console.say(f"  {more}  # the same run goes on")
