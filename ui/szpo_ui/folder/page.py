"""The home page of a folder of runs, and the page that compares runs."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from jinja2 import Environment
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from szpo.cli import run_paths
from szpo.config import settings_file
from szpo.errors import LeaseError, StorageError, SzpoError, UsageError
from szpo.ledger.canonical import sha256
from szpo.training import budget
from szpo.voting import steps
from szpo_ui.folder import side_by_side
from szpo_ui.folder.access import COMPARE
from szpo_ui.folder.controllers import Controllers
from szpo_ui.folder.mounts import TROUBLE
from szpo_ui.folder.rows import NOTHING, UNREADABLE, FolderReader
from szpo_ui.operator import controls
from szpo_ui.operator.controls import Command
from szpo_ui.operator.page import moment, number
from szpo_ui.web import login
from szpo_ui.web.address import run_prefix
from szpo_ui.web.markup import environment
from szpo_ui.web.requests import Body, if_changed, read, refuse
from szpo_ui.web.site import Door, open_site

Do = Literal["start", "pause", "resume", "stop", "more", "samples"]
Name = Annotated[str, Field(min_length=1, max_length=255)]
Names = Annotated[list[str], Query(alias="run", max_length=64)]


@dataclass(frozen=True)
class Home:
    """The state behind a folder's home page."""

    folder: Path
    door: Door
    reader: FolderReader
    controllers: Controllers | None
    """None if models run elsewhere (``--no-controller``)."""


LABEL: Final = "label"
"""Events of this kind give a run a tag and a note; the latest one counts. They are in the folder's
own ledger, so runs are not changed."""
MOST_TAG, MOST_NOTE = 40, 500
"""Most characters of a tag and of a note."""


class Action(Body):
    """A request of a button for one run."""

    do: Do
    run: Name


class Label(Body):
    """A tag and a note for one run."""

    run: Name
    tag: Annotated[str, Field(max_length=MOST_TAG)]
    note: Annotated[str, Field(max_length=MOST_NOTE)]


class NewRun(Body):
    """A request for a new run."""

    name: Annotated[str, Field(max_length=64)]
    preset: Name | None = None
    file: Name | None = None


def router(home: Home) -> APIRouter:
    """The routes of pages, poller and buttons; the caller must admit only operators."""
    made = APIRouter()

    @made.get("/")
    def index() -> HTMLResponse:
        return HTMLResponse(render_home(home))

    @made.get("/home-api/rows")
    def rows(request: Request) -> Response:
        html = render_rows(home)
        return if_changed(request, sha256(html)[:16], {"html": html})

    @made.post("/home-api/act")
    async def act(request: Request) -> Response:
        given = await read(Action, request)
        who = login.identity(request, "operator").name
        return JSONResponse({"text": await run_in_threadpool(_act, home, who, given)})

    @made.post("/home-api/label")
    async def label(request: Request) -> Response:
        given = await read(Label, request)
        who = login.identity(request, "operator").name
        _path(home, given.run)
        body = {"run": given.run, "tag": given.tag.strip(), "note": given.note.strip()}
        await run_in_threadpool(home.door.ledger.record_event, LABEL, who, body)
        return JSONResponse({"text": f"{given.run}: noted."})

    @made.post("/home-api/begin")
    async def begin(request: Request) -> Response:
        given = await read(NewRun, request)
        if home.controllers is None:
            raise UsageError(
                "this server starts no models (--no-controller); begin the run with: szpo run"
            )
        name = run_paths.run_name(given.name.strip())
        ask = partial(home.controllers.begin, name, preset=given.preset, file=given.file)
        await run_in_threadpool(ask)
        return JSONResponse({"text": f"{name} is being set up; it waits for your start then."})

    @made.get(COMPARE)
    def compare(run: Names = []) -> HTMLResponse:  # noqa: B006  (FastAPI copies it)
        try:
            found = side_by_side.read(_paths(home, run))
        except SzpoError as error:
            return HTMLResponse(render_message(_plain(home, error)), 409)
        template = _environment().get_template("folder/compare.html")
        return HTMLResponse(template.render(found=found, prefix=run_prefix))

    @made.get("/home-api/curves")
    def curves(run: Names) -> JSONResponse:
        found = side_by_side.read(_paths(home, run))
        names = [each["name"] for each in found["runs"]]
        return JSONResponse({"runs": names, "charts": found["charts"]})

    @made.get("/r/{name}")
    def with_slash(name: str) -> Response:
        return RedirectResponse(f"{run_prefix(name)}/", 307)

    @made.api_route("/r/{name}/{rest:path}", methods=["GET", "POST"])
    def answer_otherwise(request: Request, name: str) -> Response:
        trouble = request.scope.get(TROUBLE)
        status, code, text = 404, "not_found", f"There is no run {name} in this folder."
        if trouble is not None:
            status, code, text = 503, "unreadable", _plain(home, trouble)
        if request.method == "GET":
            return HTMLResponse(render_message(text), status)
        return refuse(status, code, text)

    return made


def answer_error(home: Home, error: SzpoError) -> Response:
    """Answer an operator's request with the error that refused it."""
    status = 503 if isinstance(error, StorageError) else 409
    return refuse(status, "refused", _plain(home, error))


def _plain(home: Home, error: object) -> str:
    """An error's text without the folder's path."""
    return str(error).replace(f"{home.folder}/", "")


# ---- actions of buttons ----


def _act(home: Home, who: str, given: Action) -> str:
    path = _path(home, given.run)
    if given.do in ("start", "stop"):
        if home.controllers is None:
            raise UsageError(
                "models run elsewhere (--no-controller); start one in a terminal: "
                f"szpo run --resume {path}"
            )
        if given.do == "start":
            home.controllers.start(given.run)
            return f"{given.run}: its model is being loaded."
        home.controllers.stop(given.run)
        return f"{given.run}: its process has ended; votes of an open round are still taken."
    site = open_site(path)
    with closing(site.ledger):
        waits = given.do == "resume" and not steps.has_opened(site.ledger)
        do: Any = "start" if waits else given.do
        votes = budget.usual_more(site.config) if do == "more" else None
        if votes and home.controllers is not None:
            home.controllers.require_features(given.run, site.ledger)
        try:
            reply = controls.act(site, who, Command(do=do, votes=votes))
        except UsageError as error:  # the run's own page asks for confirmations
            raise UsageError(f"{error}, on the page of {given.run}") from None
    text = f"{given.run}: {'' if reply is None else reply.text}"
    if do in ("more", "samples") and home.controllers is not None:
        try:
            home.controllers.start(given.run)
            text += " Its model is being loaded."
        except LeaseError:  # the run has a process, which continues by itself
            pass
        except SzpoError as error:
            text += f" Its model was not started: {error}."
    return text


def _path(home: Home, name: str) -> Path:
    """The file of a run of this folder.

    Raises:
        UsageError: there is no run of that name.
    """
    path = home.folder / f"{name}.db"
    if path.parent != home.folder or not path.is_file():
        raise UsageError(f"there is no run {name} in this folder")
    return path


def _paths(home: Home, names: list[str]) -> list[Path]:
    return [_path(home, name) for name in side_by_side.check_names(names)]


# ---- HTML ----


def views(home: Home) -> list[dict[str, Any]]:
    """The rows as the page shows them; runs that are being set up come first.

    ``actions`` are the allowed actions with their buttons' texts; ``href`` is "" without a file.
    """
    rows = home.reader.rows()
    notes = {} if home.controllers is None else home.controllers.notes()
    bodies = [event["body"] for event in home.door.ledger.events(LABEL)]
    labels = {body["run"]: body for body in bodies}
    known = {row["name"] for row in rows}
    new = [
        {"row": {"name": name, "state": "stopped", **NOTHING}, "state": "setting up",
         "detail": note, "actions": (), "href": "", "label": UNLABELLED}
        for name, note in notes.items()
        if name not in known
    ]  # fmt: skip
    return new + [
        {**_view(home, row, notes.get(row["name"], "")),
         "label": labels.get(row["name"], UNLABELLED)}
        for row in rows
    ]  # fmt: skip


def _view(home: Home, row: dict[str, Any], note: str) -> dict[str, Any]:
    here = home.controllers is not None and home.controllers.is_alive(row["name"])
    state, driven = row["state"], row["driven"]
    if here and not driven:
        shown, detail = "starting", note or "its model is being loaded"
    else:
        shown = state
        detail = f"{row['detail']}; the process {note}" if note else row["detail"]
    actions: list[tuple[Do, str]] = []
    if state == "finished" and row["more"]:
        actions.append(("more", f"{row['more']} more votes"))
    if state == "paused":
        actions.append(("resume", "Resume" if row["begun"] else "Start the run"))
    elif state == "running" or (here and state == "stopped"):
        actions.append(("pause", "Pause"))
    if row["rounds"]:
        actions.append(("samples", "Samples"))
    if here:
        actions.append(("stop", "Stop model"))
    elif home.controllers is not None and not driven and state not in OVER:
        actions.append(("start", "Start model"))
    href = f"{run_prefix(row['name'])}/operate/"
    return {"row": row, "state": shown, "detail": detail, "actions": actions, "href": href}


UNLABELLED: Final = {"tag": "", "note": ""}
OVER: Final = ("finished", UNREADABLE)
"""States in which a model has nothing to do."""


def render_rows(home: Home) -> str:
    """The table's rows as HTML."""
    return _environment().get_template("folder/rows.html").render(views=views(home))


def render_home(home: Home) -> str:
    """The home page."""
    files = sorted(path.name for path in home.folder.glob("*.toml"))
    template = _environment().get_template("folder/home.html")
    return template.render(
        views=views(home),
        folder=home.folder.absolute().name,
        presets=settings_file.presets(),
        files=files,
        starts=home.controllers is not None,
        most_tag=MOST_TAG,
        most_note=MOST_NOTE,
    )


def render_message(text: str) -> str:
    """A page with one message and a link back."""
    return _environment().get_template("folder/message.html").render(text=text)


def hours(value: float) -> str:
    """A time given in hours, as text.

    >>> hours(0.04), hours(2.34)
    ('2 min', '2.3 h')
    """
    return f"{60 * value:.0f} min" if value < 1 else f"{value:.1f} h"


MARKS: Final = ("solid", "dashed", "dotted", "dash-dot", "long dashes", "short dots")
"""Names of the lines' dash patterns, for readers who cannot tell colours apart."""


@cache
def _environment() -> Environment:
    return environment(
        filters={"num": number, "moment": moment, "hours": hours}, names={"marks": MARKS}
    )
