"""The extra task: one clear line where MuJoCo is missing, and the world on a stand-in for it."""

import sys

import gymnasium
import numpy as np
import pytest

from szpo.cli.app import call
from szpo.errors import UsageError
from szpo.plugins import how_to_install
from szpo_simulators.worlds.mujoco import Linear, environment
from szpo_simulators.worlds.world import World, draws

STAND_IN = "MountainCarContinuous-v0"
"""A continuous task that needs nothing but gymnasium."""


@pytest.fixture
def no_mujoco(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra was not installed, whether it is here or not."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "mujoco"]:
        monkeypatch.delitem(sys.modules, name)
    for name in [n for n in sys.modules if n.startswith("gymnasium.envs.mujoco")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mujoco", None)


@pytest.mark.usefixtures("no_mujoco")
def test_a_missing_mujoco_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    with pytest.raises(UsageError, match=r"needs mujoco: pip install -e '\.\[mujoco\]'"):
        environment("Reacher-v5")
    line = ["bench", "cartpole", "--quick", "--mujoco", "--folder", str(tmp_path / "runs")]
    assert call(line) == 2
    message = capsys.readouterr().err.strip()
    assert message.count("\n") == 0
    assert how_to_install("mujoco") in message
    assert not (tmp_path / "runs").exists(), "refused before anything was computed"


def test_other_tasks_that_cannot_be_used() -> None:
    with pytest.raises(UsageError, match="task Nothing-v0: Environment `Nothing` doesn't exist"):
        environment("Nothing-v0")
    with pytest.raises(UsageError, match="no continuous moves"):
        environment("CartPole-v1")


def test_the_world_plays_gymnasiums_episodes() -> None:
    world = Linear(STAND_IN, evaluations=2)
    assert isinstance(world, World)
    assert world.dim == 3
    assert np.array_equal(world.theta0, np.zeros(3))
    theta = np.array([[2.0, 60.0, 0.1], [0.0, 0.0, 0.0]])
    u = np.repeat(draws(world, [4], 0, 0, 1), 2, axis=0)
    walks = world.walks(theta, u)
    assert np.array_equal(walks.states[0, 0, 0], walks.states[1, 0, 0])
    assert np.array_equal(walks.returns, world.returns(theta, u))
    task = gymnasium.make(STAND_IN)
    seen, _ = task.reset(seed=int(u[0, 0, 0] * 2**24))
    total, moves, over = 0.0, 0, False
    while not over:
        seen, reward, ended, cut, _ = task.step(np.tanh(theta[0, :2] @ seen + theta[0, 2:]))
        total, moves, over = total + float(reward), moves + 1, ended or cut
    assert walks.moves[0, 0] == moves
    assert walks.returns[0, 0] == pytest.approx(total)
    # A car that does not move costs nothing and gets nowhere in 999 moves.
    assert (walks.returns[1, 0], walks.moves[1, 0]) == (0.0, 999)
