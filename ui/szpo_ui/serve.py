"""``szpo serve RUN``: the web process, and the controller process that holds the model.

Both work on the same ledger, and neither needs the other. Without the controller, people can still
vote, and the operator's page says that it is missing. Without the web process, the run waits.

Loading Gradio takes seconds, and setting up a new run takes minutes. Meanwhile a small application
answers at the address: it shows the progress, then reloads to the run's own pages.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from szpo.cli import console
from szpo.cli.child_process import (
    SZPO,
    Keeper,
    beginner,
    controller,
    failed,
    record_end,
    start,
)
from szpo.errors import UsageError
from szpo.files import quoted
from szpo.runs import setup_progress
from szpo_ui.http_server import (
    OPERATOR,
    OPERATOR_DAYS,
    SiteAddress,
    announce,
    configure,
    link,
    listening,
    say,
    site_address,
)
from szpo_ui.markup import STATIC, entrance
from szpo_ui.request_rules import OwnSiteOnly, refuse

if TYPE_CHECKING:
    from szpo.config.schema import Config
    from szpo.ledger.database import Ledger


DEMO_SETS = ("run.votes=80", "model.name=smollm2", "optimizer.K=4")
"""Changes of ``--demo`` to the preset people: SmolLM2 as the model, shorter rounds."""
COLLEAGUES = 4
"""Simulated colleagues of the one person in ``--demo``."""
command = typer.Typer(add_completion=False)
"""The entry point of `szpo.commands`."""
FILES: Final = {
    "/static/setup.js": "text/javascript",
    "/static/entrance.js": "text/javascript",
    "/static/setup.css": "text/css",
    "/static/login.css": "text/css",
    "/static/icon.svg": "image/svg+xml",
}
"""The page's files, with their media types."""
PANELISTS: Final = ("/login", "/panel", "/join")
"""Prefixes of panelists' paths, whose page shows no stages."""
_BUSY: Final = "this run is being set up; try again in a moment"


@dataclass(frozen=True)
class ServeOptions:
    """Options of the command line."""

    run: str | None = None
    """Name or file of a run, or a settings file; None: the newest run."""
    folder: Path | None = None
    """Where a run is looked for or begun; None: ./runs, for a new run its run.folder."""
    preset: str | None = None
    sets: tuple[str, ...] = ()
    no_controller: bool = False
    at_once: bool = False
    demo: bool = False
    pace: float = 6.0
    """Seconds that a simulated colleague in the demo reads."""
    no_browser: bool = False
    url: str | None = None
    accept_samples: bool = False
    features: tuple[str, ...] = ()
    """The user's own features; they must be given here, since a record must not run code."""


@command.command("serve")
def serve(
    run: str | None = typer.Argument(
        None, help="Name or file of a run, or a settings file; without it, the newest run."
    ),
    folder: Path | None = typer.Option(
        None, "--folder", help="Folder of the runs; default: runs, for a new run its run.folder."
    ),
    preset: str | None = typer.Option(
        None, "--preset", help="Begin a run from a preset, such as people."
    ),
    sets: list[str] = typer.Option(
        [], "--set", help="Change one setting: section.key=value; may be repeated."
    ),
    host: str = typer.Option("127.0.0.1", "--host", help="Address to listen on."),
    port: int = typer.Option(7860, "--port", help="Port to listen on; 0: a free one."),
    url: str | None = typer.Option(
        None, "--url", help="Public https://… address, where a TLS proxy stands in front of this."
    ),
    names: list[str] = typer.Option(
        [], "--name", help="Additional host name that browsers may use; may be repeated."
    ),
    insecure: bool = typer.Option(
        False, "--insecure", help="Listen on a network without TLS anyway."
    ),
    no_controller: bool = typer.Option(
        False, "--no-controller", help="Serve the web pages alone; the model runs elsewhere."
    ),
    at_once: bool = typer.Option(
        False, "--at-once", help="Open a new run's first round without waiting for the operator."
    ),
    accept_samples: bool = typer.Option(
        False, "--accept-samples", help="Open the run even if its sample answers are poor."
    ),
    features: list[str] = typer.Option(
        [],
        "--feature",
        help="A feature that is code of yours, given again; see szpo run.",
    ),
    trust: list[str] = typer.Option(
        [], "--trust", help="An address on the run's record that may be called; see szpo run."
    ),
    demo: bool = typer.Option(
        False, "--demo", help="Try it: vote beside simulated colleagues on SmolLM2's answers."
    ),
    pace: float = typer.Option(
        6.0, "--pace", help="With --demo: seconds in which a colleague reads a pair."
    ),
    no_browser: bool = typer.Option(False, "--no-browser", help="With --demo: open no browser."),
) -> int:
    """Let people vote in browsers: voting page, operator's page, model.

    This process serves the pages and the JSON API; the model runs in a second one.
    """
    options = ServeOptions(
        run, folder, preset, tuple(sets), no_controller, at_once, demo, pace, no_browser, url,
        accept_samples, tuple(features),
    )  # fmt: skip
    if not 0 < pace <= 3600:  # as szpo simulate, which gets it
        raise UsageError(f"--pace {pace:g}: give seconds above 0, at most 3,600")
    if trust:
        from szpo.runs import known_addresses

        known_addresses.trust(trust)
    with listening(host, port, insecure=insecure) as listener:
        address = site_address(listener, host, url, names)
        return _serve(options, listener, address)


# ---- the run and its processes ----


def _serve(chosen: ServeOptions, listener: socket.socket, address: SiteAddress) -> int:
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as first_seconds:
        page = first_seconds.enter_context(answering(listener, address))
        if sys.stderr.isatty():  # otherwise a refusal must be the only line
            say(f"starting; how far it is: {address.url}")
        chosen, path, config = _find_target(chosen)
        page.run, child = path, None
        console.set_resumable(f"szpo serve {quoted(path)}", once=path)
        if config is not None:
            child = _begin(chosen, path)
            say(f"how far it is: {address.url}")
        # Imported late: gradio alone takes three seconds, and the refusals above do not need it.
        from szpo.runs import run_engine, samples
        from szpo_ui import app
        from szpo_ui.http_server import answer
        from szpo_ui.site import open_site

        try:
            if child is not None:
                _wait_for(path, child)
            site = open_site(path, secure=address.secure)
        except BaseException:
            if child is not None:
                child.terminate()
            raise
        stack.callback(site.ledger.close)
        if child is None and not chosen.no_controller and "config" in site.ledger.spec:
            run_engine.read_settings(site.ledger)
        if chosen.accept_samples:
            samples.accept_samples(site.ledger, "szpo serve --accept-samples")
        keepers = _keepers(chosen, path, child)
        for keeper in keepers:
            stack.callback(keeper.close)
        application = app.create(site, address.names, url=address.url if chosen.url else "")
        for keeper in keepers:
            keeper.run()
        stack.enter_context(announce(path, address.url))
        first_seconds.close()
        _print_links(chosen, site.ledger, address)
        answer(application, listener, proxied=chosen.url is not None)
    return 0


def _find_target(chosen: ServeOptions) -> tuple[ServeOptions, Path, Config | None]:
    """The options with all settings, the run's file, and the settings if the run is new."""
    from szpo.cli import run_paths

    if chosen.demo:
        if chosen.run or chosen.preset:
            raise UsageError("--demo makes its own run; leave out the run and --preset")
        folder = run_paths.folder_of(chosen.folder, None, "people", chosen.sets)
        own = (*DEMO_SETS, _free_name(folder), *chosen.sets)
        chosen = replace(chosen, preset="people", sets=own)
    path, config = run_paths.find_target(chosen.run, chosen.folder, chosen.preset, chosen.sets)
    if config is not None:
        chosen = replace(chosen, features=tuple(config.features.own))
    return chosen, path, config


def _free_name(folder: Path) -> str:
    """The setting of an unused name for a demo's run."""
    taken = {path.stem for path in folder.glob("serve-demo-*.db")}
    number = next(i for i in range(1, len(taken) + 2) if f"serve-demo-{i}" not in taken)
    return f"run.name=serve-demo-{number}"


def _begin(chosen: ServeOptions, path: Path) -> subprocess.Popen[Any]:
    """Start the process that sets up the run and then drives it; the web loads no model."""
    say(f"setting up {path.stem}")
    how = ["--stay", *([] if chosen.at_once or chosen.demo else ["--hold"])]
    how += ["--accept-samples"] if chosen.accept_samples else []
    return start(beginner(chosen.run, chosen.preset, chosen.sets, path.parent, *how))


def _wait_for(path: Path, child: subprocess.Popen[Any]) -> None:
    """Wait until the child has written the run's file."""
    while not path.exists():
        if child.poll() is not None:
            code = child.returncode
            raise failed(code, f"the run could not be set up (exit code {code}); see above")
        time.sleep(0.2)


def _keepers(
    chosen: ServeOptions, path: Path, child: subprocess.Popen[Any] | None
) -> list[Keeper]:
    keepers = []
    if not chosen.no_controller:
        words = controller(path, chosen.features, "--stay")
        on_end = partial(record_end, path)
        keepers.append(Keeper("controller", words, say=say, on_end=on_end, first=child))
    if chosen.demo:
        words = [
            *SZPO, "simulate", str(path), "--panel", "bt70", "--reward", "sentiment",
            "--beta", "10", "--size", str(COLLEAGUES), "--pace", str(chosen.pace), "--leave", "1",
        ]  # fmt: skip
        keepers.append(Keeper("colleagues", words, say=say))
    return keepers


def _print_links(chosen: ServeOptions, ledger: Ledger, address: SiteAddress) -> None:
    """Print new links and the next steps; in the demo, open the panelist's link."""
    from szpo_ui import credentials

    made = credentials.invite(ledger, "operator", OPERATOR, days=OPERATOR_DAYS)
    say(f"run {ledger.path.stem} at {address.url}; press Ctrl-C to end it")
    if not chosen.demo:
        say(f"next: {_describe_first_thing(ledger)}")
        if not any(each.role == "panelist" for each in credentials.list_people(ledger)):
            say(f"then, in another terminal: szpo invite {quoted(ledger.path)} --count 3")
    say(f"operator's link (once): {link(address.url, made.token)}")
    if chosen.demo:
        person = credentials.invite(ledger, "panelist", days=OPERATOR_DAYS)
        mine = link(address.url, person.token)
        say(f"your link as a panelist: {mine}")
        if not chosen.no_browser:
            webbrowser.open(mine)


def _describe_first_thing(ledger: Ledger) -> str:
    """The operator's first step, which depends on whether the run is paused."""
    from szpo.runs import samples
    from szpo.voting import lease

    if not lease.is_paused(ledger):
        return "open the operator's link and see how the run stands"
    if not samples.awaits_start(ledger):
        return 'the run is paused; open the operator\'s link and press "Resume"'
    return 'open the operator\'s link, read the sample answers, and press "Start the run"'


class Startup:
    """What is answered during set-up; ``run`` is the file that it waits for."""

    def __init__(self, names: Sequence[str]) -> None:
        """``names`` are the Host headers to answer."""
        self.run: Path | None = None
        self._began: Final = time.monotonic()
        every = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
        self.application: Final = Starlette(
            routes=[
                Route("/setup-status", self._status),
                Route("/{path:path}", self._answer, methods=every),
            ],
            middleware=[
                Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False),
                Middleware(OwnSiteOnly, gradio=()),
            ],
        )

    def _answer(self, request: Request) -> Response:
        path = request.url.path
        if path in FILES:
            file = STATIC / path.removeprefix("/static/")
            return Response(file.read_bytes(), media_type=FILES[path])
        if request.method not in ("GET", "HEAD") or path == "/healthz" or "api/" in path:
            return refuse(503, "setup", _BUSY, retry_after=2)
        return HTMLResponse(entrance("opening" if path.startswith(PANELISTS) else "setup"))

    def _status(self, _: Request) -> Response:
        """The progress of the set-up, which the page's script polls."""
        stages = None if self.run is None else setup_progress.read(self.run)
        return JSONResponse({
            "setup": True,
            "run": None if self.run is None else self.run.stem,
            "seconds": round(time.monotonic() - self._began),
            "stages": [[each.name, each.done, each.of] for each in stages or ()],
        })  # fmt: skip


@contextmanager
def answering(listener: socket.socket, address: SiteAddress) -> Iterator[Startup]:
    """Answer at ``listener`` in a thread until the block ends; later connections wait."""
    page = Startup(address.names)
    server = uvicorn.Server(configure(page.application))
    own = listener.dup()  # uvicorn closes the socket that it gets
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [own]}, name="szpo-startup", daemon=True
    )
    thread.start()
    try:
        yield page
    finally:
        server.should_exit = True
        thread.join()
        own.close()
