"""`szpo bench memory`: ratios to plain generation, fresh processes, wrong words refused."""

import csv
import json

import pytest

from szpo.errors import RunError, UsageError
from szpo_simulators.bench import memory

MIB = 2**20


def row(task, before, peak, dtype="fp32"):
    return {"task": task, "dtype": dtype, "before": before * MIB, "peak": peak * MIB}


def test_ratios_are_to_plain_generation_of_the_same_dtype():
    """Above the loaded model SZPO adds 150 where generation adds 100: 1.5; in all 650/600."""
    found = memory.ratios(
        [row("generation", 500, 600), row("szpo", 500, 650), row("dpo", 500, 900, "bf16")]
    )
    assert [each["ratio"] for each in found] == [1.0, pytest.approx(650 / 600), None]
    assert [each["added_ratio"] for each in found] == [1.0, pytest.approx(1.5), None]
    assert [each["added"] for each in found] == [100 * MIB, 150 * MIB, 400 * MIB]


def test_the_command_keeps_cells_and_tells_both_ratios(tmp_path, monkeypatch, capsys):
    asked = []

    def fresh(one):
        asked.append((one["dtype"], one["task"]))
        return {"before": 500 * MIB, "peak": (600 + 100 * (one["task"] == "ppo")) * MIB}

    monkeypatch.setattr(memory, "fresh", fresh)
    monkeypatch.setenv("COLUMNS", "160")
    for _ in range(2):  # the second time everything is there already
        found = memory.main(
            model="tiny", answers=16, tasks=("generation", "ppo"), dtypes=("bf16",),
            folder=tmp_path,
        )  # fmt: skip
    assert asked == [("bf16", "generation"), ("bf16", "ppo")]
    assert [each["added_ratio"] for each in found["rows"]] == [1.0, 2.0]
    assert "1.17" in capsys.readouterr().out
    with (tmp_path / "memory.csv").open(encoding="utf-8") as file:
        assert [line["task"] for line in csv.DictReader(file)] == ["generation", "ppo"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"answers": 20}, "--answers 20: give a multiple of 16"),
        ({"tasks": ("sleep",)}, "--tasks sleep: give generation, szpo"),
        ({"dtypes": ("fp8",)}, "--dtypes fp8: give fp32, bf16, 4-bit"),
    ],
)
def test_wrong_words_are_refused(tmp_path, more, told):
    with pytest.raises(UsageError, match=told):
        memory.main(folder=tmp_path, **more)


@pytest.mark.slow
def test_a_process_that_fails_is_told_in_a_line():
    with pytest.raises(RunError, match=r"bench memory: ppo, fp32: .*no/such/model"):
        memory.fresh({"model": "no/such/model", "answers": 16, "dtype": "fp32", "task": "ppo"})


@pytest.mark.slow
def test_generation_and_a_step_of_ppo_in_fresh_processes():
    asked = {"model": "tiny", "answers": 16, "dtype": "fp32"}
    found = {task: memory.fresh({**asked, "task": task}) for task in ("generation", "ppo", "szpo")}
    for each in found.values():
        assert each["peak"] >= each["before"] > 50 * MIB
    assert json.loads(json.dumps(found)) == found
