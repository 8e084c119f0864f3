"""The command ``szpo shrink``: measures and uses points between a run's start and its end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from szpo.cli import console, record, run_paths
from szpo.errors import UsageError
from szpo.evaluators import hidden_reward
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.ledger.theta import starting_theta
from szpo.policies import text_guards
from szpo.replay.replay import check_share
from szpo.reports.model_card import Weights
from szpo.runs.shrink import SAMPLES, SHARES, Point, largest_that_holds, measure_points


def shrink(
    run: str | None = run_paths.RUN,
    at: list[float] = typer.Option(
        list(SHARES),
        "--at",
        help="Share of the way from the run's start to its end; may be repeated.",
    ),
    prompts: int | None = typer.Option(
        None, "--prompts", min=1, help="Held-out prompts; default: evaluation.prompts."
    ),
    samples: int = typer.Option(
        SAMPLES, "--samples", "-n", min=1, max=64, help="Answers to each."
    ),
    to: float | None = typer.Option(
        None, "--to", help="Measure nothing; export or ask at this share of the way."
    ),
    out: Path | None = typer.Option(None, "--out", help="With --to: write the adapter here."),
    ask: int | None = typer.Option(
        None, "--ask", min=1, max=1000, help="With --to: order this many blind comparisons of it."
    ),
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Measure points between a run's start and its end, then export or ask at one."""
    path = run_paths.find(run, folder)
    wanted = [word for word, value in (("--out", out), ("--ask", ask)) if value]
    if to is None:
        if wanted:
            raise UsageError(f"{wanted[0]} goes with --to, the share of the way from the start")
        _measure(path, at, prompts, samples, as_json)
        return
    check_share(to)
    if not wanted:
        raise UsageError("--to measures nothing; say what to do there: --out or --ask")
    _require_step(path)
    document: dict[str, Any] = {"share": to}
    lines = []
    if out is not None:
        with run_paths.look(path) as ledger:
            record.write_adapter(ledger, run_paths.fresh(out), Weights(share=to))
        document["adapter"] = str(out)
        lines.append(f"wrote {out}, the adapter at {to:g} of the way")
    if ask is not None:
        with Ledger.open(path) as ledger:
            body = {"comparisons": ask, "percent": _as_percent(to)}
            document["order"] = orders.place_order(ledger, "final", "szpo shrink", body)
        lines.append(
            f"order {document['order']}: {ask} blind comparisons of the base with {to:g} of the "
            f"way; the process that drives the run writes them: szpo run --resume {path} --stay"
        )
    console.answer(as_json, document, *lines)


def _as_percent(share: float) -> int:
    percent = round(100 * share)
    if abs(100 * share - percent) > 1e-9 or not percent:
        raise UsageError(f"--ask takes whole hundredths of the way (got {share:g})")
    return percent


def _require_step(path: Path) -> None:
    with run_paths.look(path) as ledger:
        last = ledger.last_applied()
    if last is None:
        raise UsageError(f"{path.name}: no step is applied yet; the run is at its start")


def _measure(
    path: Path, shares: Sequence[float], count: int | None, samples: int, as_json: bool
) -> None:
    from szpo.runs import assemble

    for share in shares:
        check_share(share)
    _require_step(path)
    with run_paths.look(path) as ledger:
        parts = assemble.reopen(ledger, panel=False, say=console.complain)
        policy, start = parts.language, starting_theta(ledger)
        score = hidden_reward.find_reward(ledger)
        asked = parts.prompts.heldout[: count or parts.config.evaluation.prompts]
        people = parts.config.panel.kind == "people"
    base, *points = _show_progress(
        measure_points(
            policy, start, asked, sorted(set(shares)), seed=parts.config.run.root_seed,
            samples=samples, score=score,
        )
    )  # fmt: skip
    best, gap = largest_that_holds(points), points[-1].gap
    if as_json:
        furthest = None if best is None else best.share
        found = [asdict(point) for point in points]
        document = {"base": asdict(base.figures), "points": found, "largest_that_holds": furthest}
        console.emit(document)
        return
    heads = ("of the way", "KL", "± s.e.", "gain", "95 %", "Δ log p/token", "distinct-2", "length",
             "topic", "guards")  # fmt: skip
    console.table(heads, [_row(point) for point in points])
    if gap is not None:
        console.say(f"no topic guard: {gap}")
    if best is None:
        console.say("some guard fails at each of these points; try one nearer the start: --at")
        return
    console.say(f"all guards hold as far as {best.share:g} of the way")
    there = f"szpo shrink {path} --to {best.share:g}"
    console.say(f"  {there} --out FOLDER  # the adapter there")
    if people:
        console.say(f"  {there} --ask 20      # blind comparisons of it with the base")


def _show_progress(points: Iterable[Point]) -> list[Point]:
    found = []
    for point in points:
        found.append(point)
        console.complain(
            f"{point.share:g} of the way: KL {point.kl:.1f} nats"
            if point.share
            else "base measured"
        )
    return found


def _row(point: Point) -> tuple[object, ...]:
    gain = "–" if point.gain is None else f"{point.gain.value:+.3f}"
    around = "–"
    if point.gain is not None and point.gain.low is not None:
        around = f"[{point.gain.low:+.3f}, {point.gain.high:+.3f}]"
    found = {g.name: f"{g.value:+.2f}{'' if g.ok else ' !'}" for g in point.guards}
    failed = sum(not guard.ok for guard in point.guards)
    return (
        f"{point.share:g}", f"{point.kl:.2f}", f"{point.kl_stderr:.2f}", gain, around,
        *(found.get(name, "–") for name in text_guards.NAMES),
        f"{failed} of {len(point.guards)} fail" if failed else "all hold",
    )  # fmt: skip
