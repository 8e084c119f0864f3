"""Runs mounted below their names, each opened at its first request.

A run is the same application as under ``szpo serve RUN``, with its own sessions. Building its
pages takes about a second, so a thread builds them, one run at a time.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from szpo.errors import SzpoError
from szpo_ui.web.address import run_prefix
from szpo_ui.web.site import Site, open_site

LOG: Final = logging.getLogger("szpo.folder")
TROUBLE: Final = "szpo.trouble"
"""Key in a request's scope of the reason why a run cannot be opened."""


class MountedRuns:
    """ASGI application of everything below /r/NAME/; the path parameter ``name`` names the run."""

    def __init__(
        self, folder: Path, otherwise: ASGIApp, *, secure: bool, make: Callable[[Site], FastAPI]
    ):
        """``make`` makes a run's application; ``otherwise`` answers if there is no such run."""
        self._folder, self._secure, self._make = folder, secure, make
        self._otherwise: Final = otherwise
        self._open: dict[str, _Mounted] = {}
        self._building: Final = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request to the run's application; open the run first if need be."""
        name = scope["path_params"]["name"]
        found = self._open.get(name)
        if found is None:
            try:
                found = await self._find(name)
            except SzpoError as error:
                scope[TROUBLE] = str(error)
            except Exception as error:  # content that no version of szpo writes
                LOG.warning("%s cannot be opened", name, exc_info=error)
                why = f"cannot be opened ({type(error).__name__}); see: szpo verify"
                scope[TROUBLE] = f"{name} {why}"
        if found is None:
            # The other application gets the whole path, as if nothing were mounted.
            await self._otherwise({**scope, "root_path": ""}, receive, send)
        else:
            await found.app(scope, receive, send)

    async def _find(self, name: str) -> _Mounted | None:
        path = self._folder / f"{name}.db"
        if path.parent != self._folder or not await asyncio.to_thread(path.is_file):
            return None
        async with self._building:  # one page at a time, since Gradio has a global context
            if name in self._open:
                return self._open[name]
            made = await asyncio.to_thread(self._build, path)
            await made.begin()
            self._open[name] = made
            return made

    def _build(self, path: Path) -> _Mounted:
        site = open_site(path, secure=self._secure, prefix=run_prefix(path.stem))
        try:
            made = self._make(site)
        except BaseException:
            site.ledger.close()
            raise
        gc.freeze()  # as at the server's start, so collections skip Gradio's many objects
        return _Mounted(made, site)

    async def close(self) -> None:
        """Finish the opened runs' pending writes, and close their files."""
        for each in self._open.values():
            await each.end()
        self._open.clear()


class _Mounted:
    """The application of one run, with a task that holds its lifespan context.

    The same task must enter and leave that context, and the first request ends too early for it.
    """

    def __init__(self, app: FastAPI, site: Site):
        self.app: Final = app
        self._site: Final = site
        self._ending: Final = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(begun))
        await begun

    async def _live(self, begun: asyncio.Future[None]) -> None:
        try:
            async with self.app.router.lifespan_context(self.app):
                begun.set_result(None)
                await self._ending.wait()
        except BaseException as error:
            if begun.done():
                raise
            begun.set_exception(error)
        finally:
            self._site.ledger.close()

    async def end(self) -> None:
        self._ending.set()
        if self._task is not None:
            await self._task
