"""The page of ``szpo answer --page``: two mixes of adapters by sliders, beside one prompt.

It answers only this machine, without a login. A press writes a mix as an adapter beside the runs,
and shows the command that begins a run from it; nothing is begun here.
"""

from __future__ import annotations

import asyncio
import json
import math
import shlex
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import gradio as gr
from fastapi import APIRouter, FastAPI, Request
from pydantic import Field

from szpo.errors import SzpoError
from szpo.runs.other_weights import Mixer
from szpo_ui import security, server
from szpo_ui.markup import environment, head, static
from szpo_ui.requests import Body, RefusedError, read

PATH: Final = "/mix"
API: Final = "/mix-api"
REACH: Final = 4.0
"""Nats of an adapter at the ends of its slider."""
Nats = dict[str, Annotated[float, Field(ge=-REACH, le=REACH, allow_inf_nan=False)]]


class AnswerRequest(Body):
    """Two mixes to answer a prompt; a new seed draws other answers."""

    prompt: str = Field(max_length=65_536)
    mixes: tuple[Nats, Nats]
    seed: int = Field(0, ge=0, lt=2**31)


class BeginRequest(Body):
    """A mix from which a run is to begin."""

    mix: Nats


class Desk:
    """A mixer that one request at a time uses; it measures each mix once."""

    def __init__(self, mixer: Mixer, folder: Path):
        """``folder``: where a mix is written as an adapter."""
        self.mixer, self.folder = mixer, folder
        self._lock = threading.Lock()
        self._nats: dict[str, tuple[float, float]] = {}

    def answer(self, asked: AnswerRequest) -> list[dict[str, Any]]:
        """Each mix's answer, by the same random numbers, and its measured KL."""
        with self._lock:
            prompts = self.mixer.encode([asked.prompt])
            found = []
            for mix in asked.mixes:
                self.mixer.move_to(mix)
                (answer,) = self.mixer.answer(prompts, seed=asked.seed)
                key = json.dumps(mix, sort_keys=True)
                if key not in self._nats:
                    self._nats[key] = self.mixer.kl(prompts, seed=0)
                kl, error = self._nats[key]
                stderr = None if math.isnan(error) else error  # of one prompt
                found.append({"text": answer.text, "kl": kl, "stderr": stderr})
            return found

    def begin(self, mix: Nats) -> dict[str, str]:
        """Write the mix as an adapter; returns its folder and the command of a run from it."""
        with self._lock:
            made = self.mixer.save(mix, self.folder)
        config = self.mixer.config
        given = {"model.name": config.model.name, "model.adapter": str(made)}
        if config.subspace.adapters:
            given["subspace.adapters"] = json.dumps(list(config.subspace.adapters))
        for name in ("temperature", "max_new_tokens", "whole_sentences"):
            given[f"generation.{name}"] = json.dumps(getattr(config.generation, name))
        sets = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
        return {
            "folder": str(made),
            "command": shlex.join(["szpo", "serve", "--preset", "people", *sets]),
        }


def blocks(names: Sequence[str], mix: Mapping[str, float], prompt: str) -> gr.Blocks:
    """Build the page: a pair of sliders for each name, the first at ``mix``, the second at 0."""
    settings = json.dumps({"api": f"{API}/"})
    page = environment({}, {}).get_template("mix/page.html")
    made = gr.Blocks(title="szpo: mix", analytics_enabled=False, fill_width=True)
    with made:
        gr.HTML(
            page.render(settings=settings, names=names, mix=mix, prompt=prompt, reach=REACH),
            elem_id="mx-page",
            apply_default_css=False,
        )
    return made


def router(desk: Desk) -> APIRouter:
    """The routes of the page: answers of two mixes, and a mix as an adapter."""
    made = APIRouter(prefix=API)

    @made.post("/answer")
    async def answer(request: Request) -> dict[str, Any]:
        asked = await read(AnswerRequest, request)
        return {"mixes": await _ask(lambda: desk.answer(asked))}

    @made.post("/begin")
    async def begin(request: Request) -> dict[str, Any]:
        asked = await read(BeginRequest, request)
        found: dict[str, Any] = await _ask(lambda: desk.begin(asked.mix))
        return found

    return made


async def _ask(act: Any) -> Any:
    try:
        return await asyncio.to_thread(act)
    except SzpoError as error:
        raise RefusedError(422, "refused", str(error)) from None


def application(mixer: Mixer, mix: Mapping[str, float], prompt: str, folder: Path) -> FastAPI:
    """An application with only this page, at /mix/, for browsers on this machine."""
    style = f"{head('mix')}<script>{static('mix.js')}</script>\n"
    page = partial(blocks, mixer.blocks.names, mix, prompt)
    return security.local_app(page, router(Desk(mixer, folder)), PATH, style)


def serve(
    mixer: Mixer, mix: Mapping[str, float], prompts: Sequence[str], folder: Path, port: int
) -> None:
    """Serve the page until a signal; the entry point ``mix`` of `szpo.pages`.

    ``prompts``: texts of which the page begins with the first; else with a held-out one.
    """
    asked = next(iter((*prompts, *(each.text for each in mixer.heldout))), "")
    server.show(lambda: application(mixer, mix, asked, folder), PATH, port)
