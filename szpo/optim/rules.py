"""The rules by name. A new rule is a file beside this one and an entry here.

`szpo.config.optimizer` finds the rules of other packages and adds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from szpo.errors import UsageError
from szpo.optim import regression
from szpo.optim.known_and_sign import KNOWN, SIGN
from szpo.optim.rule import Rule

_RULES: Final = {rule.name: rule for rule in (KNOWN, SIGN, regression.RULE)}
RULES: Final[Mapping[str, Rule]] = MappingProxyType(_RULES)
"""The rules of szpo and those that were added."""


def add(rule: Rule) -> None:
    """Add the rule of another package; adding the same rule twice is allowed."""
    if _RULES.setdefault(rule.name, rule) is not rule:
        raise UsageError(f"rule {rule.name!r} is there already; give the new one another name")


def has_two_points(name: str) -> bool:
    """The rule asks around one point and recommends another; False for an unknown name."""
    return name in RULES and RULES[name].two_points


def rule_of(name: str) -> Rule:
    """The rule of that name."""
    if name not in RULES:
        raise UsageError(f"rule {name!r} is unknown; choose {', '.join(RULES)}")
    return RULES[name]
