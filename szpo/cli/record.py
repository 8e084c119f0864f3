"""Commands about the record: verify, backup, export."""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from szpo.analysis import improvement, run_taste
from szpo.analysis.adapter import check_name, push_to_hub
from szpo.analysis.model_card import Names, Weights, base_id, find_unknown
from szpo.analysis.named_votes import USUAL
from szpo.analysis.vote_export import write_dataset, write_votes
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
    dataset: Path | None = typer.Option(
        None,
        "--dataset",
        help="Write the same votes as a folder for datasets.load_dataset instead.",
    ),
    push: str | None = typer.Option(
        None, "--push", help="Push the adapter to this USER/NAME of the Hugging Face Hub."
    ),
    push_votes: str | None = typer.Option(
        None, "--push-votes", help="Push the votes as a dataset to this USER/NAME."
    ),
    base: str | None = typer.Option(
        None, "--base", help="The base model's USER/NAME on the hub, if the run has a local one."
    ),
    licence: str | None = typer.Option(
        None, "--license", help="Licence named in the card, such as apache-2.0; default: none."
    ),
    pseudonyms: bool = typer.Option(
        False, "--pseudonyms", help="In a dataset, show which votes are from one panelist."
    ),
    notes: bool = typer.Option(False, "--notes", help="In a dataset, keep panelists' notes."),
    public: bool = typer.Option(
        False, "--public", help="Make a new repository public; default: private."
    ),
    scale: float = typer.Option(
        1.0,
        "--scale",
        help="Factor on the weights' way from the start, above 0, at most 1; measured anew.",
    ),
    nats: float | None = typer.Option(
        None, "--nats", help="Draw the weights back to so many nats from the start; measured anew."
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
    """Write the adapter (PEFT), the merged model or the votes; push to the Hugging Face Hub.

    Weights that fail a guard or cannot be told from the base are written only with --anyway;
    without it the exit code is 1. Those that were not measured are written with a warning. The
    adapter's folder also gets a model card and the base's tokenizer with its chat template.
    --scale, --nats and --cluster load the model and measure KL and guards of what is written,
    --rank the KL from the whole adapter to the cut one. Votes are written as JSONL, CSV or an
    SQLite table, or as a folder for datasets. What is pushed is written to a temporary folder
    unless --out or --dataset names one.
    """
    names = Names(
        base and check_name(base, "--base"),
        licence,
        push_votes and check_name(push_votes, "--push-votes"),
    )
    if push is not None:
        check_name(push, "--push")
    run_paths.require_cluster(cluster, chosen)
    others: dict[str, object]
    others = {"--votes": votes, "--dataset": dataset, "--push-votes": push_votes}
    if cluster and (idle := [name for name, value in others.items() if value is not None]):
        raise UsageError(f"--cluster writes an adapter; leave out {', '.join(idle)}")
    with_adapter = votes is None and bool(push or out or not (dataset or push_votes))
    if not 0 < scale <= 1:
        raise UsageError(
            f"--scale {scale:g}: give a factor above 0, at most 1; 0 would be where the run began"
        )
    if nats is not None and not (0 < nats < float("inf") and scale == 1):
        raise UsageError(f"--nats {nats:g}: give a number above 0, and no --scale")
    if (scale != 1 or rank or nats) and not with_adapter:
        idle = ["--scale" if scale != 1 else "--nats" if nats else "--rank"]
        raise UsageError(
            f"{idle[0]}: no adapter is written; leave out --votes, or add --out FOLDER"
        )
    others = {"--votes": votes, "--dataset": dataset, "--push": push, "--push-votes": push_votes}
    others |= {"--rank": rank}
    if merged and (idle := [name for name, value in others.items() if value is not None]):
        raise UsageError(f"--merged writes a whole model to a folder; leave out {', '.join(idle)}")
    path = run_paths.find(run, folder)
    with run_paths.look(path) as ledger:
        documents: list[dict[str, Any]]  # key "": the line to print
        if votes is not None:
            count = write_votes(ledger, votes)
            wrote = console.count(count, "vote")
            documents = [{"votes": count, "file": str(votes), "": f"wrote {wrote} to {votes}"}]
        else:
            documents = []
            if push and base_id(ledger, names) is None:
                raise UsageError(
                    f"{path.stem}: its base model is a folder of this machine, which nobody else "
                    "can load; name it on the hub by --base USER/NAME"
                )
            if with_adapter:
                improvement.require_moving(ledger)
                suffix = "" if cluster is None else f"-{cluster}"
                suffix += "" if scale == 1 else f"-scaled-{scale:g}"
                suffix += "" if nats is None else f"-{nats:g}-nats"
                suffix += "" if rank is None else f"-rank-{rank}"
                kind = "merged" if merged else "adapter"
                beside = path.with_name(f"{path.stem}-{kind}{suffix}")
                weights = _make_weights(ledger, scale, nats, cluster, chosen or USUAL)
                weights = weights if rank is None else _cut(ledger, weights, rank)
                documents.append(
                    _write_merged(ledger, out or beside, weights, anyway=anyway)
                    if merged
                    else _hand_over_adapter(
                        ledger, out if push else out or beside, weights, names,
                        push=push, public=public, anyway=anyway,
                    )
                )  # fmt: skip
            if dataset or push_votes:
                more = ["panelist"] * pseudonyms + ["notes"] * notes
                documents.append(_hand_over_votes(ledger, dataset, more, names, public=public))
    document = {key: value for each in documents for key, value in each.items() if key}
    console.answer(as_json, document, *(each[""] for each in documents))


def _hand_over_votes(
    ledger: Ledger, out: Path | None, more: Sequence[str], names: Names, *, public: bool
) -> dict[str, Any]:
    """Write the votes as a dataset, and push it if it has a name on the hub."""
    with _target(out) as target:
        count = write_dataset(ledger, target, more, licence=names.licence)
        found = {"dataset": str(out)} if out else {}
        message = f"wrote {console.count(count, 'vote')} to {out}"
        if names.votes is not None:
            found["votes_url"] = push_to_hub(target, names.votes, kind="dataset", public=public)
            message = f"pushed {console.count(count, 'vote')} to {found['votes_url']}"
    return {"votes": count, **found, "": message}


def _hand_over_adapter(
    ledger: Ledger,
    out: Path | None,
    weights: Weights,
    names: Names,
    *,
    push: str | None,
    public: bool,
    anyway: bool,
) -> dict[str, Any]:
    """Write the adapter, and push it if it has a name on the hub."""
    from szpo.analysis import adapter

    with _target(out) as target:
        tokenizer = adapter.write_folder(ledger, target, weights, names, anyway=anyway)
        found: dict[str, Any] = {"tokenizer": tokenizer}
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
        if out is not None:
            found["adapter"] = str(out)
        if push is not None:
            found["url"] = push_to_hub(target, push, kind="model", public=public)
            message = f"pushed the adapter to {found['url']}"
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


@contextlib.contextmanager
def _target(path: Path | None) -> Iterator[Path]:
    """The folder to write: ``path``, or a temporary one that is removed after the block."""
    if path is not None:
        yield run_paths.fresh(path)
        return
    with tempfile.TemporaryDirectory() as place:
        yield Path(place) / "export"
