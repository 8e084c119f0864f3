"""The figures of a step that trackers send: finite numbers by name, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from szpo.training.step_report import StepReport

NAMES: Final[Mapping[str, str]] = {
    "votes": "votes/counted", "total_votes": "votes/total", "ties": "votes/ties",
    "skips": "votes/skips", "answers_read": "votes/answers_read",
    "flip_share": "votes/flip_share", "kl": "answers/kl", "length": "answers/length",
    "repetition": "answers/repetition", "identical": "answers/identical",
    "norm": "weights/norm", "moved": "weights/moved", "mu": "optimizer/mu",
    "alpha": "optimizer/alpha",
}  # fmt: skip
"""Figures of a step as trackers call them."""


def read_scalars(step: StepReport) -> dict[str, float]:
    """What trackers send of a step: finite numbers by name; unknown ones are left out."""
    found: dict[str, object] = {name: getattr(step, own) for own, name in NAMES.items()}
    found |= {f"answers/{name}": v for name, v in step.figures.items() if name not in NAMES}
    found |= {f"rule/{name}": v for name, v in step.extra.items() if name not in NAMES}
    found |= {f"seconds/{name.removesuffix('_s')}": v for name, v in step.seconds.items()}
    found["optimizer/capped"] = float(step.capped)
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, (int, float)) and math.isfinite(value)  # no text, nothing nested
    }
