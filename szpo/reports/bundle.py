"""A run as one zip for other tools: votes, steps, texts, updates, and the numbers they give.

`recompute` makes the dashboard's numbers again from the files of such a zip alone. The same ledger
at the same time gives the same bytes. Panelists stand by pseudonym; contacts and credentials are
never read. Votes of the round and of final comparisons that are open are left out unless they are
asked for.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO, Any, Final, get_type_hints

from szpo import __version__
from szpo.analysis import evidence, overview
from szpo.analysis.evidence import Ballot, Evidence, Panelist, RunFacts, StepRow
from szpo.analysis.overview import Overview
from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.data import spreadsheets
from szpo.errors import IntegrityError, ResourceError, StorageError
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digest
from szpo.replay import replay
from szpo.reports import html_report
from szpo.reports.adapter import adapter_files
from szpo.reports.model_card import model_card
from szpo.training.guards import Bands

SUMS: Final = "SHA256SUMS"
NUMBERS: Final = ("run.json", "steps.csv", "votes.jsonl", "panelists.csv")
"""The files that the dashboard's numbers rest on."""
ALWAYS: Final = (
    *NUMBERS, "README.txt", "spec.json", "votes.csv", "pairs.jsonl", "updates.csv",
    "events.jsonl", "overview.json", "report.html",
)  # fmt: skip
"""What every export holds."""
LIMIT: Final = 2**28
"""Bytes, unpacked, of `NUMBERS` together that a reader takes by default."""
REST: Final = 16
"""All files together may have so many times as much: they are read through and not kept."""
SUMS_LIMIT: Final = 2**20
CHUNK: Final = 2**16


def write(
    ledger: Ledger,
    file: IO[bytes],
    *,
    live: bool = False,
    as_of_us: int | None = None,
) -> Overview:
    """Write the zip as of one moment, by a reader of its own; returns the numbers that it holds.

    Args:
        ledger: an open run, which others may go on using meanwhile.
        file: a binary file, written from its start.
        live: include the votes of the open round.
        as_of_us: the time for which rates are told; left out: that of the last event, so that the
            bytes depend on the record alone.
    """
    with Ledger.open(ledger.path, readonly=True, clock=ledger.clock) as own, own.snapshot():
        return _write(own, file, live, as_of_us)


def _write(ledger: Ledger, file: IO[bytes], live: bool, as_of_us: int | None) -> Overview:
    at = last_event_us(ledger) if as_of_us is None else as_of_us
    found = evidence.read(ledger, live=live, as_of_us=at)
    page = overview.overview(found)
    sums: dict[str, str] = {}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as packed:
        for name, content in _files(ledger, found, page, live):
            _add(packed, name, content)
            sums[name] = hashlib.sha256(content).hexdigest()
        lines = (f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
        _add(packed, SUMS, "".join(lines).encode())
    return page


def recompute(file: IO[bytes] | Path, *, limit: int = LIMIT) -> Overview:
    """The dashboard's numbers from a zip's files.

    Args:
        file: the zip.
        limit: bytes that run.json, steps.csv, votes.jsonl and panelists.csv may have together,
            unpacked; they are held in memory. All files together may have 16 times as many.

    Raises:
        StorageError: not such a zip.
        IntegrityError: a file does not have the hash that SHA256SUMS gives, is missing, or stands
            there without a line in it.
        ResourceError: it unpacks to more than the limit allows.
    """
    return overview.overview(read(file, limit=limit))


def read(file: IO[bytes] | Path, *, limit: int = LIMIT) -> Evidence:
    """The rows of a zip, its hashes checked; see `recompute`."""
    try:
        with zipfile.ZipFile(file) as packed:
            return _evidence(_checked(packed, limit))
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise StorageError(f"not an export of szpo ({error})") from None
    except (LookupError, TypeError, ValueError, RecursionError, csv.Error) as error:
        # The hashes are right, so szpo did not write this.
        raise StorageError(f"not an export of szpo ({type(error).__name__}: {error})") from None


def _evidence(files: Mapping[str, bytes]) -> Evidence:
    run = json.loads(files["run.json"])["facts"]
    run["pauses"] = tuple((begin, end) for begin, end in run["pauses"])
    run["hidden_us"] = tuple(run["hidden_us"])
    run["bands"] = Bands(
        **{
            name: (-math.inf if low is None else low, math.inf if high is None else high)
            for name, (low, high) in run["bands"].items()
        }
    )
    return Evidence(
        run=RunFacts(**run),
        steps=tuple(StepRow(**row) for row in _typed(StepRow, files["steps.csv"])),
        ballots=tuple(Ballot(**json.loads(line)) for line in io.BytesIO(files["votes.jsonl"])),
        panelists=tuple(
            Panelist(row["name"], row["kind"], row["enrolled_us"])
            for row in _typed(Panelist, files["panelists.csv"])
        ),
    )


def last_event_us(ledger: Ledger) -> int:
    """When the record last grew, µs since 1970."""
    return int(ledger.query("SELECT max(at_us) AS at_us FROM events")[0]["at_us"])


# ---- the files ----


def _files(
    ledger: Ledger, found: Evidence, page: Overview, live: bool
) -> Iterator[tuple[str, bytes]]:
    adapter = adapter_files(ledger)
    yield "README.txt", _readme(found, live, adapter is not None).encode()
    facts = {**asdict(found.run), "bands": _edges(found.run.bands)}
    yield "run.json", _json({"facts": facts, "record": _record(ledger)})
    yield "spec.json", _json(ledger.spec)
    if "config" in ledger.spec:
        settings = Config.model_validate(ledger.spec["config"])
        yield "run.toml", settings_file.to_toml(settings).encode()
    ballots = [asdict(ballot) for ballot in found.ballots]
    yield "votes.jsonl", _lines(ballots)
    yield "votes.csv", table(ballots, [f.name for f in fields(Ballot)])
    yield "steps.csv", table(map(asdict, found.steps), [f.name for f in fields(StepRow)])
    yield "panelists.csv", table(*_panelists(found, page))
    yield "pairs.jsonl", _lines(_pairs(ledger))
    if own := list(_preferences(ledger, found)):
        yield "dpo.jsonl", _lines(own)
    yield "updates.csv", table(*_updates(ledger))
    yield "events.jsonl", _lines(_events(ledger))
    yield "overview.json", _json(page.as_dict())
    yield "report.html", html_report.render(ledger, open_round=live).encode()
    if "optimizer" in ledger.spec:
        yield "theta.safetensors", _theta(ledger)
    if adapter is not None:
        yield "lora/README.md", model_card(ledger).encode()
        for name, content in adapter.items():
            yield f"lora/{name}", content


def _edges(bands: Bands) -> dict[str, list[float | None]]:
    """Lower and upper edge of each band; null where it has none, which JSON cannot say."""
    return {
        name: [edge if math.isfinite(edge) else None for edge in band]
        for name, band in asdict(bands).items()
        if band is not None
    }


def _record(ledger: Ledger) -> dict[str, Any]:
    row = {name: value for name, value in ledger.row.items() if name != "spec"}
    return {**row, "head_sha256": theta_digest(ledger), "szpo": __version__}


def _panelists(found: Evidence, page: Overview) -> tuple[list[dict[str, Any]], list[str]]:
    rows = []
    for person, row in zip(found.panelists, page.panelists, strict=True):
        rows.append(
            {
                **asdict(person),
                "votes": row.votes,
                "median_s": row.median.value,
                "gold_right": row.gold.hits,
                "gold_asked": row.gold.of,
                "repeat_same": row.repeat.hits,
                "repeat_asked": row.repeat.of,
                "a_share": row.a_side.value,
                "a_low": row.a_side.low,
                "a_high": row.a_side.high,
                "tie_share": row.ties.value,
                "skip_share": row.skips.value,
                "rest_share": row.rest.value,
                "late": row.late,
                "flags": "; ".join(flag.text for flag in row.flags),
            }
        )
    names = ["name", "kind", "enrolled_us"]
    return rows, list(rows[0]) if rows else names


def _pairs(ledger: Ledger) -> Iterator[dict[str, Any]]:
    for row in ledger.query(
        "SELECT c.comparison, c.kind, c.step, c.k, c.n, c.expected, c.repeats, a.i, a.prompt, "
        "a.plus, a.minus, a.plus_end, a.minus_end FROM comparisons c "
        "JOIN answers a USING (comparison) ORDER BY c.step, c.kind, c.k, c.n, c.comparison, a.i"
    ):
        yield {**row, "prompt": json.loads(row["prompt"]), "root_seed": ledger.root_seed}


def _preferences(ledger: Ledger, found: Evidence) -> Iterator[dict[str, Any]]:
    """A panelist's own notes on single prompts; a verdict on a batch is none."""
    for ballot in found.ballots:
        if not ballot.counted or not ballot.notes:
            continue
        comparison = ledger.comparison(ballot.comparison)
        rows = comparison.rows if comparison is not None else ()
        for place, note in sorted(ballot.notes.items()):
            if note == "tie" or not place.isdigit() or int(place) >= len(rows):
                continue
            row = rows[int(place)]
            better = note == ballot.plus_side
            chosen, rejected = (row.plus, row.minus) if better else (row.minus, row.plus)
            yield {
                "prompt": [list(turn) for turn in row.prompt.turns],
                "chosen": chosen.text,
                "rejected": rejected.text,
                "panelist": ballot.panelist,
                "comparison": ballot.comparison,
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
    for event in ledger.events():
        del event["run"]
        yield event


def _theta(ledger: Ledger) -> bytes:
    from safetensors.numpy import save

    theta = {name: values.copy() for name, values in replay.fold(ledger).items()}
    content: bytes = save(theta, metadata={"theta_sha256": theta_digest(ledger)})
    return content


def _readme(found: Evidence, live: bool, adapter: bool) -> str:
    lora = (
        "lora/                    the tuned adapter in PEFT's format, as szpo export RUN writes it"
        if adapter
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
train on the rows of pairs.jsonl as if it were. dpo.jsonl has only what panelists said of single
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


def table(rows: Iterable[Mapping[str, Any]], names: list[str]) -> bytes:
    """Rows as CSV in UTF-8; lists and objects as JSON, nothing as an empty cell."""
    text = io.StringIO(newline="")
    spreadsheets.write(text, names, ({name: _cell(row[name]) for name in names} for row in rows))
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple | Mapping):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return int(value) if isinstance(value, bool) else value


def _typed(row: type, content: bytes) -> Iterator[dict[str, Any]]:
    """CSV lines with the types of a dataclass's fields; other columns are left out."""
    hints = get_type_hints(row)
    for line in csv.DictReader(io.StringIO(content.decode(), newline="")):
        # An export of an older szpo lacks the columns that came later.
        yield {name: _value(line[name], str(h)) for name, h in hints.items() if name in line}


def _value(cell: str, hint: str) -> Any:
    if "tuple" in hint:
        return tuple(json.loads(cell))
    if cell == "" and "None" in hint:
        return None
    if "float" in hint:
        return float(cell)
    if "int" in hint:
        return int(cell)
    return spreadsheets.unguard(cell)


def _json(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True)
    return (text + "\n").encode("utf-8", "replace")


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(
        "utf-8", "replace"
    )


def _add(packed: zipfile.ZipFile, name: str, content: bytes) -> None:
    """One file, with a fixed time and mode, so that equal contents are equal bytes."""
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system, entry.external_attr = 3, 0o600 << 16
    packed.writestr(entry, content)


# ---- checks ----


def _checked(packed: zipfile.ZipFile, limit: int) -> dict[str, bytes]:
    """The contents of `NUMBERS`, after every file has proved to be what SHA256SUMS says."""
    sizes = _sizes(packed, limit)
    sums = _sums(packed)
    for name in sizes:
        if name not in sums and name != SUMS:
            raise IntegrityError(f"{name!r} in this export has no line in its {SUMS}")
    for name in sums:
        if name not in sizes:
            raise IntegrityError(f"{name!r} in {SUMS} is not in this export")
    for name in ALWAYS:
        if name not in sizes:
            raise IntegrityError(f"this export lacks {name}, which every export holds")
    kept: dict[str, bytes] = {}
    for name, digest in sums.items():
        found, parts = hashlib.sha256(), []
        for part in _parts(packed, name, sizes[name]):
            found.update(part)
            if name in NUMBERS:
                parts.append(part)
        if found.hexdigest() != digest:
            raise IntegrityError(f"{name!r} in this export is not what its {SUMS} says")
        if name in NUMBERS:
            kept[name] = b"".join(parts)
    return kept


def _sizes(packed: zipfile.ZipFile, limit: int) -> dict[str, int]:
    """Bytes of each file as the zip declares them, before anything is unpacked."""
    sizes: dict[str, int] = {}
    for entry in packed.infolist():
        if entry.filename in sizes:
            raise IntegrityError(f"this export holds {entry.filename!r} twice")
        if entry.flag_bits & 1:
            raise StorageError(f"not an export of szpo ({entry.filename!r} is encrypted)")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise StorageError(
                f"not an export of szpo ({entry.filename!r} is packed in another way)"
            )
        sizes[entry.filename] = entry.file_size
    held, whole = sum(sizes.get(name, 0) for name in NUMBERS), sum(sizes.values())
    for size, most, what in (
        (held, limit, "the files that the numbers rest on"),
        (whole, REST * limit, "all its files"),
        (sizes.get(SUMS, 0), SUMS_LIMIT, f"its {SUMS}"),
    ):
        if size > most:
            more = "" if what.endswith(SUMS) else "; where you trust it, give a larger limit="
            raise ResourceError(
                f"this export unpacks to {size:,} bytes ({what}); at most {most:,} are read{more}"
            )
    return sizes


def _sums(packed: zipfile.ZipFile) -> dict[str, str]:
    """Digest by name."""
    if SUMS not in packed.NameToInfo:
        raise StorageError(f"not an export of szpo (there is no {SUMS})")
    text = b"".join(_parts(packed, SUMS, packed.getinfo(SUMS).file_size)).decode()
    sums: dict[str, str] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        found = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        if found is None:
            raise IntegrityError(f"line {number} of this export's {SUMS} is no hash and name")
        digest, name = found.groups()
        if name in sums:
            raise IntegrityError(f"{SUMS} of this export names {name!r} twice")
        sums[name] = digest
    return sums


def _parts(packed: zipfile.ZipFile, name: str, size: int) -> Iterator[bytes]:
    """A file piece by piece, never more than the zip declares."""
    with packed.open(name) as file:
        left = size
        while part := file.read(min(CHUNK, left + 1)):
            left -= len(part)
            if left < 0:
                raise IntegrityError(f"{name!r} unpacks to more than this export says")
            yield part
