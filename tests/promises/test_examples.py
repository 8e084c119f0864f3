"""The examples do what they say, and stay short."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from szpo.cli.app import call
from szpo.config import settings_file
from szpo.ledger.database import Ledger
from szpo.policies.protocol import check_policy
from szpo.runs import assemble
from szpo.types import Answer, Prompt
from szpo.voting.evaluator import check_judge
from szpo_simulators.panels.panel import SimulatedPanel, bt70
from tests.support.plugged import plug

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.mark.usefixtures("importable")
def test_both_keep_their_contracts():
    from own_evaluator import Brief
    from own_policy import Hesitant

    check_judge(Brief())
    check_policy(Hesitant(3), [Prompt.user("One?"), Prompt.user("Two?")], radius=0.5)


def test_together_they_come_to_the_point(tmp_path):
    done = subprocess.run(
        [sys.executable, "run_both.py", str(tmp_path)],
        cwd=EXAMPLES, capture_output=True, text=True, check=True,
    )  # fmt: skip
    votes, *_, before, _, _, after = done.stdout.split()
    assert (int(votes), int(before)) == (96, 41)  # forty times "so", then "yes"
    assert int(after) <= 32


@pytest.mark.usefixtures("importable")
def test_installed_under_a_name_szpo_run_finds_them(tmp_path, monkeypatch):
    from own_evaluator import panel
    from own_policy import Hesitant

    plug(monkeypatch, evaluators=("brief", panel), policies=("hesitant", Hesitant))
    sets = ["model.name=hesitant", "panel.kind=brief", "optimizer.mu=0.5", "run.votes=40",
            "optimizer.D=2", "run.name=both"]  # fmt: skip
    words = [word for text in sets for word in ("--set", text)]
    assert call(["run", "--folder", str(tmp_path), *words]) == 0
    with Ledger.open(tmp_path / "both.db", readonly=True) as ledger:
        assert json.loads(json.dumps(ledger.spec["panel"])) == {"panel": "brief"}
        assert float(assemble.reopen(ledger).policy.theta()["z"][0]) < 0


@pytest.mark.usefixtures("importable")
def test_a_simulated_panel_is_fitted_to_a_policy_that_only_rolls_out(tmp_path, monkeypatch):
    from own_policy import Hesitant  # type: ignore[import-not-found]

    class Various(Hesitant):  # type: ignore[misc]
        def rollout(self, prompts: Any, shifts: Any, *, seed: int) -> Any:
            return [
                tuple(Answer("word " * ((seed + i) % 5 + 1)) for i, _ in enumerate(asked))
                for asked in prompts
            ]

    plug(monkeypatch, policies=("various", Various), evaluators=("bt70", bt70))
    config = settings_file.load(
        sets=["model.name=various", "optimizer.mu=0.5", "reward=length:3", "run.votes=8"]
    )
    panel = assemble.build(config, say=lambda text: None).panel
    assert isinstance(panel, SimulatedPanel) and panel.calibration is not None
    assert panel.calibration.agreement == pytest.approx(0.7, abs=0.01)
