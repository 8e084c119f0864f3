"""Read the hidden states on record again with the run's model, and compare."""

from __future__ import annotations

from typing import Final

import numpy as np

from szpo.errors import IntegrityError, UsageError
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.models.devices import Dtype
from szpo.optim.state_regression import GRID
from szpo.taste import ReadsStates
from szpo.voting import shown_states
from szpo.voting.recorded_step import read_step

TOLERANCE: Final = {"fp32": 0.02, "bf16": 0.1, "fp16": 0.05}
"""By the model's dtype: the largest error of a text's states, where 1 is the usual distance of two
answers. Batches of other sizes and other processors round otherwise."""


def check(ledger: Ledger, policy: ReadsStates, dtype: Dtype) -> str:
    """Read all states again; returns how many, and how far the farthest is off.

    Raises:
        UsageError: the run has no states on record.
        IntegrityError: a text's are farther off than `TOLERANCE`.
    """
    named = recorded_settings(ledger).features
    if named is None or named.states is None:
        raise UsageError(f"{ledger.path.name}: no hidden states are on record")
    most = TOLERANCE[dtype]
    worst, count = 0.0, 0
    for event in ledger.events("regressors"):
        step = event["body"]["step"]
        recorded = read_step(ledger, step).states(ledger, named).astype(np.int64)
        again = shown_states.read_of(policy, ledger.comparisons(step), named.states)
        off = np.sqrt((((again - recorded) / GRID) ** 2).sum(1))
        if off.max(initial=0.0) > most:
            raise IntegrityError(
                f"step {step}: the states of text {int(off.argmax())} are {off.max():.2g} from "
                f"what the model reads ({most:g} is allowed in {dtype})"
            )
        worst, count = max(worst, float(off.max(initial=0.0))), count + len(off)
    return (
        f"states of {count:,} texts read again: at most {worst:.2g} off, where 1 is the usual "
        f"distance of two answers ({most:g} is allowed in {dtype})"
    )
