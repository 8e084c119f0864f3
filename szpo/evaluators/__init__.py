"""Evaluators, which answer comparisons: people, judges in this process, a panel in another one.

`protocol` is the contract. A panel of your own comes by the entry point ``szpo.evaluators``; see
`panel_factory`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.evaluators.checks import check_evaluator as check_evaluator
    from szpo.evaluators.checks import check_judge as check_judge
    from szpo.evaluators.panel_evaluator import LedgerEvaluator as LedgerEvaluator
    from szpo.evaluators.panel_evaluator import PanelEvaluator as PanelEvaluator
    from szpo.evaluators.panel_factory import PanelFactory as PanelFactory
    from szpo.evaluators.protocol import Evaluator as Evaluator
    from szpo.evaluators.protocol import Judge as Judge

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "checks": ["check_evaluator", "check_judge"],
        "panel_evaluator": ["LedgerEvaluator", "PanelEvaluator"],
        "panel_factory": ["PanelFactory"],
        "protocol": ["Evaluator", "Judge"],
    },
)
