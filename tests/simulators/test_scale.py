"""`szpo bench scale` and the cost model: bytes as they cross, seconds as the queue takes them."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.errors import UsageError
from szpo_simulators.bench.scale import command, cost_model, stand_in, traffic
from szpo_simulators.bench.scale.cost_model import Fleet, StepShape
from szpo_simulators.bench.scale.stand_in import Flaws

HAS_RAY = importlib.util.find_spec("ray") is not None
NONE = Flaws(spread=0.0, slow_share=0.0, deaths_per_hour=1e-9)
SHAPE = StepShape(rows=128, chunk_rows=32, prompt_tokens=40, new_tokens=24, dim=8)
FLEET = Fleet(workers=2, tokens_per_second=384, bytes_per_second=1e12)


# ---- bytes ----


def test_bytes_of_real_messages_are_what_the_model_says() -> None:
    """a, b and c of the tiny model's messages are the formula's; tokens and θ take four bytes."""
    spec = {"model": "tiny", "dtype": "fp32", "rows": 32, "chunk_rows": 8, "part": "bytes"}
    asked = [(4, 4), (8, 64), (12, 4), (12, 16)]
    rows = [
        {**spec, "dim": d, **traffic.measure({**spec, "new_tokens": n, "dim": d})}
        for n, d in asked
    ]
    for row in rows:
        assert row["sent"] + row["received"] == pytest.approx(row["modelled"], rel=0.05)
    fit = traffic.fit(rows)
    chunks = 32 / 8
    assert fit["b"] == pytest.approx(cost_model.TOKEN_BYTES, rel=0.02)
    assert fit["c"] == pytest.approx(chunks * cost_model.COORDINATE_BYTES, rel=0.02)
    a = chunks * cost_model.CHUNK_BYTES + 32 * cost_model.ROW_BYTES
    assert fit["a"] == pytest.approx(a, rel=0.1)
    assert fit["residual"] < 10


@given(st.integers(1, 64), st.integers(1, 512), st.integers(1, 4096))
def test_bytes_do_not_know_the_models_size_and_grow_by_tokens_and_coordinates(
    chunks: int, new_tokens: int, dim: int
) -> None:
    shape = StepShape(chunks * 16, 16, 30.0, new_tokens, dim)
    more = cost_model.step_bytes(replace(shape, dim=dim + 1)) - cost_model.step_bytes(shape)
    assert more == 4 * chunks
    longer = replace(shape, new_tokens=new_tokens + 1)
    assert cost_model.step_bytes(longer) - cost_model.step_bytes(shape) == 4 * shape.rows


# ---- seconds ----


def test_a_fleet_without_flaws_takes_what_the_formula_says() -> None:
    """Two rounds of 32 · 24 tokens at 384 a second are 4 s; four chunks cost 3 ms each."""
    assert cost_model.step_seconds(SHAPE, FLEET) == pytest.approx(4.012, abs=1e-6)
    found = stand_in.simulate(SHAPE, FLEET, NONE)
    assert found["seconds"] == pytest.approx(4.012, rel=0.005)
    assert found["asked_again"] == found["deaths"] == 0


def test_one_slow_worker_of_sixteen_costs_less_than_a_third_more() -> None:
    shape, fleet = replace(SHAPE, rows=64 * 32), replace(FLEET, workers=16, chunk_s=0.0)
    found = stand_in.simulate(shape, fleet, replace(NONE, slow_share=1 / 16), steps=1)
    assert 1.0 < found["seconds"] / found["ideal"] <= 1.3
    assert found["asked_again"] == 1


def test_workers_that_die_are_waited_for_and_the_same_key_gives_the_same_figures() -> None:
    shape, fleet = replace(SHAPE, rows=64 * 32), replace(FLEET, workers=4)
    flaws = Flaws(deaths_per_hour=200, back_s=30)
    one, other = (stand_in.simulate(shape, fleet, flaws, steps=3) for _ in range(2))
    assert one["deaths"] > 5
    assert one["seconds"] > stand_in.simulate(shape, fleet, NONE, steps=3)["seconds"]
    del one["queue_s"], other["queue_s"]  # real time, of this machine
    assert one == other


# ---- the command ----


def test_a_plan_says_that_it_was_simulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = command.main(parts=("plan",), workers=100, price=3.6, folder=tmp_path)
    assert "SIMULATED, not run: a 70B model" in capsys.readouterr().out.replace("\n", " ")
    for row in found["plan"]["rows"]:
        assert row["price"] == pytest.approx(row["seconds"] * row["workers"] * 3.6 / 3600)
    assert found["plan"]["setup_bytes"] == 4 * 5 * (28672 + 8192 * 9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parts": ("speed",)}, "--parts speed: give throughput, step, bytes, plan"),
        ({"rows": 24}, "--rows is a multiple of 16"),
        ({"pairs": 1}, "--pairs and --steps at least 2"),
        ({"workers": 0}, "--workers, --tokens-per-second"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        command.main(**options)  # type: ignore[arg-type]


@pytest.mark.skipif(not HAS_RAY, reason="ray is not installed: szpo[ray]")
@pytest.mark.filterwarnings("ignore")  # Ray's own, at import and at exit
@pytest.mark.slow
def test_the_bench_measures_bare_processes_workers_and_steps(tmp_path: Path) -> None:
    found = command.main(quick=True, parts=("throughput", "step"), folder=tmp_path)
    rows = found["throughput"]["rows"]
    assert len(rows) == 2 and all(row[name] > 0 for row in rows for name in ("one", "two", "ray"))
    for row in found["step"]["rows"]:
        assert 0 < row["worker"] < row["seconds"]  # its own work is part of the step
    again = command.main(quick=True, parts=("throughput", "step"), folder=tmp_path)
    assert again["throughput"]["rows"] == rows  # finished cells are read back
