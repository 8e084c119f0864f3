"""``make columns``: what it varies, and which files it runs."""

import re
from itertools import combinations, product
from pathlib import Path

from tests.support import columns

ROOT = Path(__file__).parents[2]


def test_every_pair_of_values_is_in_a_column():
    for pair in combinations(columns.COLUMNS[0], 2):
        values = [{column[name] for column in columns.COLUMNS} for name in pair]
        assert {tuple(column[name] for name in pair) for column in columns.COLUMNS} == set(
            product(*values)
        ), pair


def test_continuous_integration_runs_a_column_other_than_its_own():
    for file in (".ci/run", ".github/workflows/ci.yml"):
        (number,) = re.findall(r"make columns COLUMN=(\d)", (ROOT / file).read_text("utf-8"))
        chosen = columns.COLUMNS[int(number) - 1]
        assert chosen["ATEN_CPU_CAPABILITY"] and chosen["ONEDNN_MAX_CPU_ISA"], file


def test_a_file_that_gets_its_model_from_support_is_run_and_one_without_model_is_not():
    tests = ROOT / "tests"
    assert "torch" not in (ROOT / "tests/policies/test_subspace_cache.py").read_text("utf-8")
    assert columns.names_model(tests / "policies" / "test_subspace_cache.py")
    assert not columns.names_model(tests / "optim" / "test_settings.py")
