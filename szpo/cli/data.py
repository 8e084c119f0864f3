"""Commands about data: votes as pairs, tasks, questions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from szpo import files, seeds
from szpo.baselines import asking
from szpo.cli import console, run_paths
from szpo.data import label_studio, preference_files
from szpo.data.preference_formats import Preferences
from szpo.errors import UsageError
from szpo.metrics import Z

if TYPE_CHECKING:
    from szpo.analysis.question_rounds import Differences, Round, SelectionSettings


FIRST = typer.Option(None, "--first", min=1, help="Read only this many records of a file.")
SKIP_BAD = typer.Option(
    False, "--skip-bad", help="Leave out records that cannot be used, and name them."
)


def pairs(
    source: str = typer.Argument(..., help="A .jsonl, .jsonl.gz, .csv or .json file, or a run."),
    out: Path | None = typer.Option(None, "--out", help="Write the pairs here, as .jsonl."),
    kind: str | None = typer.Option(
        None,
        "--from",
        help=f"Format of a file: {', '.join(preference_files.FORMATS)}; default: sheet where "
        "people filled in a choice, else trl.",
    ),
    rows_of_batches: bool = typer.Option(
        False,
        "--rows-of-batches",
        help="Also copy a run's vote on a batch to each of its pairs, which nobody judged singly.",
    ),
    first: int | None = FIRST,
    skip_bad: bool = SKIP_BAD,
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Read a run's votes or a preference file; write the pairs in TRL's format."""
    path = Path(source)
    if path.suffix.lower() in preference_files.SUFFIXES or (
        path.is_file() and path.suffix != ".db"
    ):
        found = preference_files.read(source, kind, first=first, skip_bad=skip_bad)
        what = "record"
    else:
        with run_paths.look(run_paths.find(source, folder)) as ledger:
            found = asking.read_recorded_pairs(ledger, rows_of_batches=rows_of_batches)
        what = "comparison"
    more = (
        f"left out: {console.count(found.unused, 'vote')} on batches, whose pairs nobody judged; "
        "--rows-of-batches copies each vote to the pairs"
    )
    if out is not None:
        if not found.pairs:
            why = f"; {more}" * (found.unused > 0)
            ties = console.count(found.ties, "tie")
            raise UsageError(f"{source}: no pair in it, only {ties}; nothing written{why}")
        preference_files.write(out, found.pairs)
    if not as_json:
        name_bad(found)
        if found.unused:
            console.complain(more)
    left_out = f", {len(found.bad)} left out" if found.bad else ""
    wrote = "" if out is None else f"; wrote {out}"
    console.answer(
        as_json,
        {f"{what}s": found.records, "pairs": len(found.pairs), "ties": found.ties,
         "bad": found.bad, "unused_votes": found.unused, "file": out and str(out)},
        f"{console.count(found.records, what)}: {console.count(len(found.pairs), 'pair')}, "
        f"{console.count(found.ties, 'tie')}{left_out}{wrote}",
    )  # fmt: skip


def name_bad(found: Preferences) -> None:
    """Warn of records that were left out: the first few one by one, then the number of others."""
    for reason in found.bad[: preference_files.SHOWN_BAD]:
        console.warn(f"left out {reason}")
    if (more := len(found.bad) - preference_files.SHOWN_BAD) > 0:
        console.warn(f"left out {console.count(more, 'more record')}")


def rank(
    source: Path = typer.Argument(..., help="A .jsonl, .jsonl.gz or .json file."),
    out: Path = typer.Option(..., "--out", help="Folder to write."),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of the order of answers."),
    as_json: bool = console.AS_JSON,
) -> None:
    """Write Label Studio tasks and their page, for people to rank several answers to a prompt."""
    tasks = [
        label_studio.make_task(prompt, answers, key=seeds.derive(seed, "ranking", step=place))
        for place, (prompt, answers) in enumerate(preference_files.read_groups(source))
    ]
    if not tasks:
        raise UsageError(f"{source}: no prompt with two different answers to rank")
    with files.write_whole(out) as draft:
        draft.mkdir()
        text = json.dumps(tasks, ensure_ascii=False, indent=1)
        (draft / "tasks.json").write_text(text, encoding="utf-8")
        (draft / "template.xml").write_text(label_studio.TEMPLATE, encoding="utf-8")
    console.answer(
        as_json,
        {"tasks": len(tasks), "folder": str(out)},
        f"wrote {console.count(len(tasks), 'task')} to {out}; import tasks.json into a Label "
        "Studio project whose labelling interface is template.xml",
    )


def select(
    pool: Path = typer.Argument(
        ..., help="Pairs (prompt, a, b): .csv, .jsonl, .jsonl.gz, .json, or Label Studio tasks."
    ),
    features: str | None = typer.Option(
        None,
        "--features",
        help="Named features of the texts, such as length,politeness; columns:x,y for numbers in "
        "the pool; or a .npy file with a row per pair (embeddings).",
    ),
    out: Path = typer.Option(
        ..., "--out", help="The pairs to ask: .jsonl, .csv, or Label Studio .json."
    ),
    answers: Path | None = typer.Option(
        None,
        "--answers",
        help="Votes on earlier pairs: the sheet filled in (choice: A, B, tie, skip), or "
        "Label Studio's export.",
    ),
    state: Path | None = typer.Option(
        None, "--state", help="File with the selection's state; default: POOL.select.json."
    ),
    count: int = typer.Option(10, "--count", help="Pairs of a round."),
    rule: str | None = typer.Option(
        None,
        "--rule",
        help="By expected information (bald), or fall of entropy (entropy); default: bald.",
    ),
    tau: float | None = typer.Option(
        None,
        "--tau",
        help="Prior standard deviation of a weight, in logits per standard deviation of its "
        "feature; default: 1.",
    ),
    seed: int | None = typer.Option(None, "--seed", help="Seed of the draws; default: 0."),
    min_words: int | None = typer.Option(None, "--min-words", help="Shortest answer."),
    max_words: int | None = typer.Option(None, "--max-words", help="Longest answer."),
    as_json: bool = console.AS_JSON,
) -> None:
    """Choose the pairs of a pool on which votes teach most.

    Give the votes back with --answers to get the next pairs; pairs without a vote come again
    before new ones.
    """
    from szpo.analysis import question_rounds
    from szpo.analysis.posterior import BradleyTerry

    if rule not in (None, "bald", "entropy"):
        raise UsageError(f"--rule {rule} is neither bald nor entropy")
    # A selection keeps these options from its first round on.
    fixed = {"features": features, "rule": rule, "tau": tau, "seed": seed,
             "shortest": min_words, "longest": max_words}  # fmt: skip
    given: dict[str, Any] = {name: value for name, value in fixed.items() if value is not None}
    state_path = state or pool.with_name(pool.name + ".select.json")
    if state_path.exists():
        begun = question_rounds.load(state_path)
        _check_options(given, begun.plan, state_path)
    elif answers is not None:
        raise UsageError(
            f"{state_path} does not exist; give the --state in which the answered questions are"
        )
    elif features is None:
        raise UsageError(
            "give --features, such as length,politeness (szpo taste --list lists the names)"
        )
    else:
        _, names = _features(features, pool)
        plan = question_rounds.SelectionSettings(names=names, **given)
        BradleyTerry.prior(1, plan.tau)  # raises for a bad standard deviation
        seeds.derive(plan.seed, "select")  # raises for a bad seed
        begun = question_rounds.State(plan)
    differences, _ = _features(begun.plan.features, pool)
    done = question_rounds.advance(
        begun, pool, differences, count=count,
        replies=[] if answers is None else question_rounds.read_sheet(answers),
    )  # fmt: skip
    # The state first: if the process dies in between, the same questions are written again.
    question_rounds.save(done.state, state_path)
    question_rounds.write_sheet(done.out, out)
    if as_json:
        console.emit(_figures(done, state_path, out))
    else:
        _say(done, state_path, out)


def _check_options(given: Mapping[str, Any], plan: SelectionSettings, state_path: Path) -> None:
    options = {"shortest": "min-words", "longest": "max-words"}
    for name, value in given.items():
        if value != (begun := getattr(plan, name)):
            raise UsageError(
                f"--{options.get(name, name)} {value}: {state_path} was begun with {begun}; leave "
                "it out, or begin again with another --state"
            )


def _features(text: str, path: Path) -> tuple[Differences, tuple[str, ...]]:
    """The feature differences of pairs, and the features' names."""
    from szpo.analysis import features, question_rounds

    if text.startswith("columns:"):
        names = tuple(name.strip() for name in text.removeprefix("columns:").split(","))
        if not all(names):
            raise UsageError(f"--features {text}: name the columns, as in columns:x,y")
        return question_rounds.differences_from_columns(names), names
    if text.endswith(question_rounds.MATRIX_SUFFIX):
        differences, dim = question_rounds.differences_from_matrix(Path(text))
        return differences, tuple(f"{i}" for i in range(dim))
    found = features.parse(text)
    return question_rounds.differences_from_features(found), tuple(
        feature.name for feature in found
    )


def _figures(done: Round, state_path: Path, out: Path) -> dict[str, Any]:
    return {
        "out": str(out),
        "state": str(state_path),
        "questions": len(done.out),
        "fresh": done.fresh,
        "new_answers": done.new_replies,
        "changed_answers": done.changed,
        "answers": len(done.state.replies),
        "pairs": done.seen.pairs,
        "left_out": dict(done.seen.left_out),
        "certain": done.certain,
        "entropy_prior": done.before,
        "entropy": done.now,
        "expected_gain": done.gain,
        "weights": [{"feature": name, "mean": mean, "sd": sd} for name, mean, sd in done.weights],
    }


def _say(done: Round, state_path: Path, out: Path) -> None:
    console.say(
        f"{console.count(len(done.state.replies), 'answer')} so far ({done.new_replies} new, "
        f"{done.changed} changed); entropy of the weights {done.now:.2f} nats, "
        f"{done.before - done.now:.2f} less than before any"
    )
    for name, mean, sd in done.weights[:20]:
        console.say(f"  {name}: {mean:+.2f} ± {Z * sd:.2f} logits per standard deviation")
    if done.seen.pairs:
        left = ", ".join(f"{n:,} {why}" for why, n in done.seen.left_out.items() if n)
        console.say(f"pool: {done.seen.pairs:,} pairs" + (f"; left out: {left}" if left else ""))
    if not done.out:
        console.say("nothing is left to ask: no pair of the pool passes")
        return
    console.say(
        f"{console.count(len(done.out), 'question')} in {out} ({done.fresh} new, "
        f"{len(done.out) - done.fresh} waiting); the new ones are expected to teach "
        f"{done.gain:.2f} nats\nfill in choice (A, B, tie, skip) and give it back with --answers; "
        f"state: {state_path}"
    )
