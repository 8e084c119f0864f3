"""The commands of docs/own-run.md, one after the other."""

from __future__ import annotations

import pytest

from szpo.cli.app import call
from tests.support import yard_run


@pytest.mark.spine
def test_own_run_goes_through_from_the_written_settings(tmp_path, monkeypatch):
    """The block of docs/own-run.md, on the small world."""
    monkeypatch.chdir(tmp_path)
    sets = [*yard_run.SETS, f"prompts.path={yard_run.prompts(tmp_path)}", "run.votes=16"]
    assert call(["init", "run.toml", *(w for s in sets for w in ("--set", s))]) == 0
    assert call(["run", "run.toml", "--plan"]) == 0
    assert call(["run", "run.toml"]) == 0
    assert call(["verify"]) == 0
    assert call(["report"]) == 0
    assert list((tmp_path / "runs").glob("*.html"))
