"""A figure outside its band pauses a run: each figure, above and below."""

import dataclasses
import math

import pytest

from szpo.training.guards import Bands

NAMES = [field.name for field in dataclasses.fields(Bands)]


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_above_or_below_its_band_or_not_finite_breaks_it(name):
    bands = Bands(**{name: (1.0, 2.0)})
    for value in (1.0, 1.5, 2.0, None):
        assert bands.broken({name: value}) is None
    for value in (0.9, 2.1, -math.inf, math.inf, math.nan):
        found = bands.broken({name: value})
        assert found is not None and found[0] == name
    assert bands.broken({other: 9.0 for other in NAMES if other != name}) is None
