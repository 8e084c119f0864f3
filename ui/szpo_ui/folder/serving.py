"""``szpo serve FOLDER``: one server for all runs of a folder."""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path

from szpo_ui.folder import access
from szpo_ui.folder.controllers import Controllers
from szpo_ui.web import credentials
from szpo_ui.web.address import SiteAddress, announce_folder, link
from szpo_ui.web.server import answer

OPERATOR = "operator"
OPERATOR_DAYS = 30.0
"""How long the link printed at a start works, and its sessions."""


def serve_folder(
    folder: Path, listener: socket.socket, address: SiteAddress, *, proxied: bool, models: bool
) -> int:
    """Serve until a signal; ``models`` says that runs' processes may be started here.

    Raises:
        UsageError: the folder holds other things, and nothing of szpo.
        LeaseError: another server has it.
        StorageError: it cannot be read or written.
    """
    access.check_folder(folder)
    given, folder = folder, folder.absolute()
    with contextlib.ExitStack() as stack:
        stack.enter_context(announce_folder(folder, address.url))
        ledger = stack.enter_context(contextlib.closing(access.open_ledger(folder)))
        # Imported late: gradio alone takes three seconds, which refusals above do not need.
        from szpo_ui.folder import application

        controllers = Controllers(folder, _say) if models else None
        if controllers is not None:
            stack.callback(controllers.close)
        door = access.FolderDoor(ledger, ledger.clock, address.secure)
        made = application.create(
            folder, door, controllers, address.names, url=address.url if proxied else ""
        )
        invited = credentials.invite(ledger, "operator", OPERATOR, days=OPERATOR_DAYS)
        runs = sum(1 for _ in folder.glob("*.db"))
        _say(
            f"{runs or 'no'} run{'' if runs == 1 else 's'} in {folder.name} at {address.url}; "
            "press Ctrl-C to end it"
        )
        if models:
            _say("next: open the operator's link; its page begins runs and starts their models")
        else:
            _say("next: open the operator's link; models run elsewhere (--no-controller)")
        _say(f"then, in another terminal: szpo invite RUN --folder {given} --count 3")
        _say(f"operator's link (once): {link(address.url, invited.token)}")
        answer(made, listener, proxied=proxied)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
