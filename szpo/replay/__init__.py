"""Replay a ledger: weights from updates, updates from votes, and every hash verified."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.replay.replay import fold as fold
    from szpo.replay.replay import replay_state as replay_state
    from szpo.replay.verification import verify as verify

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"replay": ["fold", "replay_state"], "verification": ["verify"]}
)
