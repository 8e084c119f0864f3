"""The few errors that a caller may want to tell apart, each with its exit code.

A message says what was wrong, where, and what to do. The command line prints it as one
line and exits with ``exit_code``; no traceback is shown without ``--debug``.
"""

from __future__ import annotations


class SzpoError(Exception):
    """Something the person running szpo can act on."""

    exit_code = 1


class RunError(SzpoError):
    """The run failed its own check: canary, divergence, a guard that cannot be met."""

    exit_code = 1


class LogitsError(RunError):
    """The model's logits are not finite: nothing can be drawn from them."""


class UsageError(SzpoError):
    """A setting, a file or an argument is not what szpo can work with."""

    exit_code = 2


class MissingPluginError(UsageError):
    """A ledger needs what another package brings, and that package is not installed."""


class SupersededError(UsageError):
    """A ledger needs a rule or an option that szpo no longer has."""


class LeaseError(SzpoError):
    """Another controller holds the run, or this one was superseded."""

    exit_code = 3


class StorageError(SzpoError):
    """The ledger's file cannot be read or written."""

    exit_code = 4


class IntegrityError(SzpoError):
    """A record does not match what it promises to be."""

    exit_code = 5


class ResourceError(SzpoError):
    """Not enough memory, disk or time for what was asked."""

    exit_code = 6


class EngineError(ResourceError):
    """The workers that hold a run's model are gone; the run goes on once they are back."""
