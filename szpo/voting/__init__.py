"""The vote service and the life of a round: seats, casting, counting, closing, applying.

A late vote is refused or stored as late in `casting`; `counting` says which votes stand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.voting.counting import counted as counted
    from szpo.voting.counting import tally as tally
    from szpo.voting.service import VoteService as VoteService

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"counting": ["counted", "tally"], "service": ["VoteService"]}
)
