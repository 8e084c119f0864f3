"""Guards that hold, for tests of what comes after them.

With a tiny model's few words, the last digits of a processor decide whether its guards hold.
"""

import contextlib
import math
from collections.abc import Iterator

import pytest

from szpo.policies import text_guards

LIMITS = {"logprob": (-9.0, math.inf), "tokens": (-0.9, 9.0), "margin": (-9.0, math.inf)}


@contextlib.contextmanager
def wide() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_guards, "LEAST_VARIETY", 0.0)
        patch.setattr(text_guards, "LIMITS", LIMITS)
        yield
