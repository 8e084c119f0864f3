"""Settings of a run: `schema` holds the typed sections, `settings_file` reads TOML and presets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.config.schema import Config as Config
    from szpo.config.settings_file import load as load

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"schema": ["Config"], "settings_file": ["load"]}
)
