"""The rules by name: a new rule is a file beside this one, and its entry here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from szpo.optim.rules import bayes, known, margin, regression, sign
from szpo.optim.rules.rule import Rule
from szpo.optim.settings import SettingsError

RULES: Final[Mapping[str, Rule]] = {
    rule.name: rule for rule in (known.RULE, sign.RULE, margin.RULE, bayes.RULE, regression.RULE)
}


def rule_of(name: str) -> Rule:
    """The rule of that name.

    Raises:
        SettingsError: there is none.
    """
    if name not in RULES:
        raise SettingsError(f"`rule` {name!r} is unknown; choose {', '.join(RULES)}")
    return RULES[name]
