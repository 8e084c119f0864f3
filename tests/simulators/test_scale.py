"""`szpo bench scale`: the ratio of Ray's workers to bare processes, by hand and run small."""

from __future__ import annotations

import importlib.util

import pytest

from szpo.errors import UsageError
from szpo_simulators.bench.scale import command
from szpo_simulators.bench.scale.command import Task
from szpo_simulators.study import Study

HAS_RAY = importlib.util.find_spec("ray") is not None


def test_the_ratio_is_taken_pair_by_pair(tmp_path, monkeypatch, capsys):
    rates = iter(
        [{"one": 10.0, "two": 20.0, "ray": 19.0}, {"one": 20.0, "two": 36.0, "ray": 36.0}]
    )
    monkeypatch.setattr(
        command._Turns, "measure", lambda self, spec: {**next(rates), "chunk_s": 0.005}
    )
    task = Task("tiny", "fp32", rows=32, new_tokens=24, chunk_rows=8)
    study = Study("scale", tmp_path)
    found = command.measure_ratio(study, task, 2)
    assert found["ratio"]["mean"] == pytest.approx((0.95 + 1.0) / 2)
    assert found["bare"]["mean"] == pytest.approx(1.9)
    assert found["by_ray"]["mean"] == pytest.approx(1.85)
    out = capsys.readouterr().out
    assert "reached (at least 0.95)" in out and "5.0 ms of processor time a chunk" in out
    assert command.measure_ratio(study, task, 2) == found  # finished cells are read back


@pytest.mark.parametrize("options", [{"rows": 24}, {"pairs": 1}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(UsageError, match="--rows is a multiple of 16, --pairs at least 2"):
        command.main(**options)  # type: ignore[arg-type]


@pytest.mark.skipif(not HAS_RAY, reason="ray is not installed (extra ray)")
@pytest.mark.filterwarnings("ignore")  # Ray's own, at import and at exit
@pytest.mark.slow
def test_the_bench_measures_bare_processes_and_workers(tmp_path):
    rows = command.main(quick=True, folder=tmp_path)["rows"]
    assert len(rows) == 2 and all(row[name] > 0 for row in rows for name in ("one", "two", "ray"))
    assert command.main(quick=True, folder=tmp_path)["rows"] == rows
