"""The frame of the benches: stored cells, settings chosen on other seeds, figures that repeat."""

import csv
import json

import pytest

from szpo.errors import RunError
from szpo_simulators.study import (
    REPORTED,
    Search,
    Study,
    choose,
    draw_curve,
    format_interval,
    interval,
    seed_range,
)


class Work:
    """A bench's work that counts its calls; the best setting is 3."""

    def __init__(self):
        self.asked = []

    def __call__(self, asked):
        self.asked.append(dict(asked))
        return {"values": [seed - (asked["alpha"] - 3) ** 2 for seed in asked["seeds"]]}


@pytest.fixture
def study(tmp_path):
    return Study("links", tmp_path / "runs", figures=tmp_path / "docs")


def test_a_stopped_bench_goes_on_where_it_stood(study):
    work, asked = Work(), [{"alpha": a, "seeds": [1, 2]} for a in (1.0, 3.0)]

    def stopping(one):
        if one["alpha"] == 3.0:
            raise KeyboardInterrupt
        return work(one)

    with pytest.raises(KeyboardInterrupt):
        study.cells("first", asked, stopping)
    found = study.cells("first", asked, work)
    assert [one["alpha"] for one in work.asked] == [1.0, 3.0]
    assert found == [{**asked[0], "values": [-3.0, -2.0]}, {**asked[1], "values": [1.0, 2.0]}]
    assert study.cells("again", asked, work) == found and len(work.asked) == 2
    # Other seeds, another bench or another version of the arithmetic are other cells.
    study.cells("other seeds", [{"alpha": 1.0, "seeds": [1, 3]}], work)
    study.cells("newer", asked[:1], work, version=2)
    Study("rules", study.folder).cells("another bench", asked[:1], work)
    assert len(work.asked) == 5


def test_a_broken_cell_is_named(study):
    work = Work()
    study.cells("first", [{"alpha": 1.0, "seeds": [1]}], work)
    (file,) = (study.folder / "cells").iterdir()
    file.write_text(file.read_text()[:-9])
    with pytest.raises(RunError, match=rf"{file.name} cannot be read .*; delete it"):
        study.cells("again", [{"alpha": 1.0, "seeds": [1]}], work)


def test_settings_are_chosen_on_seeds_that_are_not_reported(study):
    work = Work()
    (row,) = study.tune("runs", [{"rule": "known"}], work, Search((1.0, 3.0, 10.0), trials=4),
                         repetitions=5)  # fmt: skip
    tried, final = work.asked[:-1], work.asked[-1]
    assert all(one["seeds"] == [0, 1, 2, 3] for one in tried)
    assert final == {"rule": "known", "alpha": 3.0, "seeds": seed_range(5)}
    assert not set(final["seeds"]) & {seed for one in tried for seed in one["seeds"]}
    assert row["mean"] == REPORTED + 2 and row["edge"] == ""
    assert row["tried"] == {"1": -2.5, "3": 1.5, "10": -47.5}


def test_a_choice_at_the_edge_of_its_grid_says_so():
    assert choose([1.0, 3.0, 10.0], [1.0, 2.0, 3.0]).edge == "highest"
    assert choose([1.0, 3.0, 10.0], [3.0, float("nan"), 2.0]).edge == "lowest"
    assert choose([1.0], [1.0]).edge == ""


def test_intervals_are_students():
    # Mean 2, standard deviation 1, t(.975, 2) = 4.3027: half a width is 4.3027/√3.
    row = interval([1.0, 2.0, 3.0])
    assert (row["low"], row["high"]) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)
    assert format_interval(row) == "2.00 ± 2.48"


@pytest.mark.full
def test_figures_are_the_same_bytes_every_time(study, tmp_path):
    rows = [interval([1.0, 2.0]), interval([2.0, 3.0])]
    times = []
    for _ in range(2):
        with study.figure("line") as axes:
            draw_curve(axes, [1, 2], rows, "known")
            axes.legend()
        drawn = {path.name: path.read_bytes() for path in sorted(study.folder.iterdir())}
        assert sorted(drawn) == ["line.png", "line.svg"]
        assert (tmp_path / "docs" / "line.svg").read_bytes() == drawn["line.svg"]
        times.append(drawn)
    assert times[0] == times[1]
    assert b"dc:date" not in times[0]["line.svg"]


def test_csv_has_a_row_each_and_no_lists(study):
    path = study.csv("part", [{"a": 1, "values": [1, 2]}, {"a": 2, "tried": {"1": 2.0}}])
    with path.open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert first == {"a": "1", "tried": ""} and json.loads(second["tried"]) == {"1": 2.0}
