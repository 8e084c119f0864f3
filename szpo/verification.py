"""Re-derive a run from its raw rows and say where it first disagrees with itself.

Stub until the controller stands.
"""
from __future__ import annotations
from dataclasses import dataclass
from szpo.ledger import Ledger


@dataclass(frozen=True)
class Failure:
    """x."""


@dataclass(frozen=True)
class StepCheck:
    """x."""


@dataclass(frozen=True)
class Report:
    """x."""


def verify(ledger: Ledger, *, deep: bool = True) -> Report:
    """X."""
    raise NotImplementedError
