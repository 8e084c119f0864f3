"""Break one promise at a time in a copy of the tree, and see which tests notice.

    python tests/breaks/run.py --check                  # every break applies exactly once
    python tests/breaks/run.py --only szpo/ledger 12    # those of one folder, and number 12
    python tests/breaks/run.py -- -x tests/ledger       # all breaks, against the given tests

Without pytest arguments each break meets the files that list.toml names, first their tests of
the first gate, until one catches it. The table has, for each break: its number, whether it was
caught, how many tests failed, seconds, the file, pytest's arguments, and the first that failed.
A run that ended without a report says "?" and why: it is no evidence either way.
caught.tsv beside it is the table of the last run of each break; ``--out`` keeps such a table.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"szpo": "", "szpo_ui": "ui", "szpo_simulators": "simulators"}
LIBRARIES = ("pytest", "hypothesis", "numpy", "scipy.stats", "pydantic", "torch", "transformers",
             "peft", "fastapi", "gradio")  # fmt: skip
"""Imported once: each run is a fork, which would else spend most of its time on them."""


HEAD = "break\ttier\tfailed\tseconds\tfirst"


def read(only: list[str]) -> list[dict[str, Any]]:
    """The breaks whose number or beginning of the file's path is asked for; without any, all."""
    every = tomllib.loads(Path(__file__).with_name("list.toml").read_text("utf-8"))["break"]
    return [
        b for b in every
        if not only or str(b["id"]) in only or any(b["file"].startswith(word) for word in only)
    ]  # fmt: skip


def faults(breaks: list[dict[str, Any]]) -> list[str]:
    """What is wrong with the list itself, a line each."""
    found, numbers = [], [b["id"] for b in breaks]
    for b in breaks:
        file, place = ROOT / b["file"], f"break {b['id']} of {b['file']}"
        count = file.read_text("utf-8").count(b["old"]) if file.is_file() else 0
        if count != 1 or b["old"] == b["new"]:
            found.append(f"{place}: what it changes is there {count} times, or stays the same")
        if numbers.count(b["id"]) > 1:
            found.append(f"{place}: its number is used twice")
        found += [
            f"{place}: there is no {test}" for test in b["tests"] if not (ROOT / test).exists()
        ]
    return found


def named(tests: list[str], tiers: list[str]) -> list[list[str]]:
    """Pytest's arguments, run after run: the files' tests of the first gate, then the others."""
    return [["-m", tier, test] for tier in tiers for test in tests]


def run_in_child(copy: Path, arguments: list[str], limit: float) -> int:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(copy)
    log = os.open(copy / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    paths = [str(copy / part) for part in PACKAGES.values()]
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode, sys.path[:0] = True, paths
    for name in PACKAGES:
        if not str(importlib.import_module(name).__file__).startswith(str(copy)):
            return 99
    own = ["-q", "--tb=no", "-p", "no:cacheprovider", "--maxfail=10",
           "-W", "ignore::pytest.PytestAssertRewriteWarning"]  # fmt: skip
    return int(sys.modules["pytest"].main([*own, f"--timeout={limit / 3}", *arguments]))


def run_pytest(copy: Path, arguments: list[str], limit: float) -> tuple[str, int]:
    """The first test that failed in the copy, or why there is no report, and how many failed."""
    report = copy / "report.xml"
    report.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        try:
            os._exit(run_in_child(copy, [f"--junit-xml={report}", *arguments], limit))
        except BaseException:  # else the child would clean up after its parent
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(98)
    end, ended = time.monotonic() + limit, (0, 0)
    try:
        while not ended[0] and time.monotonic() < end:
            time.sleep(0.02)
            ended = os.waitpid(child, os.WNOHANG)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # its own group: servers and browsers end with it
    if not ended[0]:
        os.waitpid(child, 0)
        return "took too long", 0
    if os.waitstatus_to_exitcode(ended[1]) == 99:
        raise SystemExit("the packages of another tree were imported")
    if not report.is_file() or os.waitstatus_to_exitcode(ended[1]) not in (0, 1, 2, 5):
        return f"no report: {(copy / 'log.txt').read_text('utf-8', 'replace')[-500:]!r}", 0
    cases = ElementTree.parse(report).iter("testcase")
    names = [
        case.get("name", "") for case in cases if {e.tag for e in case} & {"failure", "error"}
    ]
    return names[0] if names else "", len(names)


def keep(table: Path, row: tuple[Any, ...]) -> None:
    """Put a row into the table of what caught each break, in place of the break's last one."""
    text = table.read_text("utf-8") if table.is_file() else ""
    rows = {line.split("\t")[0]: line for line in text.splitlines()[1:]}
    rows[str(row[0])] = "\t".join(map(str, row))
    ordered = sorted(rows, key=int)
    table.write_text("\n".join([HEAD, *(rows[number] for number in ordered), ""]), "utf-8")


def main() -> int:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("--check", action="store_true", help="only see that every break applies")
    words.add_argument("--only", nargs="+", default=[], help="numbers, or beginnings of paths")
    words.add_argument("--limit", type=float, default=300.0, help="seconds for one run of pytest")
    words.add_argument("--out", type=Path, help="a table like caught.tsv to bring up to date")
    words.add_argument("--tier", nargs="+", default=["quick", "full"], help="markers, in order")
    words.add_argument("pytest", nargs="*", help="its arguments, in place of the named files")
    given = words.parse_args()
    breaks, missed = read(given.only), []
    if wrong := faults(breaks):
        print("\n".join(wrong), file=sys.stderr)
        return 1
    if given.check:
        print(f"{len(breaks)} breaks apply")
        return 0
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and leave nothing behind
    with tempfile.TemporaryDirectory(prefix="szpo-breaks-") as folder:
        copy = Path(folder, "tree")
        leave = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=leave, symlinks=True)
        for b in breaks:
            file, began, failed, how = copy / b["file"], time.monotonic(), 0, ""
            whole = file.read_text("utf-8")
            file.write_text(whole.replace(b["old"], b["new"]), "utf-8")
            for asked in [given.pytest] if given.pytest else named(b["tests"], given.tier):
                how, failed = run_pytest(copy, asked, given.limit)
                if how:
                    break
            file.write_text(whole, "utf-8")
            caught = "yes" if failed else "?" if how else "no"
            row = (b["id"], caught, failed, f"{time.monotonic() - began:.1f}",
                   b["file"], " ".join(asked), how)  # fmt: skip
            line = "\t".join(map(str, row))
            print(line, flush=True)
            if given.out is not None and failed:
                keep(given.out, (b["id"], asked[1] if not given.pytest else "", *row[2:4], how))
            if not failed:
                missed.append(f"not caught: {b['id']}, {b['file']}: {b['promise']}")
    print(*missed, f"{len(breaks) - len(missed)} of {len(breaks)} were caught", sep="\n")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
