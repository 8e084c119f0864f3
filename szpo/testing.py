"""The public tests of szpo's contracts: policies, evaluators, judges, engines and adapters.

Each returns None where all clauses hold, and raises `szpo.errors.RunError` naming one that is
broken. They load when asked for: only `check_engine` needs a tensor library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from szpo.evaluators.checks import check_evaluator as check_evaluator
    from szpo.evaluators.checks import check_judge as check_judge
    from szpo.generation.engine_choice import check_engine as check_engine
    from szpo.policies.protocol import check_policy as check_policy
    from szpo.reports.adapter import check_adapter as check_adapter

_WHERE = {
    "check_adapter": "szpo.reports.adapter",
    "check_engine": "szpo.generation.engine_choice",
    "check_evaluator": "szpo.evaluators.checks",
    "check_judge": "szpo.evaluators.checks",
    "check_policy": "szpo.policies.protocol",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'szpo.testing' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
