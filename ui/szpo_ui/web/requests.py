"""Strict reading of JSON requests, uniform responses to errors and pollers, and their headers."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

M = TypeVar("M", bound=BaseModel)
Tab = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Seat = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


COMMON = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_LIMITS = (
    "connect-src 'self'; img-src 'self' data:; font-src 'self' data:; manifest-src 'self'; "
    "object-src 'none'; frame-ancestors 'none'; form-action 'self'"
)
OWN_POLICY = f"default-src 'none'; script-src 'self'; style-src 'self'; base-uri 'none'; {_LIMITS}"
"""Content-Security-Policy of pages without Gradio."""
GRADIO_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    f"style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; base-uri 'self'; {_LIMITS}"
)
"""The policy of Gradio's pages, which need inline scripts, compile templates and set their base.
So only escaping keeps model text from running as code; the policy keeps data from leaving."""


class Body(BaseModel):
    """The body of a request; unknown fields are refused, values are never converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


def refuse(
    status: int, code: str, message: str, *, retry_after: float | None = None, **more: object
) -> JSONResponse:
    """An error response: {"error": code, "message": text, …}."""
    headers = None
    if retry_after is not None:
        headers = {"Retry-After": str(max(1, int(-(-retry_after // 1))))}
    return JSONResponse({"error": code, "message": message, **more}, status, headers)


class RefusedError(Exception):
    """Ends a request with ``answer``, the response that `refuse` makes of these arguments."""

    def __init__(self, status: int, code: str, message: str, **more: Any):
        super().__init__(message)
        self.answer: Final = refuse(status, code, message, **more)


async def read(model: type[M], request: Request) -> M:
    """The request's body as a model.

    Other content types are refused, since other sites' pages can send HTML forms.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().casefold()
    if kind != "application/json":
        raise RefusedError(415, "content_type", "send the body as application/json")
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        where, text = first_fault(error)
        text = text[0].lower() + text[1:]
        shown = f"{where}: {text}" if where else text
        raise RefusedError(422, "invalid", shown, field=where or None) from None


def first_fault(error: ValidationError) -> tuple[str, str]:
    """The first wrong field ("" for the whole body), and its error message."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return ".".join(str(part) for part in first["loc"]), first["msg"]


def if_changed(request: Request, tag: str, found: object) -> Response:
    """A poller's response: ``found`` as JSON, or 304 if the poller sent this tag."""
    headers = {"ETag": f'"{tag}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return JSONResponse(found, headers=headers)
