"""The errors that a caller may want to distinguish, each with its exit code.

A message says what was wrong, where, and what to do. The command line prints it as one
line and exits with ``exit_code``; a traceback is shown only with ``--debug``.
"""

from __future__ import annotations


class SzpoError(Exception):
    """An error that the person running szpo can act on."""

    exit_code = 1


class RunError(SzpoError):
    """The run failed its own check: canary, divergence, a guard that cannot be met."""

    exit_code = 1


class LogitsError(RunError):
    """The model's logits are not finite, so nothing can be drawn from them."""


class UsageError(SzpoError):
    """szpo cannot work with a setting, a file or an argument."""

    exit_code = 2


class MissingPluginError(UsageError):
    """A ledger needs a rule that neither this szpo nor an installed package has."""


class LeaseError(SzpoError):
    """Another controller holds the run, or took it from this one."""

    exit_code = 3


class StorageError(SzpoError):
    """The ledger's file cannot be read or written."""

    exit_code = 4


class IntegrityError(SzpoError):
    """A record does not match its digest or its claims."""

    exit_code = 5


class ResourceError(SzpoError):
    """There is not enough memory, disk or time, or a resource is unavailable."""

    exit_code = 6


class EngineError(ResourceError):
    """The workers that hold a run's model are gone; the run continues when they are back."""
