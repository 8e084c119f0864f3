"""vLLM servers as a run's engine: checks the settings and puts its parts together.

OpenAI's client asks them; vLLM itself need not be installed here.
"""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np

from szpo import keyed_requests
from szpo.config.schema import Config
from szpo.config.tables import Engine
from szpo.errors import EngineError, UsageError
from szpo.keyed_requests import ENGINE_KEY
from szpo.models.loading import Loaded
from szpo.models.sampling import Sampling
from szpo.optim import parameters
from szpo.optim.parameters import Space
from szpo.plugins import how_to_install
from szpo.policies.backend import AnswerRequest, LocalBackend, Tokens, start_of
from szpo.policies.subspaces import Subspace
from szpo.types import Prompt, Shift

KAPPA = 1.62
"""Distance of the canary's members from the start, nats: the smallest default radius of the rules,
where a wrong adapter is hardest to notice."""


class VllmBackend(LocalBackend):
    """A `LocalBackend` whose run is answered by servers; set-up, reading and checks stay local."""

    def __init__(self, loaded: Loaded, engine: Engine, *, each_row: bool = False):
        """``engine`` names the servers; ``each_row`` rescores all rows. Nothing is sent yet."""
        super().__init__(loaded)
        self._settings, self._each_row = engine, each_row
        self._served: list[Any] = []
        """The servers' answers; shared by all backends of `at`."""
        self._by_servers = False

    def at(self, subspace: Subspace, space: Space, *, run: bool = False) -> Self:
        """See `Backend.at`; with ``run`` the servers answer."""
        backend = super().at(subspace, space)
        backend._by_servers = False
        if run:
            self.close()
            local = copy.copy(backend)
            served = connect(self._settings, self.facts, local, each_row=self._each_row)
            self._served.append(served)
            backend._by_servers = True
        return backend

    def answer(self, request: AnswerRequest) -> Tokens:
        """See `Backend.answer`."""
        if not self._by_servers:
            return super().answer(request)
        answers: Tokens = self._served[-1].answer(request)
        return answers

    def close(self) -> None:
        """See `Backend.close`: gives up the servers and removes all files."""
        while self._served:
            self._served.pop().close()


def demand(engine: Engine) -> None:
    """Check the settings before a model is loaded."""
    if importlib.util.find_spec("openai") is None:
        raise UsageError(f"engine.kind vllm needs openai: {how_to_install('judge')}")
    for url in engine.address or []:
        keyed_requests.read_key(ENGINE_KEY, url, "engine")
        if engine.adapters is None and not keyed_requests.is_here(urlsplit(url).hostname or ""):
            raise UsageError(
                f"engine.adapters is missing: name a folder that this machine and {url} share"
            )
    if (away := unreachable(engine)) is not None:
        raise UsageError(away)


def unreachable(engine: Engine) -> str | None:
    """One line about the first server that is unreachable or unhealthy; None if all are well."""
    from szpo.policies.vllm_servers import GoneError, run_apart, servers_of

    async def ask() -> str | None:
        for server in servers_of(engine, tries=1):
            try:
                await server.health()
            except GoneError as error:
                why = str(error).removeprefix(f"{server.url}: ")
                return (
                    f"engine.address: {server.url} cannot be reached ({why}); start the server "
                    "there, or see its log"
                )
            except UsageError as error:
                return f"engine.address: {error}"
            finally:
                await server.close()
        return None

    return run_apart(ask())


def leave() -> None:
    """Nothing: each request goes to a server by itself."""


def load(config: Config, *, adapter: bool) -> VllmBackend:
    """Load the settings' model into this process, with the servers to answer."""
    from szpo.policies import language_model

    loaded = language_model.load_host(config, adapter=adapter).facts
    # People take minutes for a step, so a second to rescore each row does not matter.
    return VllmBackend(loaded, config.engine, each_row=config.panel.kind == "people")


def connect(engine: Engine, loaded: Any, local: Any, *, each_row: bool) -> Any:
    """Answers by the settings' servers; this process holds the model to check them.

    ``local``: this process's backend at the run's coordinates, which rescores: all rows, if
    ``each_row``.
    """
    demand(engine)
    if loaded.quantization is not None:
        raise UsageError(
            f"engine.kind vllm serves fp32, bf16 or fp16; model.quantization is "
            f"{loaded.quantization}: leave it out, or use another engine.kind"
        )
    sites = local.subspace.sites

    from szpo.models.logprobs import vocabulary_size
    from szpo.policies.vllm_checks import (
        AdapterFolder,
        Canary,
        ServedAnswers,
        TrustedModel,
        require_rank,
    )  # fmt: skip
    from szpo.policies.vllm_servers import Decoding, Servers, servers_of

    rank = require_rank(sites)
    root = Path(engine.adapters or tempfile.gettempdir()).absolute()
    folder = AdapterFolder(root, sites, loaded.name)
    trusted = TrustedModel(loaded, local)
    adapted, words = local.adapted, vocabulary_size(loaded.model)
    decoding = Decoding(Sampling(), adapted.stop_tokens, words, adapted.wordless)
    plus, minus = trusted.members(canary_request(local.subspace))
    canary = Canary(trusted, (plus, minus), folder.write, decoding)
    servers = servers_of(engine, rank=rank)
    return ServedAnswers(
        Servers(servers, canary.chunk, canary.check, folder.remove, rows=engine.rows or 1),
        folder,
        trusted,
        lambda request: replace(decoding, sampling=request.sampling),
        each_row=each_row,
    )


def canary_request(subspace: Subspace) -> AnswerRequest:
    """A request without rows for two members: the start plus and minus one direction."""
    start = start_of(subspace)
    radius = float(parameters.round13(subspace.mu(KAPPA)))
    sides = tuple(Shift(0, 0, sign, radius) for sign in (1, -1))
    return AnswerRequest(start, sides, (), (), np.zeros((0, 4), np.int64), Sampling())


# ---- measuring the cost of a step ----


def measure(config: Config, prompt: Prompt) -> tuple[str, int, float]:
    """What the servers are, their number, and the seconds in which each answers a chunk.

    All answer a chunk of equal prompts at the same time, twice; the second time counts.
    """
    from szpo.models import loading
    from szpo.models.logprobs import vocabulary_size
    from szpo.policies import language_model, subspace_setup
    from szpo.policies.vllm_servers import Decoding, run_apart

    engine, urls = config.engine, config.engine.address or []
    facts = language_model.describe(config, adapter=False)
    sampling, stop = subspace_setup.sampling_of(config), loading.stop_tokens(facts)
    decoding = Decoding(sampling, stop, vocabulary_size(facts), loading.wordless(facts))
    tokens = loading.encode(facts.tokenizer, prompt)
    seconds, version = run_apart(_measure(engine, tokens, decoding))
    later = "model, adapters and seeds are looked at when a run begins"
    return f"vLLM {version} at {', '.join(urls)}; {later}", len(urls), seconds


async def _measure(engine: Engine, prompt: tuple[int, ...], decoding: Any) -> tuple[float, str]:
    from szpo.policies.vllm_servers import GoneError, Row, ServedChunk, servers_of

    servers, rows = servers_of(engine), engine.rows or 1
    try:
        shown = [await server.look() for server in servers]
        for server, seen in zip(servers, shown, strict=True):
            if not seen.models:
                raise EngineError(f"{server.url} serves no model; start it with the run's")
        seconds = 0.0
        for first in (0, rows):  # new seeds, and so new answers, in each round
            began = time.monotonic()
            chunks = [
                tuple(Row(seen.models[0], prompt, first + i) for i in range(rows))
                for seen in shown
            ]
            await asyncio.gather(
                *(
                    server.answer(ServedChunk(chunk, {}, decoding))
                    for server, chunk in zip(servers, chunks, strict=True)
                )
            )
            seconds = time.monotonic() - began
    except GoneError as error:
        raise EngineError(str(error)) from None
    finally:
        for server in servers:
            await server.close()
    return seconds, ", ".join(sorted({seen.version for seen in shown}))
