"""Settings of the optimizer: defaults, what is refused, and schedules."""

import dataclasses
import json
import math

import pytest

from szpo.errors import UsageError
from szpo.optim import optimizer, step_size
from szpo.optim.checked_settings import defaults, settings_from_json, settings_to_json
from szpo.optim.directions import Law
from tests.support.cases import case
from tests.support.tallies import SMALL, WIDE


def test_defaults_are_those_of_the_design():
    small = defaults(1, (("z", (8,)),))
    assert (small.rule, small.pairing) == ("regression", "antithetic")
    assert (small.K, small.N, small.M, small.D) == (8, 1, 1, 8)
    assert (small.kl_radius, small.forgetting) == (4.5, None)
    assert (small.mu_decay, small.alpha_decay) == (0.0, 0.0)
    assert step_size.base_mu(small) * math.sqrt(8) == pytest.approx(3.0)
    wide = defaults(1, (("w", (40, 5)),))
    assert (wide.rule, wide.warmup, wide.law.normalise) == ("known", 5, False)
    assert defaults(1, (("w", (200,)),), alpha=0.1).warmup == 0
    assert defaults(1, (("w", (200,)),), alpha_decay=0.5).warmup == 5  # its start is measured


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rule": "sign", "K": 3, "mu": 0.2, "mu_decay": 0.25, "alpha": 0.5},
        {"rule": "known", "alpha_decay": 0.5, "decay_horizon": 30.0},
        {"rule": "sign", "law": Law(), "ties": "davidson", "tie_nu": 0.5},
        {
            "prior_mean": (0.1, 0.0, -1.0),
            "prior_precision": ((2.0, 1.0, 0.0), (1.0, 2.0, 0.0), (0.0, 0.0, 1.0)),
            "forgetting": 0.9,
        },
    ],
)
def test_settings_survive_json(changes):
    settings = defaults(2**62, SMALL, **changes)
    text = json.dumps(settings_to_json(settings), allow_nan=False)
    assert settings_from_json(json.loads(text)) == settings


def _prior(mean, precision):
    return {"prior_mean": mean, "prior_precision": precision}


def test_bad_settings_say_what_is_wrong():
    cases = [
        ({"rule": "adam"}, "rule 'adam' is unknown"),
        ({"pairing": "central"}, "choose antithetic or forward"),
        ({"link": "weibull"}, "'weibull' is unknown"),
        ({"smoothing": "mean"}, "smoothing 'mean'"),
        ({"ties": "lost"}, "choose half or davidson"),
        ({"N": 0}, "N is 0"),
        ({"M": 1.5}, "M is 1.5"),
        ({"mu": float("nan")}, "mu is nan; it must be a positive number"),
        ({"alpha": -1.0, "rule": "known"}, "alpha is -1.0"),
        ({"kl_step": math.inf}, "kl_step is inf"),
        ({"forgetting": 1.5}, "forgetting is 1.5"),
        ({"rule": "known", "forgetting": 0.9}, "belongs to the rule regression"),
        ({"rule": "bayes"}, "rule 'bayes' is unknown"),
        ({"mu_decay": 1.5}, r"mu_decay is 1.5; it must be within \[0, 1\]"),
        ({"alpha_decay": -0.5, "rule": "sign"}, "alpha_decay is -0.5"),
        ({"decay_horizon": 0.0}, "decay_horizon is 0"),
        ({"rule": "sign", "warmup": 5}, "set warmup = 0"),
        ({"alpha": 0.1}, "leave alpha out"),
        ({"link": "probit"}, "regression knows the logistic link only"),
        (_prior((0.0,), ((1.0,) * 3,) * 3), "prior_mean has 1 of 3"),
        (_prior((0.0, math.nan, 0.0), ((1.0,) * 3,) * 3), "is not finite"),
        (_prior((0.0,) * 3, ((1.0,) * 3,) * 2), "must be 3 by 3"),
        (_prior((0.0,) * 3, ((1.0, 0.0, 0.0),) * 3), "finite and symmetric"),
        (_prior((0.0,) * 3, ((1.0,) * 3,) * 3), "positive definite"),
        ({"rule": "sign", "prior_mean": (0.0,) * 3}, "belongs to the rule regression"),
        ({"rule": "known", "alpha": 0.1, "warmup": 5}, "set warmup = 0"),
        ({"rule": "known", "link": "probit", "ties": "davidson"}, "for the logistic link"),
        ({"rule": "known", "ties": "davidson", "smoothing": "clip"}, "haldane smoothing only"),
        ({"speed": 3}, "speed unknown to the optimizer"),
        ({"tie_nu": -1.0}, "tie_nu is -1.0"),
    ]
    for changes, words in cases:
        with case(changes, words), pytest.raises(UsageError, match=words):
            defaults(1, SMALL, **changes)


def test_regression_needs_one_small_tensor():
    with pytest.raises(UsageError, match="one tensor of at most 256"):
        defaults(1, WIDE, rule="regression")
    with pytest.raises(UsageError, match="one tensor of at most 256"):
        defaults(1, (("z", (257,)),), rule="regression")


def test_unreadable_settings_are_a_usage_error():
    body = settings_to_json(defaults(1, SMALL))
    with pytest.raises(UsageError, match="cannot be read"):
        settings_from_json({**body, "speed": 1})
    del body["layout"]
    with pytest.raises(UsageError, match="cannot be read"):
        settings_from_json(body)


def test_every_setting_that_a_rule_brings_along_is_stored():
    made = defaults(1, SMALL, rule="regression")
    stored = json.loads(json.dumps(settings_to_json(made)))
    assert stored["kl_budget"] and settings_from_json(stored) == made


def test_a_run_does_not_begin_with_settings_that_do_not_fit_together():
    unfit = dataclasses.replace(defaults(1, SMALL, rule="sign"), warmup=3)
    with pytest.raises(UsageError):
        optimizer.init(unfit)


def test_schedules_of_older_records_are_powers_of_the_step():
    settings = defaults(1, SMALL, rule="known", mu=0.5, alpha_decay=0.5, decay_horizon=30.0)
    body = settings_to_json(settings)
    for name in ("alpha_decay", "mu_decay", "decay_horizon"):
        del body[name]
    older = {"kind": "inverse_sqrt", "start": None, "horizon": 30.0, "floor": 0.0}
    assert settings_from_json({**body, "alpha": older}) == settings
    with pytest.raises(UsageError, match="cannot be read"):
        settings_from_json({**body, "alpha": {**older, "kind": "linear"}})
