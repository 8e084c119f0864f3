"""What a picture of a posterior shows, and its files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from szpo.active.posterior import BradleyTerry
from szpo.errors import UsageError
from szpo_ui.posterior import pictures
from szpo_ui.posterior.scene import CELLS, EXTENT, PARTICLES, scene

ANSWERS = ((1.5, 0.5), (0.5, 1.8), (-0.6, 1.2))


def test_without_answers_the_posterior_is_the_prior():
    shown = scene([], tau=1.5)
    # ½ log det(2πe·1.5²·I) = log(2πe) + 2 log 1.5 = 3.6488; 120 particles tell it to some .1.
    (only,) = shown.rounds
    assert only.gaussian == pytest.approx(3.6488, abs=0.15)
    assert shown.log_likelihood == 0.0
    assert shown.log_density.shape == (CELLS, CELLS)
    middle = CELLS // 2
    assert np.unravel_index(shown.log_density.argmax(), (CELLS, CELLS)) == (middle, middle)


def test_the_map_has_the_posterior_where_the_page_draws_it():
    # One answer δ = (0, 2): weights with a large second coordinate are likelier, and these are
    # drawn at the top; nothing is known of the first, so the map is its own mirror image.
    shown = scene([(0.0, 2.0)])
    top, bottom = shown.log_density[: CELLS // 2], shown.log_density[CELLS // 2 + 1 :]
    assert top.mean() > bottom.mean()
    np.testing.assert_allclose(shown.log_density, shown.log_density[:, ::-1], atol=1e-9)
    assert shown.mean[1] > 0.3
    # What has not been asked yet teaches most: a difference along the first weight.
    assert shown.suggested is not None
    assert abs(shown.suggested[0]) > abs(shown.suggested[1])
    assert 0 < shown.information < np.log(2)


def test_each_answer_has_its_round_and_entropy_falls_with_it():
    shown = scene(ANSWERS)
    assert len(shown.rounds) == len(ANSWERS) + 1
    for kind in ("gaussian", "neighbours"):
        values = [getattr(each, kind) for each in shown.rounds]
        assert values == sorted(values, reverse=True)
    # A longer list begins with the rounds of the shorter one: the same particles, the same seed.
    assert scene(ANSWERS[:2]).rounds == shown.rounds[:3]


def test_particles_move_from_the_prior_to_the_posterior():
    shown = scene(ANSWERS)
    assert shown.frames.shape[1:] == (PARTICLES, 2)
    np.testing.assert_array_equal(shown.frames[0], scene([]).frames[0])
    mode, covariance = BradleyTerry(np.array(ANSWERS), np.ones(3), 1.5).laplace()
    first, last = (np.linalg.norm(shown.frames[i].mean(0) - mode) for i in (0, -1))
    # The posterior leans away from its mode, to where all answers are near certain.
    assert last < 0.5 < first
    spread = np.linalg.slogdet(np.cov(shown.frames[-1].T))[1]
    assert abs(spread - np.linalg.slogdet(covariance)[1]) < 0.5
    np.testing.assert_allclose(shown.mean, shown.frames[-1].mean(0))


@pytest.mark.parametrize(
    ("deltas", "message"),
    [
        ([(1.0, 2.0, 3.0)], "3 features; two are drawn"),
        ([(EXTENT + 1, 0.0)], "within ±4"),
        ([(float("nan"), 0.0)], "within ±4"),
        ([(1.0, 1.0)] * 201, "at most 200"),
    ],
)
def test_what_cannot_be_drawn_is_reported(deltas, message):
    with pytest.raises(UsageError, match=message):
        scene(deltas)


@pytest.mark.full
def test_pictures_hold_what_they_promise():
    rounds = [scene(ANSWERS[:n]) for n in (1, 2, 3)]
    drawn = pictures.svg(rounds[-1], ("length", "sentiment"))
    assert drawn.startswith(b"<?xml")
    assert drawn == pictures.svg(rounds[-1], ("length", "sentiment"))
    moving = Image.open(io.BytesIO(pictures.gif(rounds)))
    stills = len(range(0, len(rounds[0].frames) - 1, pictures.SKIP)) + 1
    assert getattr(moving, "n_frames", 1) == len(rounds) * stills
