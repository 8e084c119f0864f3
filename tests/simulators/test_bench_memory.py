"""`szpo bench memory`: ratios to plain generation, fresh processes, wrong words refused."""

import csv
import importlib.util
import sys

import pytest

from szpo.baselines import dpo
from szpo.errors import RunError, UsageError
from szpo.policies import subspace_setup
from szpo.types import Answer
from szpo_simulators.bench.language import memory

MIB = 2**20


def row(task, before, peak, dtype="fp32"):
    return {"task": task, "dtype": dtype, "before": before * MIB, "peak": peak * MIB}


def test_ratios_are_to_plain_generation_of_the_same_dtype():
    """Above the loaded model SZPO adds 150 where generation adds 100: 1.5; in all 650/600."""
    found = memory.add_ratios(
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

    monkeypatch.setattr(memory, "measure_in_process", fresh)
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
    ("more", "message"),
    [
        ({"answers": 20}, "--answers 20: give a multiple of 16"),
        ({"tasks": ("sleep",)}, "--tasks sleep: give generation, szpo"),
        ({"dtypes": ("fp8",)}, "--dtypes fp8: give fp32, bf16, 4-bit"),
    ],
)
def test_wrong_words_are_refused(tmp_path, more, message):
    with pytest.raises(UsageError, match=message):
        memory.main(folder=tmp_path, **more)


@pytest.mark.slow
def test_a_process_that_fails_is_named_in_a_line():
    with pytest.raises(RunError, match=r"bench memory: ppo, fp32: .*no/such/model"):
        memory.measure_in_process(
            {"model": "no/such/model", "answers": 16, "dtype": "fp32", "task": "ppo"}
        )


@pytest.mark.slow
def test_ppo_and_its_reward_model_add_more_than_generation_in_fresh_processes():
    """A task that did nothing would add nothing. SZPO's own step needs a process of its own."""
    asked = {"model": "tiny", "answers": 256, "dtype": "fp32"}
    found = {task: memory.measure_in_process({**asked, "task": task})
             for task in ("generation", "ppo", "rm+ppo", "szpo")}  # fmt: skip
    added = {task: each["peak"] - each["before"] for task, each in found.items()}
    assert all(each["before"] > 50 * MIB for each in found.values())
    if not found["generation"]["exact"]:
        pytest.skip("this system cannot set back the high water of resident memory")
    assert added["generation"] > 10 * MIB and added["szpo"] > 10 * MIB
    assert min(added["ppo"], added["rm+ppo"]) > 1.5 * added["generation"]


@pytest.mark.parametrize(
    ("task", "calls"),
    [
        ("dpo", dpo.train),
        pytest.param("szpo set-up", subspace_setup.set_up_subspace, marks=pytest.mark.slow),
    ],
)
def test_the_tasks_do_what_they_are_named_for(task, calls, monkeypatch):
    """Here, not in a process of its own: what is done counts, the figures only exist."""
    done = []

    def watch(*some, **more):
        done.append(calls(*some, **more))
        return done[-1]

    monkeypatch.setattr(sys.modules[calls.__module__], calls.__name__, watch)
    found = memory.measure({"model": "tiny", "answers": 16, "dtype": "fp32", "task": task})
    assert len(done) == 1
    assert found["peak"] >= found["before"] > 50 * MIB
    if task == "dpo":
        assert (len(done[0].log), done[0].pairs) == (1, 8)


def test_the_reward_model_of_rank_8_scores_by_the_model():
    from tests.support.baseline_actors import PROMPTS
    from tests.support.tiny_models import loaded

    score = memory._reward_model(loaded("llama"))
    assert {site.rank for site in score.sites} == {8}
    first, second = score(PROMPTS[:2], [Answer("w7 w8"), Answer("w9")])
    assert first != second != 0


def test_a_missing_extra_is_named_with_its_advice(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    with pytest.raises(UsageError, match=r"dpo needs trl: pip install 'szpo\[baselines\]'"):
        memory.measure({"model": "tiny", "answers": 16, "dtype": "fp32", "task": "dpo"})


def test_nothing_to_compare_with_is_a_dash_and_each_row_names_its_measure(
    tmp_path, monkeypatch, capsys
):
    """Without /proc what was resident before is the high water: generation adds nothing."""
    monkeypatch.setattr(
        memory,
        "measure_in_process",
        lambda one: {"before": 600 * MIB, "peak": 600 * MIB, "exact": False},
    )
    monkeypatch.setenv("COLUMNS", "160")
    found = memory.main(
        model="tiny", answers=16, tasks=("generation", "ppo"), dtypes=("fp32",), folder=tmp_path
    )
    assert [each["added_ratio"] for each in found["rows"]] == [None, None]
    assert [each["ratio"] for each in found["rows"]] == [1.0, 1.0]
    assert capsys.readouterr().out.count("the whole process") == 2
