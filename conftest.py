"""Settings of all tests: tiers, numbers of examples, order of files.

Each test is in one tier, by a marker set here. ``quick`` is the first gate (`make test`, and plain
``pytest``); ``check`` is run by `make check`; ``full`` is everything else that continuous
integration runs; ``slow`` and ``gpu`` are marked by hand. Tests that start a browser or a process
are full, and so are some whole folders; a test of more than a fifth of a second is marked ``full``
by hand. ``spine`` keeps such a test in the first gate: the few paths through all layers.
"""

import collections
import gc
import inspect
import os
import re
import signal
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from szpo import cache
from szpo.ledger import connection

# A process that a script starts in the background ignores SIGINT, and so do its children: tests
# that interrupt a run would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The time of an example depends more on the machine's load than on the code.
hypothesis.settings.register_profile("few", deadline=None, max_examples=20)
hypothesis.settings.register_profile("full", deadline=None, max_examples=50)
hypothesis.settings.register_profile("many", deadline=None, max_examples=400)

collect_ignore = ["tests/load"]  # Locust runs it, in an environment that has Locust
TIERS = ("quick", "full", "slow", "gpu")
FULL_FOLDERS = {"baselines", "cluster"}
"""Folders of tests/ whose tests train models or start nodes."""
CHECK = "check"
"""The folder of tests/ that `make check` runs."""
FULL_FIXTURES = {"chromium"}
FULL_MODULES = {
    "multiprocessing",
    "subprocess",
    "tests.support.children",
    "tests.support.ray_nodes",
}
"""Modules that start processes."""
FIRST = {"test_improve.py", "test_nodes.py", "test_ray_engine.py", "test_panel_browser.py"}
"""Files whose tests take minutes together: a process that began one last would end alone."""
WHOLE_FILE = re.compile(r"^pytestmark = pytest\.mark\.(full|slow|gpu)\b", re.MULTILINE)


def pytest_configure(config: pytest.Config) -> None:
    """Use a new cache; without ``-m`` run the first gate, or named files without slow and gpu."""
    gc.disable()  # a fifth of the time of importing; collection ends with `gc.enable`
    if not hasattr(config, "workerinput"):
        _begin_cache(config)
    if os.environ.get("SZPO_TEST_DTYPE") == "fp32":  # as on a processor without products in bf16
        import torch

        torch.cpu._is_avx512_bf16_supported = lambda: False  # type: ignore[attr-defined]
    if not config.option.markexpr:
        named = any(".py" in argument for argument in config.args)
        config.option.markexpr = "not slow and not gpu" if named else "quick"
    if not config.getoption("--hypothesis-profile"):
        gate = config.option.markexpr == "quick"
        hypothesis.settings.load_profile("few" if gate else "full")


def _begin_cache(config: pytest.Config) -> None:
    """Use an empty cache, as on a new machine; only the converted model is linked into it.

    Its name holds all that it depends on.
    """
    folder = tempfile.TemporaryDirectory(prefix="szpo-cache-")
    config.add_cleanup(folder.cleanup)
    for model in cache.cache_dir().glob("smollm2-*"):
        Path(folder.name, model.name).symlink_to(model)
    os.environ["SZPO_CACHE"] = folder.name


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores, since tests wait for servers, browsers and killed processes."""
    return (os.cpu_count() or 1) + 1


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip files and folders without tests of the first gate, since imports take seconds."""
    if config.option.markexpr != "quick":
        return None
    if collection_path.is_dir():
        return collection_path.name in {CHECK, *FULL_FOLDERS} or None
    text = collection_path.read_text(encoding="utf-8") if collection_path.suffix == ".py" else ""
    return bool(WHOLE_FILE.search(text)) or None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the marker of its tier, and put `FIRST` first, then files with few tests.

    These have the long tests, which should not start last.
    """
    seen: dict[types.CodeType, bool] = {}
    tests = collections.Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.name not in FIRST, tests[item.path]))
    for item in items:
        by_hand = [mark.name for mark in item.iter_markers() if mark.name in (*TIERS, "spine")]
        if "slow" in by_hand or "gpu" in by_hand:
            continue
        if item.path.parent.name == CHECK:
            item.add_marker(CHECK)
        elif "spine" in by_hand:
            item.add_marker("quick")
        elif "full" not in by_hand:
            item.add_marker("full" if _is_full(item, seen) else "quick")


def _is_full(item: pytest.Item, seen: dict[types.CodeType, bool]) -> bool:
    """Whether a test is a doctest, is in `FULL_FOLDERS`, or starts a browser or a process."""
    if not isinstance(item, pytest.Function) or FULL_FOLDERS & set(item.path.parts):
        return True
    fixtures = item._fixtureinfo.name2fixturedefs
    functions = [item.function, *(each.func for defs in fixtures.values() for each in defs)]
    return bool(FULL_FIXTURES & fixtures.keys()) or any(_starts(f, seen) for f in functions)


def _starts(function: Callable[..., object], seen: dict[types.CodeType, bool]) -> bool:
    """Whether a test function, or a function that it names, names a module of `FULL_MODULES`."""
    function = inspect.unwrap(function)  # from contextmanager or hypothesis
    code = getattr(function, "__code__", None)
    if code is None or code in seen:
        return code is not None and seen[code]
    seen[code] = False
    named = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            named |= set(constant.co_names)
    found = [function.__globals__.get(name) for name in named]
    support = [
        each
        for each in found
        if isinstance(each, types.ModuleType) and each.__name__.startswith("tests.")
    ]
    found += [getattr(module, name, None) for module in support for name in named]
    seen[code] = bool(named & FULL_MODULES) or any(
        (each.__name__ if isinstance(each, types.ModuleType) else getattr(each, "__module__", ""))
        in FULL_MODULES
        or (
            isinstance(each, types.FunctionType)
            and "tests" in each.__module__.split(".")
            and _starts(each, seen)
        )
        for each in found
    )
    return seen[code]


def pytest_collection_finish() -> None:
    """Collect garbage again, but exempt what was imported."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def imported_once() -> Iterator[None]:
    """Exempt imported objects from garbage collection after each module.

    Otherwise each full collection visits all of torch and Gradio: a third of the suite's time.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def syncing() -> Iterator[tuple[str, ...]]:
    """Ledgers of this process do not wait for the disk; yields the pragmas that szpo sets."""
    pragmas = connection._PRAGMAS
    connection._PRAGMAS = tuple(p.replace("synchronous=FULL", "synchronous=OFF") for p in pragmas)
    yield pragmas
    connection._PRAGMAS = pragmas
