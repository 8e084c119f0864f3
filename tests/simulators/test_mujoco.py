"""The extra task: one clear line where MuJoCo is missing, and the world on a stand-in for it."""

import sys

import pytest

from szpo.cli.app import call
from szpo.errors import UsageError
from szpo.plugins import how_to_install
from szpo_simulators.worlds.mujoco import environment


@pytest.fixture
def no_mujoco(monkeypatch):
    """As where the extra was not installed, whether it is here or not."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "mujoco"]:
        monkeypatch.delitem(sys.modules, name)
    for name in [n for n in sys.modules if n.startswith("gymnasium.envs.mujoco")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mujoco", None)


@pytest.mark.usefixtures("no_mujoco")
def test_a_missing_mujoco_is_refused_in_one_line(capsys, tmp_path):
    with pytest.raises(UsageError, match=r"needs mujoco: pip install -e '\.\[mujoco\]'"):
        environment("Reacher-v5")
    line = ["bench", "cartpole", "--quick", "--mujoco", "--folder", str(tmp_path / "runs")]
    assert call(line) == 2
    message = capsys.readouterr().err.strip()
    assert message.count("\n") == 0
    assert how_to_install("mujoco") in message
    assert not (tmp_path / "runs").exists(), "refused before anything was computed"


def test_other_tasks_that_cannot_be_used():
    with pytest.raises(UsageError, match="task Nothing-v0: Environment `Nothing` doesn't exist"):
        environment("Nothing-v0")
    with pytest.raises(UsageError, match="no continuous moves"):
        environment("CartPole-v1")
