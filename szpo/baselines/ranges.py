"""What a recipe's numbers and names may be; a refusal names method, field, value and range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from szpo.errors import UsageError


def at_least(recipe: Any, method: str, least: float, *names: str) -> None:
    """Refuse fields below ``least``; None passes.

    Raises:
        UsageError: one is; names it.
    """
    for name in names:
        value = getattr(recipe, name)
        if value is not None and not value >= least:
            raise UsageError(f"{method}: {name} must be at least {least:g} (got {value})")


def above(recipe: Any, method: str, least: float, *names: str) -> None:
    """Refuse fields that are not above ``least``; None passes.

    Raises:
        UsageError: one is; names it.
    """
    for name in names:
        value = getattr(recipe, name)
        if value is not None and not value > least:
            raise UsageError(f"{method}: {name} must be above {least:g} (got {value})")


def within(recipe: Any, method: str, least: float, end: float, *names: str) -> None:
    """Refuse fields outside ``least`` ≤ value < ``end``; None passes.

    Raises:
        UsageError: one is; names it.
    """
    for name in names:
        value = getattr(recipe, name)
        if value is not None and not least <= value < end:
            raise UsageError(
                f"{method}: {name} must be at least {least:g} and below {end:g} (got {value})"
            )


def one_of(recipe: Any, method: str, choices: Sequence[str], *names: str) -> None:
    """Refuse fields that are none of the choices.

    Raises:
        UsageError: one is none; names it.
    """
    for name in names:
        value = getattr(recipe, name)
        if value not in choices:
            raise UsageError(
                f"{method}: {name} must be one of {', '.join(choices)} (got {value!r})"
            )
