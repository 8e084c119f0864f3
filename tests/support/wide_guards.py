"""Guards that hold, for tests of what comes after them.

With a tiny model's few words, the last digits of a processor decide whether its guards hold.
"""

import contextlib
from collections.abc import Iterator

import pytest

from szpo.policies import text_guards


@contextlib.contextmanager
def wide() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_guards, "MOST_DROP", 9.0)
        patch.setattr(text_guards, "LEAST_VARIETY", 0.0)
        patch.setattr(text_guards, "LENGTH_BAND", (0.1, 10.0))
        patch.setattr(text_guards, "LEAST_TOPIC", -8.0)
        yield
