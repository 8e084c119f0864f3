"""The subspace benchmark: its estimate under the null, its stored parts, its table of gains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from szpo_simulators.bench.language import demo, kl, subspaces


def test_shares_of_noise_are_zero_on_average_and_under_the_null_level() -> None:
    """A plain r² would have mean 1/n = .0025 here."""
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        s, r = rng.normal(size=(400, 6)), rng.normal(size=400)
        groups = np.repeat(np.arange(40), 10)
        found.append(subspaces.estimate_share(s, r, groups, seed=seed, resamples=40))
    means = np.array([share.mean for share in found])
    assert abs(means.mean()) < 3 * means.std(ddof=1) / np.sqrt(len(means)) + 1e-4
    assert sum(share.mean > share.null for share in found) <= 3
    assert all(share.low <= share.mean <= share.high for share in found)


def test_differences_between_prompts_do_not_count() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(50), 40)
    level = rng.normal(size=50)[groups]
    s = rng.normal(size=(2000, 1)) + 3 * level[:, None]
    r = rng.normal(size=2000) + 5 * level
    assert abs(subspaces.estimate_share(s, r, groups, resamples=20).mean) < 0.01


@pytest.mark.slow
def test_parts_are_stored_and_not_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "model": "tiny", "answers": 256, "samples": 64, "dim": 4, "reward": ("sentiment",),
        "folder": tmp_path,
    }  # fmt: skip
    first = subspaces.main(**options)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("made again")

    monkeypatch.setattr(subspaces.subspace_setup, "set_up_subspace", never)
    monkeypatch.setattr(subspaces.scores, "score_vectors", never)
    monkeypatch.setattr(
        demo, "run_seed", lambda seed, *_, **__: {"gain": 0.1 * seed, "votes": 200, "kl": [5.0, 1]}
    )
    again = subspaces.main(**options, gains=True, seeds=(1, 2, 3))
    assert again["shares"] == first["shares"]
    assert [row["kind"] for row in first["shares"]] == list(subspaces.KINDS)
    assert all(row["dim"] == 4 for row in first["shares"] if row["kind"] != "full")
    assert [row["gain"] for row in again["gains"]] == pytest.approx([0.2] * 3)


@pytest.mark.slow
def test_the_kl_benchmark_keeps_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"model": "tiny", "directions": 64, "rows": 8, "folder": tmp_path}
    first = kl.main(**options)
    assert set(first["ratios"]) == {"0.5", "1.0", "2.0", "3.0"}

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("made again")

    monkeypatch.setattr(kl.loading, "load", never)
    assert kl.main(**options) == first
