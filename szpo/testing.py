"""The public tests of szpo's contracts: policies, evaluators, judges, engines and adapters.

Each returns None where all clauses hold, and raises `szpo.errors.RunError` naming one that is
broken. They load when asked for: only `check_engine` needs a tensor library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.evaluators.checks import check_evaluator as check_evaluator
    from szpo.evaluators.checks import check_judge as check_judge
    from szpo.generation.engine_choice import check_engine as check_engine
    from szpo.policies.protocol import check_policy as check_policy
    from szpo.reports.adapter import check_adapter as check_adapter

__getattr__, __dir__, __all__ = lazy_loader.attach(
    "szpo",
    submod_attrs={
        "evaluators.checks": ["check_evaluator", "check_judge"],
        "generation.engine_choice": ["check_engine"],
        "policies.protocol": ["check_policy"],
        "reports.adapter": ["check_adapter"],
    },
)
