"""The page of a posterior over two weights: arrows to drag, moving particles, the next pair.

The page is used in two places: in ``szpo visualize`` on this machine, and behind the operator's
login of a run. The browser holds the differences and draws. Each request sends all of them; the
server stores nothing and answers with a `szpo_ui.operator.posterior_scene.Scene`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import gradio as gr
import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import Field

from szpo.types import Floats
from szpo_ui.operator import posterior_pictures as pictures
from szpo_ui.operator.posterior_scene import (
    CELLS,
    EXTENT,
    MAX_VOTES,
    PARTICLES,
    Scene,
    scene,
    scenes,
)
from szpo_ui.web.markup import environment, head, static
from szpo_ui.web.requests import Body, read

PATH: Final = "/visualize"
EXAMPLE: Final = ((1.5, 0.5), (0.5, 1.8), (-0.6, 1.2))
Number = Annotated[float, Field(ge=-EXTENT, le=EXTENT, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """The page's first content: differences (n, 2), and the names of the two weights.

    ``candidates`` (c, 2) are the pairs that may be asked next; None for evenly spaced directions.
    """

    deltas: Floats
    names: tuple[str, str] = ("first weight", "second weight")
    about: str = "An example of three answers."
    candidates: Floats | None = None
    texts: tuple[tuple[str, str, str], ...] = ()
    """(prompt, first, second) of each candidate, which is first minus second; may be empty."""


def example() -> Start:
    """Three answers, after which the posterior is still wide."""
    return Start(np.array(EXAMPLE))


class SceneRequest(Body):
    """The page's request for a scene or a picture of it."""

    deltas: list[tuple[Number, Number]] = Field(max_length=MAX_VOTES)


def blocks(api: str, back: str = "") -> gr.Blocks:
    """Build the page; ``api`` is the prefix of its requests, ``back`` the page to return to."""
    settings = json.dumps({"api": api, "extent": EXTENT})
    page = environment({}, {}).get_template("visualize/page.html")
    made = gr.Blocks(title="szpo: posterior", analytics_enabled=False, fill_width=True)
    with made:
        gr.HTML(
            page.render(settings=settings, back=back, particles=PARTICLES),
            elem_id="vz-page",
            apply_default_css=False,
        )
    return made


def router(prefix: str, start: Callable[[], Start], allow: Callable[[Request], Any]) -> APIRouter:
    """The routes of the page: its start, a scene, pictures of it.

    ``allow`` raises for clients without access.
    """
    made = APIRouter(prefix=prefix)

    @made.get("/start")
    def begin(request: Request) -> dict[str, Any]:
        allow(request)
        found = start()
        return {"deltas": found.deltas.tolist(), "names": found.names, "about": found.about}

    @made.post("/{form}")
    async def draw(request: Request, form: Literal["scene", "svg", "gif"]) -> Response:
        allow(request)
        asked = await read(SceneRequest, request)
        return await asyncio.to_thread(lambda: _draw(form, asked.deltas, start()))

    return made


def page_head() -> str:
    """Style and script of the page, inline."""
    return f"{head('visualize')}<script>{static('visualize.js')}</script>\n"


def _draw(form: str, deltas: list[tuple[float, float]], begun: Start) -> Response:
    if form == "gif":
        rounds = scenes(deltas, begun.candidates, pictures.MOST_ROUNDS)
        return Response(pictures.gif(rounds, begun.names), media_type="image/gif")
    shown = scene(deltas, begun.candidates)
    if form == "svg":
        return Response(pictures.svg(shown, begun.names), media_type="image/svg+xml")
    return Response(json.dumps(as_json(shown, begun)), media_type="application/json")


def _texts(shown: Scene, begun: Start) -> tuple[str, str, str] | None:
    """The texts of the suggested pair; None if it has none."""
    if shown.suggested is None or begun.candidates is None or not begun.texts:
        return None
    return begun.texts[int((begun.candidates == shown.suggested).all(1).argmax())]


def as_json(shown: Scene, begun: Start) -> dict[str, Any]:
    """A scene as JSON for the page's script."""
    return {
        "cells": CELLS,
        "log_density": np.round(shown.log_density.ravel(), 3).tolist(),
        "frames": np.round(shown.frames, 3).tolist(),
        "rounds": list(shown.rounds),
        "mean": shown.mean.tolist(),
        "more": (shown.frames[-1] > 0).mean(0).tolist(),
        "log_likelihood": shown.log_likelihood,
        "log_likelihood_at_zero": -len(shown.deltas) * float(np.log(2)),
        "suggested": None
        if shown.suggested is None
        else {
            "delta": shown.suggested.tolist(),
            "information": shown.information,
            "texts": _texts(shown, begun),
        },
    }
