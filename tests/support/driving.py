"""A run that is driven step by step."""

import numpy as np

from tests.support.quadratic import (
    QuadraticPolicy,
    ValueJudge,
    go,
    new_ledger,
    panel_of,
    settings_of,
)

PLAIN = {"rule": "regression", "N": 1, "D": 2, "centre_step": 0.3,
         "kl_budget": 2.0}  # fmt: skip


class MovingPolicy(QuadraticPolicy):
    """A policy that can be moved to any θ."""

    def move_to(self, theta):
        self.theta_now = {name: np.array(value) for name, value in theta.items()}


def started(tmp_path, name="run.db", **changes):
    settings = settings_of(**{**PLAIN, **changes})
    ledger = new_ledger(tmp_path / name, settings)
    return settings, ledger, MovingPolicy(settings)


def drive(settings, ledger, policy, **how):
    return go(settings, ledger, policy, panel_of(ledger, judge=ValueJudge(20.0)), **how)
