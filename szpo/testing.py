"""The public tests of szpo's contracts: policies, evaluators, judges and engines.

Each returns None if all clauses hold, and raises `szpo.errors.RunError` naming one that is broken.
They are loaded when they are used: only `check_engine` needs a tensor library.
"""

import lazy_loader

# The names in testing.pyi.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub("szpo", __file__)
