"""Zeroth-order policy optimisation from comparisons made by evaluators.

`Optimizer` tunes a vector by ask and tell, `Tuner` a language model, `open` reads a run's record,
and `szpo.plots` draws it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo import plots as plots
    from szpo.library.result import Result as Result
    from szpo.library.text_pairs import Sample as Sample
    from szpo.library.text_pairs import TextPair as TextPair
    from szpo.library.tuner import Tuner as Tuner
    from szpo.library.vector import Optimizer as Optimizer
    from szpo.library.vector import Pair as Pair
    from szpo.notices.callbacks import Callback as Callback
    from szpo.notices.callbacks import RunFacts as RunFacts
    from szpo.reports.dataframes import open as open
    from szpo.training.step_report import StepReport as StepReport

# On CPU it says at import that an optional kernel package is absent; it works without. Here, since
# libraries import it before szpo does.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.2.0"

# Looked up when asked for, so that importing szpo stays light.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["plots"],
    submod_attrs={
        "library.result": ["Result"],
        "library.text_pairs": ["Sample", "TextPair"],
        "library.tuner": ["Tuner"],
        "library.vector": ["Optimizer", "Pair"],
        "notices.callbacks": ["Callback", "RunFacts"],
        "reports.dataframes": ["open"],
        "training.step_report": ["StepReport"],
    },
)
