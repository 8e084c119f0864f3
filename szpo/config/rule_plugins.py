"""Rules of other packages: what they register at the entry point `szpo.rules`.

The optimizer is pure and looks for nothing. Whoever reads settings or a ledger calls `find` first,
which makes the rule known to it.
"""

from __future__ import annotations

from typing import Any, Final

from szpo import plugins
from szpo.errors import UsageError
from szpo.optim.rules import registry
from szpo.optim.rules.rule import Rule

GROUP: Final = "szpo.rules"


def find(name: str) -> Rule | None:
    """The rule of that name, loaded where another package brings it; None where nothing does.

    Raises:
        UsageError: what the package registers is no rule of that name, or cannot be loaded.
    """
    if name in registry.RULES:
        return registry.RULES[name]
    if name not in plugins.names(GROUP):
        return None
    rule: Any = plugins.load(GROUP, name, "rule")
    if not isinstance(rule, Rule) or rule.name != name:
        raise UsageError(
            f'{GROUP}: "{name}" is no szpo.optim.rules.rule.Rule of that name; '
            "correct the package that brings it"
        )
    registry.add(rule)
    return rule
