"""Wait for another process or thread."""

import threading
from collections.abc import Callable
from typing import Any

LOOK_S = 0.05


def until(what: Callable[[], Any], seconds: float = 90) -> Any:
    """Call ``what`` twenty times a second until it returns a true value; returns this value."""
    for _ in range(int(seconds / LOOK_S)):
        if found := what():
            return found
        threading.Event().wait(LOOK_S)
    raise AssertionError("it never came")
