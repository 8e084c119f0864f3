"""Commands about judges: answer a run's comparisons, train a small scorer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import typer

from szpo.cli import console, run_paths
from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.config.tables import SCORER
from szpo.data import text_files
from szpo.errors import StorageError, UsageError
from szpo.files import quoted
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_tables
from szpo.models import named_models
from szpo.runs import known_addresses

JUDGING: Final = "judging what is open"


def judge(
    run: str = typer.Argument(..., help="Name or file of the run."),
    file: Path | None = typer.Option(
        None, "--settings", help="Settings file whose \\[judge] is used instead of the run's."
    ),
    sets: list[str] = typer.Option(
        [], "--set", help="Change one setting: judge.key=value; may be repeated."
    ),
    votes: int | None = typer.Option(None, "--votes", min=1, help="Stop after this many votes."),
    once: bool = typer.Option(False, "--once", help="Answer what is open now and stop."),
    leave: int = typer.Option(0, "--leave", min=0, help="Pairs of each round to leave to people."),
    trust: list[str] = run_paths.TRUST,
    name: str = typer.Option("judge", "--name", help="Name of the panelists: NAME-0, NAME-1, …"),
    folder: Path = run_paths.FOLDER,
) -> None:
    """Let a language model vote in a run, by a process of its own."""
    path = run_paths.find(run, folder)
    from szpo.judges import judge_factory as judges
    from szpo.judges import llm_judge
    from szpo.runs.status import round_status
    from szpo.voting import panel_evaluator
    from szpo.voting.panel_factory import StartingPolicy
    from szpo.voting.service import VoteService

    with Ledger.open(path) as ledger:
        if round_status(ledger).state == "finished":
            console.say("0 votes cast: the run is finished")
            return
        known_addresses.trust(trust)
        config = _config(ledger, file, sets)
        known_addresses.require_trusted(known_addresses.calls_of_judge(config), ledger.path.name)
        judges.judge.check(config)
        still = [step["step"] for step in ledger.steps() if step["state"] == "open"]
        asked = [row.prompt for step in still for c in ledger.comparisons(step) for row in c.rows]
        judges.judge.check_room(config, asked)
        # In a run for people, votes that one judge cannot give are left to people.
        alone = config.panel.kind == "judge"
        own = alone and file is None and not sets
        recorded = ledger.spec.get("panel") if own else None
        panel = judges.judge.build(config, StartingPolicy(), recorded)
        console.say(str(panel))
        ledger.record_event("judge", "szpo judge", {"name": name, **panel.spec})
        voters = panel.evaluator(VoteService(ledger), name=name, complete=alone and not leave)
        voters.say = _tell

        def wait() -> None:
            console.doing("")  # nothing is open
            panel_evaluator.wait_a_poll()
            console.doing(JUDGING)

        console.doing(JUDGING)
        cast, why = panel_evaluator.visit(
            ledger,
            voters,
            limit=votes,
            once=once,
            leave=leave,
            wait=wait,
        )
        console.say(f"{console.count(cast, 'vote')} cast: {why}")
        for who, (read, written) in llm_judge.tokens(ledger).items():
            console.say(f"  {who}: {read:,} tokens read, {written:,} written so far")


def scorer(
    source: str = typer.Argument(
        ..., help="A run (name or file), or a .jsonl file of chosen and rejected texts."
    ),
    out: Path = typer.Option(Path("scorer.safetensors"), "--out", help="File to write."),
    model: str = typer.Option(
        "smollm2", "--model", help="Model whose hidden states are the features."
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of the head's start."),
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Train a small pair scorer from a run's votes or from a file of pairs."""
    if out.suffix != SCORER:
        raise UsageError(f"--out {out}: the file of a scorer ends in {SCORER}")
    if out.exists():
        raise StorageError(f"{out} exists; give another --out, or remove it first")
    is_file = source.endswith(".jsonl")
    if is_file:
        text_files.inspect_file(Path(source), "preference file")
    path = Path(source) if is_file else run_paths.find(source, folder)
    named_models.locate(model)
    from szpo.judges import pair_scorer as scoring
    from szpo.models import loading

    if is_file:
        taught = scoring.of_file(path)
    else:
        with run_paths.look(path) as ledger:
            taught = scoring.of_ledger(ledger)
    head, facts = scoring.train_scorer(loading.load(model, dtype="fp32"), taught, seed=seed)
    scoring.save(out, head, facts)
    right, decided, (low, high) = facts["right"], facts["decided"], facts["interval"]
    console.answer(
        as_json,
        {"path": str(out), **facts},
        f"wrote {out}: trained on {facts['trained_on']} pairs; "
        + (
            f"right on {right} of {decided} held out ({right / decided:.3f}, 95 % {low:.3f} to "
            f"{high:.3f})"
            if decided
            else "none was held out, so nobody knows how often it is right: give more prompts"
        ),
        f"  use it with: --set judge.model={quoted(out)}",
    )


def _tell(line: str) -> None:
    """Show how far the judge is, in the line that moves or in one of its own."""
    console.doing(line)
    if not console.draws():
        console.complain(line)


def _config(ledger: Ledger, file: Path | None, sets: list[str]) -> Config:
    """The run's settings, with the judge's changed by ``file`` and ``sets``."""
    recorded = recorded_tables(ledger.spec)
    chosen: dict[str, Any] = dict(recorded.get("judge") or {})
    given: dict[str, Any] = {}
    if file is not None:
        given = chosen = dict(settings_file.read(file).get("judge") or {})
    for text in sets:
        tree = settings_file.parse_assignment(text)
        if set(tree) != {"judge"}:
            raise UsageError(f"--set {text}: only judge.* can be set here; the run stays as it is")
        given |= tree["judge"]
    if isinstance(url := given.get("base_url"), str):
        known_addresses.trust([url])
    chosen = {**chosen, **given}
    return settings_file.check({**recorded, "judge": chosen}, where=ledger.path.name)
