"""`szpo bench readers` on planted states: what it foretells, what chance does, what it refuses."""

import gzip
import json

import numpy as np
import pytest

from szpo.errors import UsageError
from szpo.optim.sparse_prior import SparsePrior
from szpo_simulators import readers
from szpo_simulators.readers import NOTHING, Read, without_information


def planted(rows: int = 120, dims: int = 12) -> Read:
    """Verdicts follow the first dimension of the states; named features are noise."""
    rng = np.random.default_rng(4)
    states = rng.normal(size=(rows, dims)) / np.sqrt(dims)
    said = np.where(states[:, 0] > 0, 1, -1)
    return Read(
        rng.normal(size=(rows, 5)), SparsePrior(np.arange(5), np.ones(5)), states,
        rng.normal(size=(rows, 1)), {"planted": said},
    )  # fmt: skip


def test_a_taste_of_states_is_foretold_by_states_and_not_by_names():
    spec = {"taste": "planted", "draws": 4, "counts": [20, 60]}
    rows = {row["regressors"]: row for row in readers.foretell(planted(), spec)["rows"]}
    right, nats, *past = rows["joint"]["60"]
    assert right > 0.8 and nats > 0.3 and past[-1] == 1.0
    assert rows["joint"]["60"][0] == pytest.approx(rows["states"]["60"][0], abs=0.02)
    for fit in ("named", "number of words"):
        assert abs(rows[fit]["60"][0] - 0.5) < 0.1 and rows[fit]["60"][-1] == 0.0
    assert readers.foretell(planted(), spec)["rows"][3] == rows["joint"]  # the same draws again


@pytest.mark.full
def test_chance_is_seldom_taken_for_a_taste():
    for kind in ("coins", "all A"):
        found = readers.count_chance(planted(dims=60), {"kind": kind, "runs": 40})
        assert found["5 : 1"] <= 0.05


def test_verdicts_without_information_do_not_depend_on_the_texts():
    distance = np.linspace(0, 1, 40)
    for kind in NOTHING:
        one, two = (
            without_information(kind, each, np.random.default_rng(1))
            for each in (distance, distance[::-1])
        )
        if kind == "same by likeness":  # only whether they differ, not which is better
            assert ((one == 0) == (distance < np.median(distance))).all()
            assert (two == 0).sum() == 20
        else:
            np.testing.assert_array_equal(one, two)
            assert {*one.tolist()} <= {-1, 1}
    assert (without_information("all B", distance, np.random.default_rng(1)) == -1).all()


def test_a_file_is_read_packed_or_plain_and_a_wrong_line_is_named(tmp_path):
    line = {"prompt": "p", "a": "x", "b": "y", "verdicts": {"warm": "a", "dry": "same"}}
    text = (json.dumps(line) + "\n") * 2
    (tmp_path / "plain.jsonl").write_text(text)
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    found = [readers.read_file(each) for each in sorted(tmp_path.iterdir())]
    assert found[0] == found[1] and found[0][1]["verdicts"] == {"warm": 1, "dry": 0}
    for wrong in ("{}", "not JSON", json.dumps({**line, "verdicts": {"warm": "c"}})):
        (tmp_path / "wrong.jsonl").write_text(text + wrong)
        with pytest.raises(UsageError, match=r"wrong.jsonl:3: no pair; a line has prompt, a, b"):
            readers.read_file(tmp_path / "wrong.jsonl")
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(UsageError, match="has no pairs"):
        readers.read_file(tmp_path / "none.jsonl")
