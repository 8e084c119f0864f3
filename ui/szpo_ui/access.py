"""Who is asking: sessions in cookies, the login page, invitations, the lock after wrong codes."""

from __future__ import annotations

from typing import Any

from fastapi import HTTPException
from starlette.requests import HTTPConnection
from szpo.credentials import Identity, Role

from szpo import credentials
from szpo_ui.site import Site

PLACES: dict[Role, str] = {"panelist": "/panel", "operator": "/operate"}
"""Where each role works."""


def cookie_name(secure: bool) -> str:
    """The session cookie's name; ``__Host-`` binds it to the host and needs TLS.

    >>> cookie_name(True), cookie_name(False)
    ('__Host-szpo', 'szpo')
    """
    return "__Host-szpo" if secure else "szpo"


def identity(site: Site, request: Any, role: Role | None = None) -> Identity:
    """Whose request this is, asked of the ledger anew: a revoked session ends at once.

    Takes a Starlette request or a ``gr.Request`` (None, as Gradio hands to direct calls, is
    nobody). Handlers call it although the door has asked before.

    Raises:
        HTTPException: 401 without a session, 403 with one of another role.
    """
    cookies = {} if request is None else getattr(request, "cookies", {})
    session = cookies.get(cookie_name(site.secure))
    found = credentials.identify(site.ledger, session) if session else None
    if found is None:
        raise HTTPException(401, "please log in")
    if role is not None and found.role != role:
        raise HTTPException(403, "this page is not yours")
    return found


def name_for(site: Site, role: Role) -> Any:
    """An ``auth_dependency`` of Gradio: the name of who may see this mount, else None."""

    def dependency(request: HTTPConnection) -> str | None:
        try:
            return identity(site, request, role).name
        except HTTPException:
            return None

    return dependency
