"""`szpo bench vpl`: what is asked, and tables that say what the cells found."""

from __future__ import annotations

import csv
from typing import Any

import pytest

from szpo_simulators.bench.voters import vpl
from szpo_simulators.vpl import model


@pytest.mark.full
def test_the_latents_bench_asks_every_model_on_every_set(tmp_path, monkeypatch, capsys):
    asked = []

    def work(one: dict[str, Any]) -> dict[str, Any]:
        asked.append(one)
        right = 0.98 if one["model"] == "vae" and one["beta"] < 1 else 0.5
        found = {"all": (1 + right) / 2, "controversial": right + (one["seed"] - 1002) / 1000}
        if one["model"] == "vae":
            found |= {"active": 8 * (right > 0.6), "units": 8, "kl": 5.0, "collapsed": right < 0.6}
            found |= {f"context_{size}": right for size in vpl.CONTEXTS}
        return found

    monkeypatch.setattr(vpl, "work", work)
    vpl.main(folder=tmp_path, figures=tmp_path / "docs")
    # five seeds of four models on three sets, and five that collapse
    assert len(asked) == 65 and {one["seed"] for one in asked} == set(range(1000, 1005))
    with (tmp_path / "vpl.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 65
    assert (tmp_path / "docs" / "vpl.svg").exists()
    asked.clear()
    monkeypatch.setattr(vpl, "SIZES", {"two-users": (10, 1)})
    vpl.main(quick=True, folder=tmp_path / "quick")
    assert [(one["model"], one["seed"]) for one in asked] == [
        *((kind, 1000) for kind in model.KINDS), ("vae", 1000)
    ]  # fmt: skip
    out = capsys.readouterr().out
    assert "controversial" in out and "collapsed" in out
