"""``make release-check``: builds sdist and wheel, checks both, and installs each extra by itself.

A clean environment has the wheel and the base dependencies; these are linked from this one, so
that torch is not downloaded or copied again. Each extra is installed into its own environment on
top of that. Prints a table of sizes, quoted in CONTRIBUTING.md.

    python tests/support/release_check.py [EXTRA ...]

With names of extras, only these are installed.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterator, Sequence
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
TOOLS = ("dev", "test", "load", "mutants", "release", "docs")
"""Extras for the work on szpo itself."""
MIB = 2**20


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """A command's output; if it fails, its last lines are in the error."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, cwd=cwd, env=env
    )
    if done.returncode:
        said = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        sys.exit(f"{' '.join(map(str, command[:4]))} …\n{said}")
    return done.stdout


def closure(requirements: list[str]) -> set[str]:
    """Names of all distributions that these requirements need, directly or indirectly."""
    found: set[str] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        wanted, extra = waiting.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if (wanted.marker and not wanted.marker.evaluate({"extra": extra})) or name in found:
            continue
        found.add(name)
        for text in distribution(name).requires or []:
            waiting += [(Requirement(text), each) for each in (wanted.extras or {""})]
    return found


def share(names: set[str], folder: Path) -> None:
    """Link the files of installed distributions into a folder."""
    folder.mkdir()
    for name in sorted(names):
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or [] if file.parts[0] != ".."}:
            source, target = Path(str(found.locate_file(top))), folder / top
            if source.exists() and not target.exists() and top != "__pycache__":
                target.symlink_to(source)


def environment(folder: Path, shared: Path) -> Path:
    """Make an environment that sees the shared folder; returns its interpreter."""
    venv.create(folder, with_pip=False)
    binary = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    (site,) = folder.rglob("site-packages")
    (site / "shared.pth").write_text(f"{shared}\n", encoding="utf-8")
    return binary


def megabytes(folder: Path) -> float:
    """Size of a folder's files in MiB, without links."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files) / MIB


def pip(python: Path, *words: str | Path) -> None:
    """Install into an environment with this environment's pip."""
    here = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    run(*here, "install", "--quiet", *words)


def rows(place: Path, wheel: Path, extras: Sequence[str]) -> Iterator[str]:
    """The lines of the table: without an extra, then with each extra."""
    shared = place / "shared"
    share(closure(PROJECT["dependencies"]), shared)
    bare = environment(place / "bare", shared)
    before = megabytes(place / "bare")
    pip(bare, "--no-deps", wheel)
    size = megabytes(place / "bare") - before
    run(bare, "-m", "szpo", "--version", cwd=place)
    run(bare, "-m", "szpo", "run", "--preset", "tiny", "--plan", cwd=place)
    yield f"| none | szpo itself | {size:.1f} |"
    for extra in extras:
        folder = place / extra
        python = environment(folder, shared)
        before = megabytes(folder)
        pip(python, "-c", ROOT / "constraints.txt", f"szpo[{extra}] @ {wheel.as_uri()}")
        added = megabytes(folder) - before - size
        run(sys.executable, "-m", "pip", "--python", python, "check")
        run(python, "-m", "szpo", "--help", cwd=place)
        names = ", ".join(Requirement(text).name for text in EXTRAS[extra])
        yield f"| `{extra}` | {names} | {added:.1f} |"
        shutil.rmtree(folder)


def main() -> None:
    """Build, check and install; exit with 1 and the reason if something fails."""
    every = sorted(set(EXTRAS) - set(TOOLS))
    extras = sys.argv[1:] or every
    if unknown := set(extras) - set(every):
        sys.exit(f"no such extra: {', '.join(sorted(unknown))}; there are: {', '.join(every)}")
    out = ROOT / "dist"
    shutil.rmtree(out, ignore_errors=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, cwd=ROOT)
    files = sorted(out.iterdir())
    run(sys.executable, "-m", "twine", "check", "--strict", *files)
    for file in files:
        print(f"{file.name}: {file.stat().st_size / MIB:.1f} MiB")
    print("| extra | brings | MiB more |\n|---|---|---|")
    (wheel,) = out.glob("*.whl")
    with tempfile.TemporaryDirectory() as place:
        for line in rows(Path(place).resolve(), wheel, extras):
            print(line, flush=True)


if __name__ == "__main__":
    main()
