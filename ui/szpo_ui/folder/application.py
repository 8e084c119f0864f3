"""The application of a folder: home page and login at the root, each run below /r/NAME/."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, HTTPException
from fastapi.staticfiles import StaticFiles
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Mount

from szpo.errors import SzpoError
from szpo_ui import app
from szpo_ui.folder import page
from szpo_ui.folder.access import FolderDoor
from szpo_ui.folder.controllers import Controllers
from szpo_ui.folder.mounts import MountedRuns, Mounting
from szpo_ui.folder.rows import FolderReader
from szpo_ui.web import login
from szpo_ui.web.credential_rows import Role
from szpo_ui.web.mounting import STATIC, icon
from szpo_ui.web.security import AccessControl, Admission


def create(
    folder: Path,
    door: FolderDoor,
    controllers: Controllers | None,
    hosts: Sequence[str] = app.LOCAL,
    *,
    url: str = "",
    roles: Sequence[Role] = tuple(app.PAGES),
) -> Starlette:
    """Make the application over a folder; it opens no port and starts no process by itself.

    Args:
        folder: of the runs.
        door: the folder's own login.
        controllers: starts and ends the runs' processes; None where they run elsewhere.
        hosts: the Host headers that are answered.
        url: where a proxy in front shows the site, if there is one.
        roles: whose Gradio pages runs have.
    """
    sessions = login.Sessions(door)
    home = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    home.add_exception_handler(HTTPException, app.answer_http_error)
    served = page.Home(folder, door, FolderReader(folder, door.clock), controllers)
    home.add_exception_handler(SzpoError, lambda _, error: page.answer_error(served, error))
    home.add_exception_handler(Exception, app.answer_failure)
    home.mount("/static", StaticFiles(directory=str(STATIC)), name="static")
    home.add_api_route("/healthz", app.healthz)
    home.add_api_route("/favicon.ico", icon)
    home.include_router(page.router(served))
    home.include_router(login.router(door, sessions))
    home.add_middleware(AccessControl, site=door, sessions=sessions, admission=Admission(url))
    admission = Admission(url, operators=sessions)
    runs = MountedRuns(Mounting(folder, hosts, door.secure, admission, roles), home)

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
