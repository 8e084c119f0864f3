"""A run with fixed texts, the web server over it, and a browser: fixtures for tests of pages.

A test module gets them by ``pytest_plugins = ["tests.support.browser"]``: ``staged`` (makes runs
without a server), ``stage`` (run, server, clock), ``chromium`` (one browser), ``panelist`` and
``operator`` (they make logged-in browser contexts).
`violations` checks a page with axe, offline. (PYTEST_DONT_REWRITE: test modules import this module
before pytest does.)
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from szpo.config import settings_file
from szpo.config.optimizer import make_settings, record_settings
from szpo.ledger.creation import NewRun
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.optim.settings import Settings
from szpo.runs import services
from szpo.types import Answer, Assignment, Batch, Prompt, Shift
from szpo.voting.applied_step import Outcome
from szpo.voting.casting import Receipt
from szpo.voting.panel_evaluator import LedgerEvaluator
from szpo_ui import credentials, login
from szpo_ui.credentials import Role
from szpo_ui.http_server import configure
from szpo_ui.site import Site, of_ledger
from tests.support.quadratic import LAYOUT, QuadraticPolicy, go

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PLUS, MINUS = "amber", "cobalt"
"""Words only in answers of θ + μv, and only in those of θ − μv, unless a test gives texts."""

Text = Callable[[int, int, str], str | Answer]
"""(step, number of the row within the step, "plus" or "minus") → the policy's answer."""


def awaited(asked: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine in a new thread, since Playwright has an event loop in the tests' thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, asked).result()


def plain_text(step: int, i: int, side: str) -> str:
    """Two sentences that differ in one word."""
    word = PLUS if side == "plus" else MINUS
    return f"Answer {i} of round {step + 1} is {word}. It has a second sentence."


class FixedTexts(QuadraticPolicy):
    """A policy whose weights follow the votes and whose answers are given by a test."""

    def __init__(self, settings: Settings, text: Text):
        super().__init__(settings)
        self.text = text

    def rollout(
        self, prompts: Sequence[Sequence[Prompt]], shifts: Sequence[Shift], *, seed: int
    ) -> list[Batch]:
        return [
            tuple(self._answer(shift, i) for i in range(len(asked)))
            for asked, shift in zip(prompts, shifts, strict=True)
        ]

    def _answer(self, shift: Shift, i: int) -> Answer:
        made = self.text(shift.step, i, "plus" if shift.sign == 1 else "minus")
        return made if isinstance(made, Answer) else Answer(made, tokens=len(made.split()))


class MovableClock:
    """The wall clock plus an offset that a test sets; strictly increasing."""

    def __init__(self) -> None:
        self.ahead_us = self._last = 0

    def __call__(self) -> int:
        self._last = max(self._last + 1, time.time_ns() // 1000 + self.ahead_us)
        return self._last

    def forward(self, seconds: float) -> None:
        """Put the clock forward."""
        self.ahead_us += round(seconds * 1e6)


class StillClock(MovableClock):
    """A clock that only a test moves."""

    def __call__(self) -> int:
        self._last += 1
        return 1_800_000_000_000_000 + self.ahead_us + self._last


class _Waits(Exception):  # noqa: N818  (no error: it ends a drive)
    """Raised when the controller would wait for people."""


@dataclass(eq=False)
class Stage:
    """One run on one server: tests vote through the pages and drive the controller by hand."""

    ledger: Ledger
    site: Site
    policy: FixedTexts
    clock: MovableClock
    url: str = ""
    lag: int = 0
    _people: dict[tuple[str, str], credentials.Invitation] = field(default_factory=dict)

    def advance(self, until_step: int = 1000, **watched: Any) -> Outcome | None:
        """Drive the real controller until it would wait for people (None) or the run ends.

        The first call opens round 1; a call after the votes closes and applies the round and opens
        the next. ``watched``: deadline, bands and measure of KL, all optional.
        """

        def wait() -> None:
            raise _Waits

        settings = recorded_settings(self.ledger)
        asked = [Prompt.user(f"Question {i}?") for i in range(64)]
        try:
            return go(
                settings, self.ledger, self.policy, LedgerEvaluator(self.site.service),
                prompts=services.prompt_order(asked, settings), until_step=until_step,
                lag=self.lag, wait=wait, **watched,
            )  # fmt: skip
        except _Waits:
            return None

    def invitation(self, role: Role, name: str) -> credentials.Invitation:
        """The invitation of this name, created at the first call."""
        if (role, name) not in self._people:
            self._people[role, name] = credentials.invite(self.ledger, role, name)
        return self._people[role, name]

    def panelist(self, name: str) -> str:
        """The id of the panelist invited by this name."""
        return self.invitation("panelist", name).panelist or ""

    def cookie(self, role: Role, name: str) -> dict[str, str]:
        """The cookie of a new session for this name, for an HTTP client."""
        invitation = self.invitation(role, name)
        session, _ = credentials.login(self.ledger, invitation.name, invitation.code)
        return {login.cookie_name(self.site): session}

    def client(self, role: Role, name: str) -> httpx.Client:
        """An HTTP client with a new session for this name; it does not follow redirects."""
        return httpx.Client(base_url=self.url, cookies=self.cookie(role, name), timeout=30)


def make(
    path: Path,
    *,
    text: Text = plain_text,
    sets: Sequence[str] = (),
    seed: int = 5,
    lag: int = 0,
    clock: MovableClock | None = None,
    secure: bool = False,
) -> Stage:
    """A stage without a server: N = 2 comparisons of D = 3 rows, M = 2 votes, for people."""
    clock = clock or MovableClock()
    config = settings_file.load(
        preset_name="people",
        sets=[
            "model.name=fixed", "optimizer.rule=known", "optimizer.K=1",
            "optimizer.N=2", "optimizer.D=3", "optimizer.M=2",
            "run.votes=400", "subspace.kind=full", f"run.seed={seed}",
            *sets,
        ],
    )  # fmt: skip
    chosen = config.optimizer
    settings = make_settings(
        seed, LAYOUT, rule="known", mu=0.3, N=chosen.N, D=chosen.D, M=chosen.M,
        kl_step=chosen.kl_step,
    )  # fmt: skip
    spec = {
        "config": config.model_dump(mode="json"),
        "optimizer": record_settings(settings),
        "panel": None,
        "prompts": {"train": 64, "heldout": 0, "sha256": "0" * 64},
        "base": {"name": "fixed"},
    }
    ledger = Ledger.create(path, NewRun(spec, root_seed=seed, layout=LAYOUT), clock=clock)
    policy = FixedTexts(settings, text)
    return Stage(ledger, of_ledger(ledger, secure=secure), policy, clock, lag=lag)


def cast(
    stage: Stage, name: str, answer: str = "plus", *, seat: Assignment | None = None, **more: Any
) -> Receipt:
    """Cast a vote ("plus", "minus", "tie" or "skip") at this seat, or at the panelist's next one
    in the open round."""
    seat = seat or stage.site.service.assign(stage.panelist(name))
    assert seat is not None
    other = {"A": "B", "B": "A"}[seat.plus_side]
    choice: Any = {"plus": seat.plus_side, "minus": other}.get(answer, answer)
    idem = f"{seat.id}-{answer}"
    return stage.site.service.cast(seat.id, choice, idem, dwell_ms=20_000, **more)


def play(stage: Stage, rounds: int, until_step: int = 1000) -> None:
    """Play ``rounds`` rounds of two comparisons with votes of Ada and Bob; open the next one."""
    stage.advance()
    for _ in range(rounds):
        for name in ("Ada", "Ada", "Bob", "Bob"):
            cast(stage, name)
        stage.advance(until_step)


CALL = "/panel/gradio_api/component_server"
OPERATE = "/operate/gradio_api/component_server"
"""Routes by which the panelist's and the operator's page call Python functions."""


def panel_call(client: Any, name: str, **data: object) -> dict[str, Any]:
    """Send a call as the panelist's page does; the client has a panelist's session."""
    return page_call(client, "/panel", name, {"tab": "tab-0001", **data})


def page_call(client: Any, place: str, name: str, data: object) -> dict[str, Any]:
    """Call a Python function as a Gradio page does."""
    parts = client.get(f"{place}/config").json()["components"]
    number = next(each["id"] for each in parts if "server_fns" in each["props"])
    return {"component_id": number, "fn_name": name, "data": data, "session_hash": "x"}


@contextmanager
def serve(
    application: Any, at: socket.socket | int = 0, *, proxied: bool = False
) -> Iterator[str]:
    """Serve an application in a thread, ``at`` a listener or a port (0: a free one); yields its
    address."""
    listener = socket.create_server(("127.0.0.1", at)) if isinstance(at, int) else at.dup()
    port = listener.getsockname()[1]
    server = uvicorn.Server(configure(application, proxied=proxied))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            pytest.fail("the web server did not start")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()


@contextmanager
def served_run(path: Path, pages: Sequence[Role] | None = None, **options: Any) -> Iterator[Stage]:
    """A run from `make` under a server with these pages; None: all pages."""
    from szpo_ui import app  # imports Gradio, which takes seconds

    made = make(path, **options)
    application = app.create(made.site, pages=tuple(app.PAGES) if pages is None else pages)
    with made.ledger, serve(application) as made.url:
        yield made


@pytest.fixture
def staged(tmp_path):
    """staged("NAME", begun=True, …) → a run from `make`, with round 1 open if begun."""
    with ExitStack() as ends:

        def new(name: str = "run", *, begun: bool = True, **options: Any) -> Stage:
            made = make(tmp_path / f"{name}.db", **options)
            ends.callback(made.ledger.close)
            if begun:
                made.advance()
            return made

        yield new


@pytest.fixture
def stage(tmp_path, request):
    """A run under a server; ``@pytest.mark.parametrize("stage", [{…}], indirect=True)`` passes
    keywords to `make`. A module with ``PAGES = ()`` gets only the login and the API, in a tenth
    of the time."""
    pages = getattr(request.module, "PAGES", None)
    with served_run(tmp_path / "run.db", pages, **getattr(request, "param", {})) as made:
        yield made


@pytest.fixture(scope="module")
def chromium():
    """One headless browser for the tests of a file; while it is open, an event loop runs."""
    from playwright.sync_api import sync_playwright

    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM} is missing; install it with: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield browser
        browser.close()


def context(browser: Any, stage: Stage, role: Role, name: str, **options: Any) -> Any:
    """A browser context with a session of this name; ``context.new_page()`` opens a page."""
    made = browser.new_context(base_url=stage.url, **options)
    made.set_default_timeout(15_000)
    made.add_cookies(
        [
            {"name": key, "value": value, "url": stage.url, "httpOnly": True, "sameSite": "Strict"}
            for key, value in stage.cookie(role, name).items()
        ]
    )
    return made


@pytest.fixture
def panelist(chromium, stage):
    """panelist("P-01", color_scheme="dark", …) → a logged-in browser context."""
    yield from _contexts(chromium, stage, "panelist", "P-01")


@pytest.fixture
def operator(chromium, stage):
    """operator("Olga", …) → a logged-in browser context."""
    yield from _contexts(chromium, stage, "operator", "Olga")


def _contexts(browser: Any, stage: Stage, role: Role, first: str) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def new(name: str = first, **options: Any) -> Any:
        made.append(context(browser, stage, role, name, **options))
        return made[-1]

    yield new
    for each in made:
        each.close()


NARROW, ZOOMED, CLOSE = (320, 568, 1), (640, 400, 2), (320, 256, 4)
"""Windows as (width and height in CSS pixels, device pixels per CSS pixel): a small phone,
1280 × 800 at 200 %, and 1280 × 1024 at 400 %."""


@contextmanager
def window(page: Any, width: int, height: int, scale: int) -> Iterator[None]:
    """Show the page in a window of this size inside the block.

    A browser's zoom to 200 % means half the CSS pixels with twice the device pixels each: the page
    gets a new layout. ``Emulation.setPageScaleFactor`` would only magnify the old layout, as
    pinching does, and could not show a layout that breaks.
    """
    wire = page.context.new_cdp_session(page)
    metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
    wire.send("Emulation.setDeviceMetricsOverride", metrics)
    there = "([w, s]) => innerWidth === w && devicePixelRatio === s"
    page.wait_for_function(there, arg=[width, scale])
    try:
        yield
    finally:
        wire.send("Emulation.clearDeviceMetricsOverride")
        wire.detach()


def misfits(page: Any, width: int, height: int, scale: int, *, root: str, bar: str) -> list[str]:
    """Faults of a page in this window: it scrolls sideways, a sticky ``bar`` hides more than 35 %
    of the height, a button in ``root`` is lower than 44 CSS pixels or extends beyond the window,
    its text extends beyond the button, or a label of a picture is lower than 11 CSS pixels."""
    with window(page, width, height, scale):
        wide = page.evaluate("document.documentElement.scrollWidth")
        found = [f"scrolls sideways: {wide} of {width}"] if wide > width else []
        for node in page.locator(f"{bar}:visible").all():
            kind = node.evaluate("n => getComputedStyle(n).position")
            high = node.bounding_box()["height"]
            if kind in ("sticky", "fixed") and high >= 0.35 * height:
                found.append(f"{bar} takes {high:.0f} of {height}")
        named = page.evaluate(
            """root => {
              const all = what => [...document.querySelectorAll(`${root} ${what}`)].filter(
                n => n.checkVisibility()).map(n => [n, n.getBoundingClientRect()]);
              const buttons = all("button"), text = found => found.map(([n]) => n.textContent);
              return {
                "low button": text(buttons.filter(([, r]) => r.width > 0 && r.height < 43.5)),
                cut: text(buttons.filter(([n, r]) => r.width > 1
                  && (n.scrollWidth > n.clientWidth + 1 || r.right > innerWidth + 1))),
                small: text(all("svg text").filter(([n, r]) => n.textContent && r.height < 11)),
              };
            }""",
            root,
        )
        return found + [f"{kind}: {text}" for kind, texts in named.items() for text in texts]


COLOUR_RULES = ("color-contrast", "link-in-text-block")
"""Rules of axe-core that depend on colours."""
SCHEMES: tuple[tuple[str, Sequence[str] | None], ...] = (("light", None), ("dark", COLOUR_RULES))
"""Colour schemes with the rules to check in each (None: all); dark differs only in colours."""


def violations(
    page: Any,
    include: Sequence[str] = ("serious", "critical"),
    within: str | None = None,
    *,
    rules: Sequence[str] | None = None,
) -> list[str]:
    """axe-core's findings on a page, or ``within`` a part of it, one line each; offline.

    ``rules``: check only these; None: all.
    """
    from axe_playwright_python.base import AXE_SCRIPT

    if not page.evaluate("!!window.axe"):  # once a document: it takes longer than many checks
        page.evaluate(AXE_SCRIPT)
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules is not None:
        options["runOnly"] = {"type": "rule", "values": list(rules)}
    found = page.evaluate(
        "([part, how]) => axe.run(part ?? document, how).then(found => found.violations)",
        [within, options],
    )
    return [
        f"{v['id']} ({v['impact']}): {v['help']}; at {v['nodes'][0]['html'][:200]}"
        for v in found
        if v["impact"] in include
    ]


def in_both_colours(page: Any, *include: str, within: str | None = None) -> list[tuple[str, str]]:
    """`violations` of a page, or a part of it, in the light and dark schemes."""
    found, impacts = [], include or ("serious", "critical")
    for scheme, rules in SCHEMES:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found += [(scheme, each) for each in violations(page, impacts, within, rules=rules)]
    return found
