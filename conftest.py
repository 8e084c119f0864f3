"""What every test starts from."""

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator

import hypothesis
import pytest

# Started in the background by a script, a process ignores the keyboard's interrupt, and so do its
# children: tests that interrupt a run would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more of the machine's other work than of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="module", autouse=True)
def imported_once() -> Iterator[None]:
    """Take what is imported for good out of the garbage collector's sight after each module.

    Each full collection would walk through all of torch and Gradio: a third of the suite's time.
    """
    yield
    gc.collect()
    gc.freeze()


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: servers, browsers and killed processes are waited for."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files of few tests first: the long tests are there, and none is left for the end."""
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: tests[item.path])
