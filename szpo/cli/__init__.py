"""The ``szpo`` command: one file per group of commands, put together in `app`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.cli.app import call as call
    from szpo.cli.app import main as main

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"app": ["call", "main"]}
)
