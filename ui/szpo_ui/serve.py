"""``szpo serve RUN``: the web process, and beside it the process that holds the model.

Both work on the same ledger and neither needs the other: without the controller people can still
vote and the operator's page says what is missing; without the web the run waits.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.errors import ResourceError, SzpoError, UsageError
from szpo.ledger.database import Ledger
from szpo.voting import lease
from szpo_ui.web import credentials
from szpo_ui.web.address import SiteAddress, announce, listening, site_address
from szpo_ui.web.child_process import Keeper, start

OPERATOR = "operator"
"""Name behind the link of a start; each start revokes the earlier link, not its sessions."""
OPERATOR_DAYS = 30.0
"""How long the link printed at a start works, and its sessions."""
DEMO = (
    "run.votes=80", "subspace.samples=96", "subspace.kl_samples=32", "optimizer.comparisons=4",
    "optimizer.rows=4",
)  # fmt: skip
"""What ``--demo`` changes of the preset people: a smaller set-up, shorter rounds."""
COLLEAGUES = 4
"""Simulated colleagues of the one person in ``--demo``."""


def command(arguments: Sequence[str]) -> int:
    """The entry point of `szpo.commands`."""
    chosen = _parser().parse_args(list(arguments))
    with listening(chosen.host, chosen.port, insecure=chosen.insecure) as listener:
        address = site_address(listener, chosen.host, chosen.url, chosen.name or ())
        return _serve(chosen, listener, address)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="szpo serve",
        description="Serve a run to its panel: the voting page, the operator's page, the JSON "
        "API, and beside them the process that holds the model.",
    )
    parser.add_argument("run", nargs="?", help="name or file of a run, or a settings file")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--preset", help="begin a run from a preset, such as people")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on; 0: a free one")
    parser.add_argument(
        "--url", help="https://… under which a TLS proxy in front of this shows the site"
    )
    parser.add_argument(
        "--name", action="append", metavar="HOST", help="another name browsers may ask for"
    )
    parser.add_argument(
        "--insecure", action="store_true", help="listen on a network without TLS all the same"
    )
    parser.add_argument(
        "--no-controller", action="store_true", help="the web alone; the model runs elsewhere"
    )
    parser.add_argument(
        "--at-once",
        action="store_true",
        help="open a new run's first round without an operator's start",
    )
    parser.add_argument(
        "--demo", action="store_true", help="try it: one person, simulated colleagues, SmolLM2"
    )
    parser.add_argument(
        "--pace", type=float, default=6.0, help="seconds a colleague in --demo reads (default: 6)"
    )
    parser.add_argument("--no-browser", action="store_true", help="open no browser in --demo")
    return parser


# ---- the run and its processes ----


def _serve(chosen: argparse.Namespace, listener: socket.socket, address: SiteAddress) -> int:
    path, config = _target(chosen)
    child = None
    if config is not None:
        child = _begin(chosen, path)
    with contextlib.ExitStack() as stack:
        # Imported late: gradio alone takes three seconds, which refusals above do not need.
        from szpo_ui import app
        from szpo_ui.web.server import answer
        from szpo_ui.web.site import open_site

        try:
            if child is not None:
                _wait_for(path, child)
            site = open_site(path, secure=address.secure)
        except BaseException:
            if child is not None:
                child.terminate()
            raise
        stack.callback(site.ledger.close)
        keepers = _keepers(chosen, path, child, site.ledger)
        for keeper in keepers:
            stack.callback(keeper.close)
        application = app.create(site, address.names, url=address.url if chosen.url else "")
        for keeper in keepers:
            keeper.run()
        stack.enter_context(announce(path, address.url))
        _print_links(chosen, site.ledger, address)
        answer(application, listener, proxied=chosen.url is not None)
    return 0


def _target(chosen: argparse.Namespace) -> tuple[Path, Config | None]:
    """The run's file, and the settings of a run that has yet to be made.

    Raises:
        UsageError: nothing, or two things at once, were named.
    """
    from szpo.cli import run_paths
    from szpo.runs import assemble

    sets = [*chosen.set, f"run.folder={chosen.folder}"]
    if chosen.demo:
        if chosen.run or chosen.preset:
            raise UsageError("--demo makes its own run; leave the run and --preset away")
        chosen.preset, chosen.set = "people", [*DEMO, _free_name(chosen), *chosen.set]
        config = settings_file.load(
            preset_name="people", sets=[*chosen.set, f"run.folder={chosen.folder}"]
        )
        return assemble.new_path(config), config
    is_file = bool(chosen.run) and chosen.run.endswith(".toml")
    if is_file or chosen.preset or chosen.set:
        if chosen.run and not is_file:
            raise UsageError(f"run {chosen.run} keeps its settings; leave --preset and --set away")
        file = Path(chosen.run) if is_file else None
        config = settings_file.load(file, preset_name=chosen.preset, sets=sets)
        return assemble.new_path(config), config
    return run_paths.find(chosen.run, chosen.folder), None


def _free_name(chosen: argparse.Namespace) -> str:
    """A name for one more demo in a folder that may hold earlier ones."""
    taken = {path.stem for path in chosen.folder.glob("serve-demo-*.db")}
    number = next(i for i in range(1, len(taken) + 2) if f"serve-demo-{i}" not in taken)
    return f"run.name=serve-demo-{number}"


def _begin(chosen: argparse.Namespace, path: Path) -> subprocess.Popen[Any]:
    """Start the process that sets the run up and then drives it; this one loads no model."""
    words = [chosen.run] if chosen.run else []
    words += ["--preset", chosen.preset] if chosen.preset else []
    for each in [*chosen.set, f"run.folder={path.parent}"]:
        words += ["--set", each]
    _say(f"setting up {path.stem}")
    held = [] if chosen.at_once or chosen.demo else ["--hold"]
    return start([*_szpo(), "run", *words, "--stay", *held])


def _wait_for(path: Path, child: subprocess.Popen[Any], pause: float = 0.2) -> None:
    """Wait until the child has written the run's file.

    Raises:
        SzpoError: the child ended before; it has printed the reason.
    """
    while not path.exists():
        if child.poll() is not None:
            failure: type[SzpoError] = UsageError if child.returncode == 2 else ResourceError
            raise failure(f"the run could not be set up (exit code {child.returncode}); see above")
        time.sleep(pause)


def _keepers(
    chosen: argparse.Namespace, path: Path, child: subprocess.Popen[Any] | None, ledger: Ledger
) -> list[Keeper]:
    keepers = []
    if not chosen.no_controller:
        words = [*_szpo(), "run", "--resume", str(path), "--stay"]
        keepers.append(
            Keeper("controller", words, say=_say, on_end=make_end_recorder(ledger), first=child)
        )
    if chosen.demo:
        words = [
            *_szpo(), "simulate", str(path), "--panel", "bt70", "--reward", "sentiment",
            "--beta", "10", "--size", str(COLLEAGUES), "--pace", str(chosen.pace), "--leave", "1",
        ]  # fmt: skip
        keepers.append(Keeper("colleagues", words, say=_say))
    return keepers


def make_end_recorder(ledger: Ledger) -> Callable[[int, float], None]:
    """Make the callback that records the controller's end for the operator's page."""

    def on_end(code: int, wait: float) -> None:
        with contextlib.suppress(SzpoError):  # a full disk: the terminal has the line
            ledger.record_event("controller ended", "serve", {"code": code, "again_in_s": wait})

    return on_end


def _szpo() -> list[str]:
    return [sys.executable, "-m", "szpo"]


def _print_links(chosen: argparse.Namespace, ledger: Ledger, address: SiteAddress) -> None:
    """Print the links of this start; in the demo, open the panelist's."""
    made = credentials.invite(ledger, "operator", OPERATOR, days=OPERATOR_DAYS)
    _say(f"run {ledger.path.stem} at {address.url}; press Ctrl-C to end it")
    _say(f"operator's link (once): {link(address.url, made.token)}")
    if chosen.demo:
        person = credentials.invite(ledger, "panelist", days=OPERATOR_DAYS)
        mine = link(address.url, person.token)
        _say(f"your link as a panelist: {mine}")
        if not chosen.no_browser:
            webbrowser.open(mine)
    else:
        if lease.controller(ledger)["paused_by"] is not None:
            _say("the run is paused; the operator's page starts it")
        _say(f"invite panelists with: szpo invite {ledger.path} --count 3")


def link(url: str, token: str) -> str:
    """An invitation's link: the token stands behind #, which browsers do not send.

    >>> link("https://panel.example", "abc")
    'https://panel.example/login#t=abc'
    """
    return f"{url}/login#t={token}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
