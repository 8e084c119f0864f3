"""``szpo select POOL``: the next pairs of a pool that are worth asking about, round by round."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from szpo.errors import UsageError

if TYPE_CHECKING:
    from szpo.active.pool import Differences
    from szpo.active.rounds import Round, SelectionSettings

FIXED = ("rule", "tau", "seed", "min_words", "max_words")
"""Options that belong to a selection from its first round on."""


def command(arguments: Sequence[str]) -> int:
    """The entry point of `szpo.commands`."""
    from szpo.active import label_sheets, rounds
    from szpo.cli import console

    chosen = _parser().parse_args(list(arguments))
    pool: Path = chosen.pool
    state_path: Path = chosen.state or pool.with_name(pool.name + ".select.json")
    if state_path.exists():
        state = rounds.load(state_path)
        _check_options(chosen, state.plan, state_path)
    elif chosen.answers is not None:
        raise UsageError(
            f"{state_path} does not exist; answers belong to questions of a state file"
        )
    elif chosen.features is None:
        raise UsageError("give --features, such as length,politeness (szpo taste lists the names)")
    else:
        state = rounds.State(_make_plan(chosen))
    differences, _ = _features(state.plan.features, pool)
    done = rounds.advance(
        state, pool, differences, count=chosen.count,
        replies=[] if chosen.answers is None else label_sheets.read(chosen.answers),
    )  # fmt: skip
    # The state first: a process that dies in between hands the same questions out again.
    rounds.save(done.state, state_path)
    label_sheets.write(done.out, chosen.out)
    if chosen.json:
        console.emit(_figures(done, state_path, chosen.out))
    else:
        _say(done, state_path, chosen.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="szpo select",
        description="Choose the pairs of a pool whose answers would teach most, take the answers "
        "back, and go on. Questions that wait for an answer are handed out again before new ones.",
    )
    parser.add_argument("pool", type=Path, help="pairs (prompt, a, b): .csv, .jsonl, .jsonl.gz, "
                        ".json, or Label Studio tasks")  # fmt: skip
    parser.add_argument("--features", help="named features of the texts, such as "
                        "length,politeness; columns:x,y for numbers in the pool; or a .npy file "
                        "with a row per pair (embeddings)")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="NEXT",
                        help="the questions: .jsonl, .csv, or Label Studio .json")  # fmt: skip
    parser.add_argument("--answers", type=Path, metavar="FILE",
                        help="answers to earlier questions: the sheet filled in (choice: A, B, "
                        "tie, skip), or Label Studio's export")  # fmt: skip
    parser.add_argument("--state", type=Path, metavar="FILE",
                        help="where the selection stands (default: POOL.select.json)")  # fmt: skip
    parser.add_argument("--count", type=int, default=10, metavar="M", help="questions of a round")
    parser.add_argument("--rule", choices=("bald", "entropy"),
                        help="expected information (default), or entropy afterwards")  # fmt: skip
    parser.add_argument("--tau", type=float, help="prior standard deviation of a weight, in "
                        "logits per standard deviation of its feature (default: 1)")  # fmt: skip
    parser.add_argument("--seed", type=int, help="default: 0")
    parser.add_argument("--min-words", type=int, help="shortest answer (default: 1)")
    parser.add_argument("--max-words", type=int, help="longest answer (default: no limit)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _make_plan(chosen: argparse.Namespace) -> SelectionSettings:
    from szpo import seeds
    from szpo.active.posterior import BradleyTerry
    from szpo.active.rounds import SelectionSettings

    _, names = _features(chosen.features, chosen.pool)
    tau = 1.0 if chosen.tau is None else chosen.tau
    BradleyTerry.prior(1, tau)  # refuses what is no standard deviation
    seeds.derive(chosen.seed or 0, "select")  # refuses what is no seed
    return SelectionSettings(
        features=chosen.features,
        names=names,
        rule=chosen.rule or "bald",
        tau=tau,
        seed=chosen.seed or 0,
        shortest=1 if chosen.min_words is None else chosen.min_words,
        longest=chosen.max_words,
    )


def _check_options(chosen: argparse.Namespace, plan: SelectionSettings, state_path: Path) -> None:
    have = {
        "features": plan.features, "rule": plan.rule, "tau": plan.tau, "seed": plan.seed,
        "min_words": plan.shortest, "max_words": plan.longest,
    }  # fmt: skip
    for name in ("features", *FIXED):
        given = getattr(chosen, name)
        if given is not None and given != have[name]:
            option = "--" + name.replace("_", "-")
            raise UsageError(
                f"{option} {given}: {state_path} was begun with {have[name]}; leave it out, or "
                "begin anew with another --state"
            )


def _features(text: str, path: Path) -> tuple[Differences, tuple[str, ...]]:
    """δ of pairs, and the names of its coordinates."""
    from szpo.active import pool
    from szpo.analysis import features

    if text.startswith("columns:"):
        names = tuple(name.strip() for name in text.removeprefix("columns:").split(","))
        if not all(names):
            raise UsageError(f"--features {text}: name the columns, as in columns:x,y")
        return pool.differences_from_columns(names), names
    if text.endswith(pool.MATRIX_SUFFIX):
        differences, dim = pool.differences_from_matrix(Path(text))
        return differences, tuple(f"{i}" for i in range(dim))
    found = features.parse(text)
    return pool.differences_from_features(found), tuple(feature.name for feature in found)


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
    from szpo.cli import console

    answers = len(done.state.replies)
    console.say(
        f"{answers} answers so far ({done.new_replies} new, {done.changed} changed); entropy of "
        f"the weights {done.now:.2f} nats, {done.before - done.now:.2f} less than before any"
    )
    for name, mean, sd in done.weights[:20]:
        console.say(f"  {name}: {mean:+.2f} ± {1.96 * sd:.2f} logits per standard deviation")
    if done.seen.pairs:
        left = ", ".join(f"{n:,} {why}" for why, n in done.seen.left_out.items() if n)
        console.say(f"pool: {done.seen.pairs:,} pairs" + (f"; left out: {left}" if left else ""))
    if not done.out:
        console.say("nothing is left to ask: no pair of the pool passes")
        return
    console.say(
        f"{len(done.out)} questions in {out} ({done.fresh} new, {len(done.out) - done.fresh} "
        f"waiting); the new ones are expected to tell {done.gain:.2f} nats"
    )
    console.say(
        f"fill in choice (A, B, tie, skip) and give it back with --answers; state: {state_path}"
    )
