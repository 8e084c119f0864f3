"""``make columns``: the tests that load a model, as on other processors; a row for each column.

    python tests/support/columns.py [--tier quick|full] [COLUMN ...]

A column is a choice of threads, of the instructions that torch's and oneDNN's kernels use, and of
what the dtype `auto` is here (`SZPO_TEST_DTYPE`, conftest.py; bf16 only where the processor has
it, and only in the tests' own process). Every pair of values is in some column: nine, since two
variables have three values each. It ends with 1 if a test fails.
"""

import argparse
import ast
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
ATEN = ("default", "avx2", None)
ONEDNN = ("SSE41", "AVX2", None)
THREADS = ("1", "2", "1")
DTYPES = ("fp32", "bf16", "fp32")
COLUMNS: tuple[Mapping[str, str | None], ...] = tuple(
    {
        "OMP_NUM_THREADS": THREADS[(i + j) % 3],
        "ATEN_CPU_CAPABILITY": ATEN[i],
        "ONEDNN_MAX_CPU_ISA": ONEDNN[j],
        "SZPO_TEST_DTYPE": DTYPES[(i + 2 * j) % 3],
    }
    for i in range(3)
    for j in range(3)
)
"""An orthogonal array of nine rows, of which two of four columns are folded to two values."""
MODELS = ("torch", "transformers", "smollm2", "tiny", "demo", "named_models")
"""A file whose code or whose support names one of these loads a model, or may."""
HEADS = ("threads", "ATen", "oneDNN", "auto")
LINE = "{:>6}  {:7}  {:7}  {:6}  {:4}  {:>5}  {:>7}  {:>6}  {:>5}"


@cache
def names_model(file: Path) -> bool:
    """Whether a file's imports or short texts, or its support's, have one of `MODELS`."""
    words: set[str] = set()
    support: list[Path] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                words |= {part for each in names for part in each.name.split(".")}
            case ast.ImportFrom(module=str(module), names=names):
                words |= {*module.split("."), *(each.name for each in names)}
                if module.startswith("tests.support"):
                    places = [module, *(f"{module}.{each.name}" for each in names)]
                    support += [ROOT / f"{place.replace('.', '/')}.py" for place in places]
            case ast.Constant(value=str(text)) if "\n" not in text:
                words |= set(text.replace("=", " ").split())
            case _:
                pass
    return not words.isdisjoint(MODELS) or any(
        names_model(each) for each in support if each.is_file() and each != file
    )


def run(column: int, tier: str, files: list[str]) -> tuple[dict[str, int], list[str], float]:
    """Numbers of tests, failures and skipped ones, the names of failures, and seconds."""
    chosen = COLUMNS[column - 1]
    env = {name: value for name, value in os.environ.items() if name not in chosen}
    env |= {name: value for name, value in chosen.items() if value is not None}
    env["OMP_WAIT_POLICY"] = "PASSIVE"  # two threads that spin take a busy machine's time
    workers = max(1, (os.cpu_count() or 1) // int(env["OMP_NUM_THREADS"]))
    words = ["-q", "-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder"]
    words += ["-p", "no:cacheprovider", "-m", tier if tier == "quick" else "full and not slow"]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "found.xml")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words, f"--junitxml={file}", *files],
            cwd=ROOT, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if not file.is_file():
            raise SystemExit(f"column {column}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        (suite,) = ElementTree.parse(file).getroot()
    counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    failed = [
        f"{case.attrib['classname']}::{case.attrib['name']}"
        for case in suite
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return counts, failed, time.monotonic() - begun


def main() -> int:
    """Run the columns that were asked for, or all."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    asked.add_argument("columns", nargs="*", type=int, help=f"1 to {len(COLUMNS)}")
    asked.add_argument("--tier", choices=("quick", "full"), default="quick")
    given = asked.parse_args()
    chosen = given.columns or list(range(1, len(COLUMNS) + 1))
    if wrong := [each for each in chosen if not 1 <= each <= len(COLUMNS)]:
        asked.error(f"column {wrong[0]}: there are columns 1 to {len(COLUMNS)}")
    files = [
        str(file.relative_to(ROOT))
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        if names_model(file)
    ]
    print(LINE.format("column", *HEADS, "tests", "skipped", "failed", "s"))
    red = 0
    for column in chosen:
        counts, failed, seconds = run(column, given.tier, files)
        values = [value or "unset" for value in COLUMNS[column - 1].values()]
        numbers = counts["tests"], counts["skipped"], len(failed), f"{seconds:.0f}"
        print(LINE.format(column, *values, *numbers))
        print(*(f"    {name}\n" for name in failed), sep="", end="", flush=True)
        red += len(failed)
    return bool(red)


if __name__ == "__main__":
    sys.exit(main())
