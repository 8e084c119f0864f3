"""Commands about the record: verify, backup, export."""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from szpo.analysis import improvement, run_taste
from szpo.analysis.exported_weights import Weights, find_unknown
from szpo.analysis.named_votes import USUAL
from szpo.analysis.vote_export import write_votes
from szpo.cli import console, run_paths
from szpo.cli.clusters import members_of
from szpo.errors import IntegrityError, UsageError
from szpo.files import write_whole
from szpo.ledger.database import Ledger
from szpo.ledger.theta import recommended_digests, theta_digests
from szpo.optim.parameters import NO_COORDINATES
from szpo.replay import backup as copies
from szpo.replay import verification

if TYPE_CHECKING:
    from szpo.runs.assemble import RunParts


def verify(
    run: str | None = run_paths.RUN,
    quick: bool = typer.Option(False, "--quick", help="Hashes only; recompute no update."),
    steps: bool = typer.Option(False, "--steps", help="Also print the findings of each step."),
    head: str | None = typer.Option(
        None,
        "--head",
        help="A head that verify, show or a report printed earlier; it must be in the chain.",
    ),
    model: bool = typer.Option(
        False, "--model", help="Load the run's model, and read the hidden states on record again."
    ),
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> int:
    """Check every row's hash, the chain, the votes behind each update, and the weights.

    Prints the digest of the weights to which the recorded updates add up.
    """
    with Ledger.open(run_paths.find(run, folder), readonly=True) as ledger:
        if head is not None:
            _require_head(ledger, head)
        console.doing("checking every hash, and computing each update again from its votes")
        found = verification.verify(
            ledger, deep=not quick, head=head, also=[run_taste.check_recorded]
        )
        weights = _digest_after(ledger, len(found.steps)) if found.ok else {}
        again = _read_states_again(ledger) if model and found.ok else ""
    if as_json:
        document = {"ok": found.ok, "verdict": str(found), "details": found.lines}
        console.emit({**document, "head": found.head, **weights, "note": found.note,
                      **({"states": again} if model else {})})  # fmt: skip
        return 0 if found.ok else IntegrityError.exit_code
    for line in found.lines if steps else ():
        console.say(line)
    if not found.ok:
        raise IntegrityError(str(found))
    kind = "theta_sha256 as recorded" if quick else "theta_sha256"
    taken = console.count(weights["steps"], "step")
    after = f"weights {weights['theta_sha256']} ({kind}) after {taken}"
    head = f"head {found.head} (note it on another machine, for szpo verify --head)"
    console.say("\n".join(filter(None, (str(found), found.note, again, after, head))))
    return 0


def _read_states_again(ledger: Ledger) -> str:
    from szpo.runs import assemble, states_again

    console.doing("loading the run's model, and reading its hidden states")
    with contextlib.closing(assemble.reopen(ledger, panel=False, say=console.complain)) as parts:
        return states_again.check(ledger, parts.language, parts.language.loaded.dtype)


def _digest_after(ledger: Ledger, steps: int) -> dict[str, Any]:
    return {"steps": steps, "theta_sha256": recommended_digests(ledger)[steps]}


def _require_head(ledger: Ledger, head: str) -> None:
    """Refuse what is no head or is a digest of weights: both would look like a broken chain."""
    given = head.strip().lower()
    if not re.fullmatch("[0-9a-f]{64}", given):
        raise UsageError(f"--head {head}: a head has 64 hexadecimal digits")
    for digests in (recommended_digests(ledger), theta_digests(ledger)):
        if given not in digests:
            continue
        raise UsageError(
            f"--head {given[:12]}… is the digest of the weights after {digests.index(given)} "
            "steps, no head; give the head that szpo show or szpo verify prints"
        )


def backup(
    run: str | None = run_paths.RUN,
    out: Path | None = typer.Option(
        None, "--out", help="File to write; default: backups/RUN-EVENT.db beside the run."
    ),
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> int:
    """Copy a live run; the copy is verified before it takes its name."""
    path = run_paths.find(run, folder)
    if out is None:
        with Ledger.open(path, readonly=True) as ledger:
            last = ledger.query("SELECT max(event) AS event FROM events")[0]["event"]
        out = path.parent / "backups" / f"{path.stem}-{last:06}.db"
        out.parent.mkdir(mode=0o700, exist_ok=True)
    report = copies.backup(path, out)
    document = {"file": str(out), "verdict": str(report), "head": report.head}
    console.answer(as_json, document, f"wrote {out}; {report}")
    return 0


def export(
    run: str | None = run_paths.RUN,
    out: Path | None = typer.Option(
        None, "--out", help="Folder to write; default: beside the run."
    ),
    votes: Path | None = typer.Option(
        None,
        "--votes",
        help="Write the votes of closed rounds, without withdrawn ones, to this .jsonl, .csv or "
        ".db file instead.",
    ),
    scale: float = typer.Option(
        1.0,
        "--scale",
        help="How much of the way from the start to the tuned weights, above 0, at most 1.",
    ),
    nats: float | None = typer.Option(
        None,
        "--nats",
        help="Instead of --scale: go to where KL from the start is so many nats.",
    ),
    rank: int | None = typer.Option(
        None, "--rank", min=1, help="Cut the adapter to this rank (SVD); its error is measured."
    ),
    merged: bool = typer.Option(
        False, "--merged", help="Write the whole base model with the adapter merged in instead."
    ),
    anyway: bool = typer.Option(
        False,
        "--anyway",
        help="Write even weights that fail a guard or cannot be told from the base.",
    ),
    cluster: int | None = run_paths.CLUSTER,
    chosen: str | None = run_paths.OF_CLUSTER,
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Write the adapter (PEFT), the merged model or the votes.

    Weights that fail a guard (fluency, variety, length, topic) or cannot be told from the base
    are written only with --anyway; without it the exit code is 1. Those that were not measured
    are written with a warning. The adapter's folder also gets a model card and the base's
    tokenizer with its chat template. --scale, --nats and --cluster load the model and measure
    what is written: its guards, and how far it is from the start (KL, in nats); --rank measures
    how far the cut adapter is from the whole one. Votes are written as JSONL, CSV or an SQLite
    table.
    """
    run_paths.require_cluster(cluster, chosen)
    if cluster and votes is not None:
        raise UsageError("--cluster writes an adapter; leave out --votes")
    if not 0 < scale <= 1:
        raise UsageError(
            f"--scale {scale:g}: give a factor above 0, at most 1; 0 would be where the run began"
        )
    if nats is not None and not (0 < nats < float("inf") and scale == 1):
        raise UsageError(f"--nats {nats:g}: give a number above 0, and no --scale")
    if (scale != 1 or rank or nats) and votes is not None:
        idle = "--scale" if scale != 1 else "--nats" if nats else "--rank"
        raise UsageError(f"{idle}: no adapter is written; leave out --votes")
    if merged and (idle := ", ".join(["--votes"] * (votes is not None) + ["--rank"] * bool(rank))):
        raise UsageError(f"--merged writes a whole model to a folder; leave out {idle}")
    path = run_paths.find(run, folder)
    with run_paths.look(path) as ledger:
        document: dict[str, Any]  # key "": the line to print
        if votes is not None:
            count = write_votes(ledger, votes)
            wrote = console.count(count, "vote")
            document = {"votes": count, "file": str(votes), "": f"wrote {wrote} to {votes}"}
        else:
            improvement.require_moving(ledger)
            suffix = "" if cluster is None else f"-{cluster}"
            suffix += "" if scale == 1 else f"-scaled-{scale:g}"
            suffix += "" if nats is None else f"-{nats:g}-nats"
            suffix += "" if rank is None else f"-rank-{rank}"
            kind = "merged" if merged else "adapter"
            target = out or path.with_name(f"{path.stem}-{kind}{suffix}")
            weights = _make_weights(ledger, scale, nats, cluster, chosen or USUAL)
            weights = weights if rank is None else _cut(ledger, weights, rank)
            write = _write_merged if merged else _write_adapter
            document = write(ledger, target, weights, anyway=anyway)
    line = document.pop("")
    console.answer(as_json, document, line)


def _write_adapter(ledger: Ledger, out: Path, weights: Weights, *, anyway: bool) -> dict[str, Any]:
    """Write the adapter's folder."""
    from szpo.analysis import adapter

    tokenizer = adapter.write_folder(ledger, run_paths.fresh(out), weights, anyway=anyway)
    if not tokenizer:
        console.warn(
            f"{ledger.path.stem}: its base model is not on this machine, so the folder has no "
            "tokenizer; load that of the base model"
        )
    if not anyway and (unknown := find_unknown(ledger, weights)):
        console.warn(unknown)
    message = (
        f"wrote {out}; load it with PeftModel.from_pretrained(model, {str(out)!r}), as its "
        "README.md shows"
    )
    found: dict[str, Any] = {"tokenizer": tokenizer, "adapter": str(out)}
    if (group := weights.group) is not None:
        found |= {"votes": group.votes, "panelists": group.members}
        message += f"; fitted to {group.votes} votes of {', '.join(group.members)}"
    return {**found, **_measured(weights), "": message}


def _write_merged(ledger: Ledger, out: Path, weights: Weights, *, anyway: bool) -> dict[str, Any]:
    """Write the base model with the adapter merged into its weights."""
    from szpo.analysis import adapter
    from szpo.cache import quiet

    target = run_paths.fresh(out)
    if not anyway:
        adapter.require_sound(ledger, weights)
        if unknown := find_unknown(ledger, weights):
            console.warn(unknown)
    parts = _reopen(ledger)
    with write_whole(target) as draft, quiet():
        parts.language.merge(draft, theta=weights.theta(ledger))
    message = f"wrote {out}; load it with AutoModelForCausalLM.from_pretrained"
    return {"model": str(out), **_measured(weights), "": message}


def _measured(weights: Weights) -> dict[str, Any]:
    """What was measured of weights for this export; empty if nothing was."""
    cut = {} if weights.rank is None else {"rank": weights.rank, "cut": weights.cut}
    if weights.heldout is None:
        return cut
    return {**cut, "kl": weights.kl, "guards": [asdict(guard) for guard in weights.heldout.guards]}


def _reopen(ledger: Ledger) -> RunParts:
    from szpo.cache import quiet
    from szpo.runs import assemble

    console.doing("loading the run's model")
    with quiet():
        return assemble.reopen(ledger, panel=False, say=console.complain)


def _make_weights(
    ledger: Ledger, scale: float, nats: float | None, cluster: int | None, chosen: str
) -> Weights:
    """The weights to write; those that the run did not recommend are measured on its model."""
    if scale == 1 and cluster is None and nats is None:
        return Weights()
    if cluster is not None and ledger.layout == NO_COORDINATES:
        raise UsageError(
            f"--cluster: votes of {ledger.path.stem} move nothing but by szpo improve, which "
            "follows those of all; begin a run with coordinates (subspace.kind)"
        )
    from szpo.cache import quiet
    from szpo.runs import other_weights

    members = [] if cluster is None else members_of(ledger, chosen, cluster)
    parts, weights = _reopen(ledger), Weights(scale)
    with quiet():
        if cluster is not None:
            group = other_weights.fit_group(ledger, parts, cluster, chosen, members)
            weights = replace(weights, group=group)
        if nats is not None:
            weights = _draw_back(ledger, parts, weights, nats)
        theta = weights.theta(ledger)
        kl, found = other_weights.measure(parts, theta, fitted=cluster is not None)
    console.complain(f"measured: KL to the run's start {kl:.2f} nats")
    for line in found.lines:
        console.complain(line)
    return replace(weights, kl=kl, heldout=found)


def _draw_back(ledger: Ledger, parts: RunParts, weights: Weights, nats: float) -> Weights:
    """The weights at the share of their way where fresh answers tell so many nats at most."""
    from szpo.improvement.draw_back import draw_back
    from szpo.runs import other_weights

    def read(scale: float, number: int) -> other_weights.Distance:
        scale = math.floor(1e4 * scale) / 1e4  # as the card says it
        theta = replace(weights, scale=scale).theta(ledger)
        return other_weights.read_distance(parts, theta, scale, number)

    found = draw_back(read, lambda found: (found, True), nats)
    console.complain(f"drawn back to {found.scale:.0%} of the way from the start")
    if found.nats > nats:
        console.warn(
            f"these weights are {found.nats:.3g} nats from the start, not the {nats:g} asked for; "
            f"a smaller share of the way: --scale {found.scale / 2:.2g}"
        )
    return replace(weights, scale=found.scale)


def _cut(ledger: Ledger, weights: Weights, rank: int) -> Weights:
    """The same weights cut to a rank, with the error measured on the run's model."""
    from szpo.policies import subspaces
    from szpo.runs import other_weights

    if rank > (own := max(site.rank for site in subspaces.read_recorded(ledger).sites)):
        raise UsageError(f"--rank {rank}: the adapter has rank {own}; leave it out")
    cut = other_weights.measure_cut(_reopen(ledger), weights.theta(ledger), rank)
    console.complain(f"measured: rank {rank} is {cut:.3f} nats from the whole adapter")
    return replace(weights, rank=rank, cut=cut)
