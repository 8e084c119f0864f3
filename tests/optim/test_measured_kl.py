"""How much of the way to a proposed point is recorded, given what was measured on it."""

from dataclasses import replace

import pytest

from szpo.optim.kl_limits import (
    AIMED_SHARE,
    MOST_READINGS,
    SHARE_PARTS,
    KlMeasurement,
    Reading,
    choose_share,
    measure_share,
)


def readings(*pairs, whole=2.7):
    return tuple(Reading(share, kl, whole * (share / SHARE_PARTS) ** 2) for share, kl in pairs)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ((), (256, False)),
        (((256, 3.0),), (256, True)),  # within the budget of 3
        (((256, 12.0),), (121, False)),  # 256·√(2.7/12) = 121.43
        (((256, 12.0), (121, 2.4)), (121, True)),  # three quarters of the budget are enough
        # 121² + (2.7 − 1.5)/(12 − 1.5)·(256² − 121²) = 20 457.6 = 143.03²
        (((256, 12.0), (121, 1.5)), (143, False)),
        (((256, 12.0), (121, 1.5), (143, 1.9)), (143, True)),
        (((256, 12.0), (121, 1.5), (143, 3.1)), (121, True)),
        (((256, 12.0), (121, 4.0)), (99, False)),  # 121·√(2.7/4) = 99.41
        (((256, 12.0), (121, 4.0), (99, 3.1)), (92, True)),  # 99·√(2.7/3.1) = 92.39, unmeasured
    ],
)
def test_the_share_by_hand(found, wanted):
    assert choose_share(3.0, readings(*found)) == wanted


def test_a_point_recorded_after_an_earlier_reading_keeps_that_readings_nats():
    found = KlMeasurement(3.0, readings((256, 12.0), (121, 1.5), (143, 3.1)), 121)
    assert found.follows and found.measured == 1.5 and found.nearest.share == 121


def test_a_short_way_is_measured_once():
    def read(share):
        return Reading(share, 0.2 * (share / SHARE_PARTS) ** 1.5, 0.1)

    short, long = measure_share(0.15, read), measure_share(0.16, read)
    assert short.share == 210 and len(short.readings) == 1  # 256·√(.135/.2) = 210.3
    assert [each.share for each in long.readings] == [256, 217]
    assert short.follows and not replace(long, limit=0.15).follows


@pytest.mark.parametrize("power", [1.2, 2.0, 2.7, 4.0])
@pytest.mark.parametrize("whole", [0.4, 2.9, 3.1, 8.0, 60.0])
def test_however_kl_grows_the_recorded_point_is_within_the_budget_and_uses_it(power, whole):
    def read(share):
        part = share / SHARE_PARTS
        return Reading(share, whole * part**power, 2.7 * part**2)

    found = measure_share(3.0, read)
    kl = read(found.share).kl
    assert len(found.readings) <= MOST_READINGS and found.follows
    assert kl <= 3.0 * (1.1 if power < 2 else 1)  # three readings do not end a slow growth
    assert (found.share == SHARE_PARTS) == (whole <= 3)
    assert whole <= 3 or whole > 8 or kl > 0.6 * AIMED_SHARE * 3.0
    assert found.measured in (None, kl)


def test_the_next_ball_is_scaled_by_the_reading_next_to_what_was_recorded():
    found = KlMeasurement(3.0, readings((256, 12.0), (121, 2.4)), 121)
    assert found.nearest.share == 121
    assert found.scale == pytest.approx((2.4 + 0.1) / (2.7 * (121 / 256) ** 2 + 0.1))
