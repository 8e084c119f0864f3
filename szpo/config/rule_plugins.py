"""Rules of other packages, registered at the entry point `szpo.rules`.

The optimizer is pure and searches no packages. Code that reads settings or a ledger calls `find`
first, which registers the rule with the optimizer.
"""

from __future__ import annotations

from typing import Any, Final

from szpo import plugins
from szpo.errors import UsageError
from szpo.optim.rules import registry
from szpo.optim.rules.rule import Rule

GROUP: Final = "szpo.rules"


def find(name: str) -> Rule | None:
    """Find a rule by name, and load it if it is another package's; None if there is none."""
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
