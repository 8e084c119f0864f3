"""The application of a folder: home page and login at the root, each run below /r/NAME/.

``szpo serve FOLDER`` runs it, as one server for all runs of the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Mount

from szpo.errors import SzpoError
from szpo_ui import app
from szpo_ui.folder import access, page
from szpo_ui.folder.controllers import Controllers
from szpo_ui.folder.mounts import MountedRuns
from szpo_ui.folder.rows import FolderReader
from szpo_ui.web import credentials, login
from szpo_ui.web.address import (
    OPERATOR,
    OPERATOR_DAYS,
    SiteAddress,
    announce_folder,
    link,
    say,
)
from szpo_ui.web.credential_rows import Role
from szpo_ui.web.security import AccessControl, Admission
from szpo_ui.web.server import answer
from szpo_ui.web.site import Door


def create(
    folder: Path,
    door: Door,
    controllers: Controllers | None,
    hosts: Sequence[str] = app.LOCAL,
    *,
    url: str = "",
    roles: Sequence[Role] = tuple(app.PAGES),
) -> Starlette:
    """Make the application of a folder; this opens no port and starts no process.

    Args:
        folder: the folder of the runs.
        door: the folder's own login.
        controllers: starts and ends the runs' processes; None if they run elsewhere.
        hosts: the Host headers to answer.
        url: the site's address behind a proxy, if there is one.
        roles: the roles whose Gradio pages each run gets.
    """
    sessions = login.Sessions(door)
    home = app.without_pages()
    served = page.Home(folder, door, FolderReader(folder, door.ledger.clock), controllers)
    home.add_exception_handler(SzpoError, lambda _, error: page.answer_error(served, error))
    home.include_router(page.router(served))  # first, so that its "/" replaces the login's
    home.include_router(login.router(door, sessions))
    home.add_middleware(AccessControl, site=door, sessions=sessions, admission=Admission(url))
    admission = Admission(url, operators=sessions)
    make = partial(app.create, hosts=hosts, admission=admission, pages=roles)
    runs = MountedRuns(folder, home, secure=door.secure, make=make)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await runs.close()
            await asyncio.to_thread(sessions.close)

    return Starlette(
        routes=[Mount("/r/{name}", app=runs), Mount("/", app=home)],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
        ],
        lifespan=lifespan,
    )


def serve_folder(
    folder: Path,
    listener: socket.socket,
    address: SiteAddress,
    *,
    proxied: bool,
    models: bool,
    features: Sequence[str] = (),
) -> int:
    """Serve a folder until a signal; ``models`` allows starting runs' processes here.

    ``features`` are the user's own features, which runs may use.

    Raises:
        UsageError: the folder holds other files, but none of szpo's.
        LeaseError: another server has the folder.
        StorageError: the folder cannot be read or written.
    """
    access.check_folder(folder)
    given, folder = folder, folder.absolute()
    with contextlib.ExitStack() as stack:
        stack.enter_context(announce_folder(folder, address.url))
        ledger = stack.enter_context(contextlib.closing(access.open_ledger(folder)))
        # Imported late: gradio alone takes three seconds, and the refusals above do not need it.
        from szpo_ui.folder import application

        controllers = Controllers(folder, say, features=features) if models else None
        if controllers is not None:
            stack.callback(controllers.close)
        door = access.door(ledger, secure=address.secure)
        made = application.create(
            folder, door, controllers, address.names, url=address.url if proxied else ""
        )
        invited = credentials.invite(ledger, "operator", OPERATOR, days=OPERATOR_DAYS)
        runs = sum(1 for _ in folder.glob("*.db"))
        say(
            f"{runs or 'no'} run{'' if runs == 1 else 's'} in {folder.name} at {address.url}; "
            "press Ctrl-C to end it"
        )
        if models:
            say("next: open the operator's link; its page begins runs and starts their models")
        else:
            say("next: open the operator's link; models run elsewhere (--no-controller)")
        say(f"then, in another terminal: szpo invite RUN --folder {given} --count 3")
        say(f"operator's link (once): {link(address.url, invited.token)}")
        answer(made, listener, proxied=proxied)
    return 0
