"""The rules by name: a new rule is a file beside this one and a name in the list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from szpo.errors import UsageError
from szpo.optim.rules import bayes, known, margin, sign
from szpo.optim.rules.rule import Rule

RULES: Final[Mapping[str, Rule]] = {
    rule.name: rule for rule in (known.RULE, sign.RULE, margin.RULE, bayes.RULE)
}


def rule_of(name: str) -> Rule:
    """The rule of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in RULES:
        raise UsageError(f"settings: rule {name!r} is unknown; choose {', '.join(RULES)}")
    return RULES[name]
