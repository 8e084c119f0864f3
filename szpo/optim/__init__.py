"""The optimizer, as ask and tell: directions, rules (known, sign, regression), step sizes.

Pure: a state in, a state out. `optimizer` is the place to begin reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.optim.checked_settings import defaults as defaults
    from szpo.optim.checked_settings import settings_to_json as settings_to_json
    from szpo.optim.directions import DIRECTION_VERSION as DIRECTION_VERSION
    from szpo.optim.directions import Law as Law
    from szpo.optim.optimizer import ask as ask
    from szpo.optim.optimizer import init as init
    from szpo.optim.optimizer import tell as tell
    from szpo.optim.settings import Settings as Settings
    from szpo.optim.state import State as State

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "checked_settings": ["defaults", "settings_to_json"],
        "directions": ["DIRECTION_VERSION", "Law"],
        "optimizer": ["ask", "init", "tell"],
        "settings": ["Settings"],
        "state": ["State"],
    },
)
