"""The oldest supported NumPy and SciPy give the same directions, votes and weights as today's."""

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import numpy as np
import pytest

from tests.support import witness

ROOT = Path(__file__).parents[2]
FIRST = {"numpy": "2.1.0", "scipy": "1.14.1"}
"""The first ones that are built for Python 3.13."""


def oldest():
    """The lowest versions that pyproject.toml allows, as pip's requirements."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    allowed = tomllib.loads(text)["project"]["dependencies"]
    found = dict(re.findall(r"^([\w-]+)>=([\d.]+)", "\n".join(allowed), re.MULTILINE))
    if sys.version_info >= (3, 13):
        found |= FIRST
    return {name: found[name] for name in witness.NEEDED}


def same(version, wanted):
    """2.0 is 2.0.0."""
    strip = re.compile(r"(\.0)*$")
    return strip.sub("", version) == strip.sub("", wanted)


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An interpreter that has nothing but those."""
    folder = tmp_path_factory.mktemp("oldest") / "venv"
    venv.create(folder, with_pip=True)
    made = folder / "bin" / "python"
    wanted = [f"{name}=={version}" for name, version in oldest().items()]
    command = [made, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return made


def told(python, what, folder, threads=1):
    """What the witness says under an interpreter."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL")}
    command = [python, ROOT / "tests" / "support" / "witness.py", what, folder]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_oldest_libraries_give_the_same_digests(python, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    today = json.loads(json.dumps(witness.record(here)))
    old = told(python, "record", there)
    for name, version in oldest().items():
        assert same(old["versions"][name], version)
    assert not same(old["versions"]["numpy"], np.__version__), "nothing is compared"
    for name in witness.EXACT:  # votes, updates and weights
        assert old["runs"][name] == today[name], name
    for name in witness.CLOSE:
        # One rounding may differ and then all votes: the first step's do not.
        assert old["runs"][name][0][1] == today[name][0][1], name
    # Each folds the other's record to the recorded bits, and finds its updates again.
    for threads in (1, 2, 8):
        assert told(python, "read", here, threads)["runs"] == today
    assert json.loads(json.dumps(witness.read(there))) == old["runs"]


@pytest.mark.slow
def test_the_oldest_libraries_verify_the_stored_ledgers(python, tmp_path):
    for path in (ROOT / "tests" / "ledgers").glob("*.db"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
        expected = json.loads(path.with_suffix(".json").read_text())["history"]
        assert told(python, "read", tmp_path)["runs"][path.stem] == expected
