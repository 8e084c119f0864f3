"""A run as one zip for other tools: votes, steps, texts, updates, and the dashboard's numbers.

`recompute` computes the dashboard's numbers again from such a zip alone. The same ledger at the
same time gives the same bytes. Panelists have pseudonyms; contacts and credentials are never read.
Votes of the open round and of open final comparisons are left out unless asked for. Files are
written while their rows are read, so a long run needs little memory.
"""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from operator import attrgetter
from pathlib import Path
from typing import IO, Any, Final

from szpo import __version__
from szpo.analysis import evidence, overview
from szpo.analysis.evidence import Evidence
from szpo.analysis.vote_rows import VoteRow
from szpo.config import settings_file
from szpo.data import spreadsheets
from szpo.errors import IntegrityError
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_config
from szpo.ledger.theta import recommended_digest
from szpo.optim import superseded
from szpo.replay import replay
from szpo.reports import exported_rows, html_report, sealed_zip
from szpo.reports.adapter import fold_adapter_files
from szpo.reports.model_card import find_doubt, model_card
from szpo.reports.sealed_zip import Member
from szpo.training.guards import Bands
from szpo.training.results import NOT_STORED, StepRow

NUMBERS: Final = ("run.json", "steps.csv", "votes.jsonl", "panelists.csv")
"""The files from which the dashboard's numbers are computed."""
ALWAYS: Final = (
    *NUMBERS, "README.txt", "spec.json", "votes.csv", "pairs.jsonl", "updates.csv",
    "events.jsonl", "overview.json", "report.html",
)  # fmt: skip
"""The files of every export."""
LIMIT: Final = 2**28
"""Most bytes of `NUMBERS` together, unpacked, that are read by default."""
TABLES: Final = {"run.json": 2**22, "steps.csv": 2**24, "panelists.csv": 2**24}
"""Most bytes of single files by default; they are fewer, since rows need more in memory."""
VOTE_BYTES: Final = 2**11
"""More bytes than a vote without notes needs in a file."""


def write(
    ledger: Ledger,
    file: IO[bytes],
    *,
    live: bool = False,
    as_of_us: int | None = None,
    anyway: bool = False,
) -> dict[str, Any]:
    """Write the zip as of one moment, through its own reader; returns the dashboard's numbers.

    Args:
        ledger: an open run, which others may keep using.
        file: a binary file, written from its start.
        live: include the votes of the open round.
        as_of_us: the time to which rates refer; None: the time of the last event, so that the
            bytes depend on the record alone.
        anyway: include the adapter even if there is a doubt about it.
    """
    with Ledger.open(ledger.path, readonly=True, clock=ledger.clock) as own, own.snapshot():
        at = last_event_us(own) if as_of_us is None else as_of_us
        found = evidence.read(own, live=live, as_of_us=at)
        page = overview.overview(found)
        sealed_zip.write(file, _files(own, found, page, live, anyway))
    return page


def recompute(file: IO[bytes] | Path, *, limit: int = LIMIT) -> dict[str, Any]:
    """Compute the dashboard's numbers from a zip's files.

    Args:
        file: the zip.
        limit: most bytes of run.json, steps.csv, votes.jsonl and panelists.csv together, unpacked,
            which are held in memory. All files together may have 16 times as many. The limits of
            single files (`TABLES`) and of rows grow in proportion.

    Raises:
        StorageError: it is not such a zip, or a row has another form than szpo writes.
        IntegrityError: a file does not have the hash that SHA256SUMS gives, is missing, or stands
            there without a line in it; or the rows describe no run.
        ResourceError: it unpacks to more than the limits allow.
    """
    found = read(file, limit=limit)
    try:
        return overview.overview(found)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Each row is well formed, but together they cannot be from a ledger.
        raise IntegrityError(
            f"this export does not describe a run ({type(error).__name__}: {error})"
        ) from None


def read(file: IO[bytes] | Path, *, limit: int = LIMIT) -> Evidence:
    """Check a zip's hashes and read its rows; see `recompute`.

    Votes are parsed and checked when iterated, with the errors of `recompute`.
    """
    scale = max(1, limit // LIMIT)
    wanted = {name: scale * TABLES.get(name, LIMIT) for name in NUMBERS}
    files = sealed_zip.read(file, always=ALWAYS, wanted=wanted, limit=limit)
    return exported_rows.parse(files, most_rows=scale * exported_rows.ROWS)


def last_event_us(ledger: Ledger) -> int:
    """The time of the last event, µs since 1970."""
    return int(ledger.query("SELECT max(at_us) AS at_us FROM events")[0]["at_us"])


# ---- the files ----


def _files(
    ledger: Ledger, found: Evidence, page: dict[str, Any], live: bool, anyway: bool
) -> Iterator[Member]:
    adapter = fold_adapter_files(ledger)
    against = "" if anyway or adapter is None else find_doubt(ledger)
    adapter = None if against else adapter
    yield _whole("README.txt", _readme(found, live, adapter is not None, against).encode())
    facts = {**asdict(found.run), "bands": _edges(found.run.bands)}
    yield _whole("run.json", _json({"facts": facts, "record": _record(ledger)}))
    yield _whole("spec.json", _json(ledger.spec))
    settings = recorded_config(ledger)
    if settings is not None:
        gone = superseded.find_gone(ledger.spec["optimizer"])
        above = f"# without {' and '.join(gone)}: see spec.json\n" if gone else ""
        yield _whole("run.toml", (above + settings_file.to_toml(settings)).encode())
    most = VOTE_BYTES * ledger.query("SELECT count(*) AS n FROM votes")[0]["n"]
    votes = _columns(VoteRow)
    yield Member("votes.jsonl", _lines(_records(found.votes, votes)), most)
    yield Member("votes.csv", table(_records(found.votes, votes), votes), most)
    steps = [name for name in _columns(StepRow) if name not in NOT_STORED]
    yield Member("steps.csv", table(_records(found.steps, steps), steps))
    yield Member("panelists.csv", table(*_panelists(found, page)))
    yield Member("pairs.jsonl", _lines(_pairs(ledger)), most)
    own = _preferences(ledger, found)
    if (first := next(own, None)) is not None:
        yield Member("dpo.jsonl", _lines(itertools.chain([first], own)))
    yield Member("updates.csv", table(*_updates(ledger)))
    yield Member("events.jsonl", _lines(_events(ledger)), most)
    yield _whole("overview.json", _json(page))
    yield _whole("report.html", html_report.render(ledger, open_round=live).encode())
    if "optimizer" in ledger.spec:
        yield _whole("theta.safetensors", _theta(ledger))
    if adapter is not None:
        yield _whole("lora/README.md", model_card(ledger).encode())
        for name, content in adapter.items():
            yield _whole(f"lora/{name}", content)


def _whole(name: str, content: bytes) -> Member:
    return Member(name, [content], len(content))


def _columns(row: type) -> list[str]:
    return [field.name for field in fields(row)]


def _records(rows: Iterable[object], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of a dataclass as JSON objects with these fields."""
    values = attrgetter(*names)
    return (dict(zip(names, values(row), strict=True)) for row in rows)


def _edges(bands: Bands) -> dict[str, list[float | None]]:
    """Lower and upper edge of each band; None for an infinite edge, which JSON lacks."""
    return {
        name: [edge if math.isfinite(edge) else None for edge in band]
        for name, band in asdict(bands).items()
        if band is not None
    }


def _record(ledger: Ledger) -> dict[str, Any]:
    row = {name: value for name, value in ledger.row.items() if name != "spec"}
    return {**row, "head_sha256": recommended_digest(ledger), "szpo": __version__}


def _panelists(found: Evidence, page: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    rows = [
        {
            **asdict(person),
            "votes": row["votes"],
            "median_s": row["median"].value,
            "gold_right": row["gold"].hits,
            "gold_asked": row["gold"].of,
            "repeat_same": row["repeat"].hits,
            "repeat_asked": row["repeat"].of,
            "a_share": row["a_side"].value,
            "a_low": row["a_side"].low,
            "a_high": row["a_side"].high,
            **{f"{name}_share": row[f"{name}s"].value for name in ("tie", "skip")},
            "rest_share": row["rest"].value,
            "late": row["late"],
            "flags": "; ".join(flag.text for flag in row["flags"]),
        }
        for person, row in zip(found.panelists, page["panelists"], strict=True)
    ]
    return rows, list(rows[0]) if rows else ["name", "kind", "enrolled_us"]


def _pairs(ledger: Ledger) -> Iterator[dict[str, Any]]:
    for row in ledger.stream(
        "SELECT c.comparison, c.kind, c.step, c.k, c.n, c.expected, c.repeats, a.i, a.prompt, "
        "a.plus, a.minus, a.plus_end, a.minus_end FROM comparisons c "
        "JOIN answers a USING (comparison) ORDER BY c.step, c.kind, c.k, c.n, c.comparison, a.i"
    ):
        yield {**row, "prompt": json.loads(row["prompt"]), "root_seed": ledger.root_seed}


def _preferences(ledger: Ledger, found: Evidence) -> Iterator[dict[str, Any]]:
    """Preferences from panelists' notes on single prompts; votes on batches give none."""
    for vote in found.votes:
        if not vote.counted or not vote.notes:
            continue
        comparison = ledger.comparison(vote.comparison)
        rows = comparison.rows if comparison is not None else ()
        for place, note in sorted(vote.notes.items()):
            if note == "tie" or not place.isdigit() or int(place) >= len(rows):
                continue
            row = rows[int(place)]
            better = note == vote.plus_side
            chosen, rejected = (row.plus, row.minus) if better else (row.minus, row.plus)
            yield {
                "prompt": [list(turn) for turn in row.prompt.turns],
                "chosen": chosen.text,
                "rejected": rejected.text,
                "panelist": vote.panelist,
                "comparison": vote.comparison,
                "row": int(place),
            }


def _updates(ledger: Ledger) -> tuple[list[dict[str, Any]], list[str]]:
    names = ["step", "k", "coef", "vector", "rule", "estimate", "stderr", "n_votes",
             "votes_sha256", "theta_sha256", "applied_us"]  # fmt: skip
    rows = []
    for row, update in zip(ledger.update_rows(), ledger.updates(), strict=True):
        row["vector"] = None if update.vector is None else list(update.vector)
        rows.append({name: row[name] for name in names})
    return rows, names


def _events(ledger: Ledger) -> Iterator[dict[str, Any]]:
    for event in ledger.stream("SELECT * FROM events ORDER BY event"):
        del event["run"]
        yield {**event, "body": json.loads(event["body"])}


def _theta(ledger: Ledger) -> bytes:
    from safetensors.numpy import save

    theta = {name: values.copy() for name, values in replay.fold(ledger).items()}
    content: bytes = save(theta, metadata={"theta_sha256": recommended_digest(ledger)})
    return content


def _readme(found: Evidence, live: bool, adapter: bool, against: str) -> str:
    lora = (
        "lora/                    the tuned adapter in PEFT's format, as szpo export RUN writes it"
        if adapter
        else f"(no lora/)               {against}; with --anyway it is here"
        if against
        else "(no lora/)               this run's policy is none of szpo's language models; where"
        "\n                         it is, szpo export RUN --zip FILE puts the adapter here"
    )
    left_out = "".join(
        f"\n{what} was open: its {votes} votes are not in these files; the next export has them."
        for what, votes in (
            ("A round", len(found.run.hidden_us)),
            ("A final comparison", found.run.hidden_final),
        )
        if votes and not live
    )
    return f"""szpo {__version__}: export of the run {found.run.name}
{left_out}
votes.jsonl, votes.csv   every stored vote, each change of mind a line of its own; "counted" are
                         the votes behind the updates, "verdict" is the choice resolved to a side
steps.csv                one line per step: plan, times, figures
pairs.jsonl              every prompt with both answers (plus and minus)
panelists.csv            pseudonyms and figures; nothing here names a person
updates.csv              what each step did to the weights
theta.safetensors        the tuned coordinates after the last applied step
events.jsonl             the record's log, each event with the hash of the one before
run.json, spec.json      the run, its settings and digests (run.toml: the settings to run again)
overview.json            the dashboard's numbers at {found.run.as_of_us} µs since 1970, UTC
report.html              the run as a page
dpo.jsonl                panelists' own notes on single prompts, where they made any
{lora}

A verdict is about a whole batch of answers. It is no preference on any single prompt of it: do not
train on the rows of pairs.jsonl as if it were. dpo.jsonl has only what panelists noted on single
prompts.

In CSV files a text that begins with one of = + - @ ' or a control character has an apostrophe
before it, so that no program takes it for a formula; so has one where = + - or @ follows spaces.

    python -c "from szpo.reports import bundle; from pathlib import Path; \\
        print(bundle.recompute(Path('this.zip')))"

makes the numbers again from votes.jsonl, steps.csv, panelists.csv and run.json. It refuses a zip
that holds other files than SHA256SUMS names, and one whose numbers rest on more than
{LIMIT // 2**20} MiB of files, unpacked, until it is given a larger limit=.
"""


# ---- forms ----


def table(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> Iterator[bytes]:
    """Rows as CSV in UTF-8, in pieces; lists and objects are JSON, None is an empty cell."""
    text = io.StringIO(newline="")
    writer = spreadsheets.writer(text, names)
    for row in rows:
        writer({name: _cell(row[name]) for name in names})
        if text.tell() >= sealed_zip.CHUNK:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    yield text.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple | Mapping):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return int(value) if isinstance(value, bool) else value


def _json(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True, default=asdict)
    return (text + "\n").encode("utf-8", "replace")


def _lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    for row in rows:
        yield (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "replace")
