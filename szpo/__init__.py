"""Zeroth-order policy optimisation from comparisons made by evaluators.

`Optimizer` tunes a vector by ask and tell, `Tuner` a language model, `open` reads a run's record,
and `szpo.plots` draws it.
"""

import logging

import lazy_loader

# On CPU, bitsandbytes logs at import that an optional kernel package is missing; it works without.
# The level is set here because other libraries import bitsandbytes before szpo does.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"

# The names in __init__.pyi are loaded when they are used, so that importing szpo stays fast.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
