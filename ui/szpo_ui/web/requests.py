"""Read JSON requests strictly; make error responses of one form."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse

M = TypeVar("M", bound=BaseModel)
Tab = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Seat = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Body(BaseModel):
    """A request: unknown fields are refused, values are never converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


def refuse(
    status: int, code: str, message: str, *, retry_after: float | None = None, **more: object
) -> JSONResponse:
    """An error response: {"error": code, "message": text}, with further fields."""
    headers = None
    if retry_after is not None:
        headers = {"Retry-After": str(max(1, int(-(-retry_after // 1))))}
    return JSONResponse({"error": code, "message": message, **more}, status, headers)


async def read(model: type[M], request: Request) -> M | JSONResponse:
    """The body as a model, or the refusal that names the first wrong field: 415 or 422.

    HTML forms are refused by their type, since pages of other sites can send them.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().casefold()
    if kind != "application/json":
        return refuse(415, "content_type", "send the body as application/json")
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        text = first["msg"][0].lower() + first["msg"][1:]
        return refuse(422, "invalid", f"{where}: {text}" if where else text, field=where or None)
