"""Read JSON requests strictly, votes among them; make error responses of one form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse

from szpo.voting.casting import VoteRequest

M = TypeVar("M", bound=BaseModel)
Tab = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Seat = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Body(BaseModel):
    """A request: unknown fields are refused, values are never converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Ballot(Body):
    """A vote as a client sends it; page and API each add what its details hold."""

    assignment: Seat
    choice: Literal["A", "B", "tie", "skip"]
    idem: str = Field(pattern=r"^[A-Za-z0-9_.:-]{16,64}$")
    tab: Tab
    skip_reason: str | None = Field(None, min_length=1, max_length=200)
    dwell_ms: int | None = Field(None, ge=0, lt=7 * 24 * 3600 * 1000)

    @model_validator(mode="after")
    def _reason_of_a_skip(self) -> Self:
        if self.skip_reason is not None and self.choice != "skip":
            raise ValueError("skip_reason belongs to the choice skip")
        return self

    def request(
        self, panelist: str | None, details: Mapping[str, Any], **noted: object
    ) -> VoteRequest:
        """The vote for the vote service; ``noted`` is what the server adds to its details."""
        return VoteRequest(
            self.assignment, self.choice, self.idem, self.skip_reason, self.dwell_ms,
            details or None, self.tab, panelist, noted,
        )  # fmt: skip


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
