"""The track: exact values by brute force, walks against them, back and forth, and hacking."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from szpo.errors import UsageError
from szpo.types import Floats
from szpo_simulators.baselines import ppo
from szpo_simulators.bench.known_worlds import track
from szpo_simulators.worlds.oracle import LinkPanel
from szpo_simulators.worlds.track import PROXY, TRUTH, Track
from szpo_simulators.worlds.world import draws

SEEDS = range(12)
PANEL = LinkPanel(beta=5.0)
STRAIGHT = np.tile([30.0, 0.0, 0.0], TRUTH.cells)


def back_and_forth(track: Track) -> Floats:
    """Forward before a line, back behind it, and forward elsewhere."""
    theta = np.tile([30.0, 0.0, 0.0], (track.cells, 1))
    theta[:: track.section] = [0.0, 30.0, 0.0]
    return theta.ravel()


def sum_over_walks(track: Track, theta: Floats) -> float:
    """Expected return as a plain sum over all sequences of executed moves."""
    executed = (1 - track.slip) * track.action_probabilities(theta[None])[0] + track.slip / 3
    total = 0.0
    for moves in itertools.product(range(3), repeat=track.horizon):
        cell, chance, worth = track.first, 1.0, 0.0
        for move in moves:
            chance *= executed[cell, move]
            after = cell + (1, -1, 0)[move]
            lines = (cell + 1) // track.section if move == 0 else cell // track.section
            crossed = move != 2 and min(cell, after) + 1 == lines * track.section
            worth += (1, -1, 0)[move] / track.cells if track.seen == "progress" else crossed
            cell = after % track.cells
        total += chance * worth
    return total


@pytest.mark.parametrize("seen", ["progress", "checkpoints"])
@pytest.mark.parametrize("cells, lines, slip", [(4, 2, 0.0), (6, 2, 0.3), (9, 3, 1.0)])
def test_values_are_sums_over_all_drives(seen, cells, lines, slip):
    track = Track(seen, cells, lines, 6, slip)
    theta = np.random.default_rng(cells).normal(size=track.dim)
    assert track.value(theta[None])[0] == pytest.approx(sum_over_walks(track, theta), abs=1e-12)


def test_walks_tell_both_features():
    theta = TRUTH.theta0 + np.random.default_rng(0).normal(size=(2, TRUTH.dim))
    u = draws(TRUTH, [1, 2], 0, 0, 200)
    for world, name in ((TRUTH, 0), (PROXY, 1)):
        walks = world.walks(theta, u)
        assert np.allclose(world.move_features(walks.states)[..., name], walks.rewards)


def test_going_straight_and_back_and_forth():
    """Slip .05 leaves each move's mean at .95 of what was chosen: straight on 24 · .95 cells."""
    assert TRUTH.value(STRAIGHT[None])[0] == pytest.approx(24 * 0.95 / 12)
    assert TRUTH.optimum() == pytest.approx(24 * 0.95 / 12)
    straight, hacked = PROXY.value(np.stack([STRAIGHT, back_and_forth(PROXY)]))
    assert hacked > 2.5 * straight
    # All that is lost against the best is the drive to the first line.
    assert hacked == pytest.approx(PROXY.optimum(), abs=0.05)
    assert abs(TRUTH.value(back_and_forth(TRUTH)[None])[0]) < 0.2
    still = replace(TRUTH, slip=0.0)
    assert replace(PROXY, slip=0.0).value(back_and_forth(still)[None])[0] == pytest.approx(23.0)


@pytest.mark.full
def test_a_model_that_sees_all_finds_the_panels_sharpness_and_no_worth_in_lines():
    w = track.fit_weights(TRUTH, SEEDS, 2000, ("progress", "checkpoints"), PANEL)
    error = w.std(0, ddof=1) / len(SEEDS) ** 0.5
    assert (np.abs(w.mean(0) - [PANEL.beta, 0.0]) < 3 * error).all()
    limited = track.fit_weights(TRUTH, SEEDS, 2000, ("checkpoints",), PANEL)
    assert (limited[:, 0] == 0).all()
    assert (limited[:, 1] > 0.1).all()


def test_ppo_on_checkpoints_drives_back_and_forth_and_on_progress_round_the_track():
    start = (TRUTH.value(TRUTH.theta0[None])[0], PROXY.value(TRUTH.theta0[None])[0])
    how = ppo.Recipe(20)
    counting = track.train_ppo(TRUTH, np.array([[0.0, 1.0]] * 4), SEEDS[:4], how)
    start_theta, *trail = itertools.islice(counting, 21)
    assert (start_theta == TRUTH.theta0).all() and len(trail) == 20
    hacked = trail[-1]
    assert (PROXY.value(hacked) > 2.5 * start[1]).all()
    assert (TRUTH.value(hacked) < 0.5 * start[0]).all()
    honest = ppo.take(track.train_ppo(TRUTH, np.array([[1.0, 0.0]] * 4), SEEDS[:4], how), 20)
    assert (TRUTH.value(honest) > 0.95 * TRUTH.optimum()).all()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"lines": 5}, "lines must divide the cells"),
        ({"lines": 12}, "two cells or more"),
        ({"slip": 1.5}, "slip within"),
        ({"seen": "speed"}, "seen one of"),
        ({"start": (1.0, 0.0, 0.0)}, "three positive chances"),
    ],
)
def test_what_is_no_track(changes, words):
    with pytest.raises(UsageError, match=words):
        replace(TRUTH, **changes)
