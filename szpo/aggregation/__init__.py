"""Votes to estimates: links, estimators of value differences, voter weights, the link's test.

Pure: counts and answers in, arrays out. No file, no clock, no tensor library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.aggregation.estimators import Estimate as Estimate
    from szpo.aggregation.estimators import estimate as estimate
    from szpo.aggregation.links import Link as Link
    from szpo.aggregation.links import link as link

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "estimators": ["Estimate", "estimate"],
        "links": ["Link", "link"],
    },
)
