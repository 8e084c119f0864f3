"""What a worker runs: it loads the run's model once, shows what it holds, and answers chunks.

Nothing here knows how messages travel.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from szpo.errors import SzpoError
from szpo.policies.row_request import Message

CANARY_PROMPT, CANARY_TOKENS = 8, 8
PACKAGES = ("szpo", "numpy", "torch", "transformers")
LAYOUTS = ("fixed", "start", "basis")


def set_threads(threads: int) -> None:
    """Fix the threads of this process; to be called before torch is loaded where that is possible.

    The number of threads decides the order of sums, and so the last bits.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    import torch

    torch.set_num_threads(threads)


def setup_message(loaded: Any, responder: Any, *, threads: int, device: str) -> Message:
    """Everything from which `Worker` builds what the controller holds, but the model's weights."""
    subspace, space = responder.subspace, responder.space
    head = {
        # A folder's path; a name is looked up on the worker's own machine.
        "model": str(loaded.folder) if Path(loaded.name).expanduser().is_dir() else loaded.name,
        "dtype": loaded.dtype,
        "quantization": loaded.quantization,
        "device": device,
        "threads": threads,
        "kind": subspace.kind,
        "scale": subspace.scale,
        "sites": [dataclasses.asdict(site) for site in subspace.sites],
        "root_seed": space.root_seed,
        "law": dataclasses.asdict(space.law),
        "base_sha256": loaded.sha256,
    }
    arrays = {
        f"{part}/{name}": value
        for part in LAYOUTS
        for name, value in getattr(subspace, part).items()
    }
    return {"head": json.dumps(head), **arrays}


class Worker:
    """A base model and a run's coordinates, ready to answer."""

    def __init__(self, setup: Message):
        """Load the model that ``setup`` names; takes seconds to minutes.

        Raises:
            UsageError: the model or the device is not on this machine.
        """
        head = json.loads(setup["head"])
        set_threads(head["threads"])
        from szpo.generation.engine_choice import engine_for
        from szpo.models import loading
        from szpo.models.lora_sites import Site
        from szpo.optim.directions import Law
        from szpo.optim.parameters import Space
        from szpo.policies.responder import Responder
        from szpo.policies.subspaces import Subspace

        self._loaded = loading.load(
            head["model"],
            dtype=head["dtype"],
            quantization=head["quantization"],
            device=head["device"],
        )
        parts: dict[str, dict[str, Any]] = {part: {} for part in LAYOUTS}
        for key, value in setup.items():
            part, _, name = key.partition("/")
            if part in parts:
                parts[part][name] = np.array(value)
        sites = tuple(Site(**site) for site in head["sites"])
        subspace = Subspace(
            head["kind"], sites, parts["fixed"], parts["start"], parts["basis"], head["scale"]
        )
        space = Space(head["root_seed"], subspace.layout, Law(**head["law"]))
        engine = engine_for(self._loaded.adapt(sites))
        self._responder = Responder(subspace, space, engine, self._loaded.device)

    def identify(self) -> dict[str, Any]:
        """What this worker holds; see `identity`."""
        return identity(self._loaded, self._responder)

    def answer(self, message: Message) -> Message:
        """Answer a chunk: the tokens, or the error that the request itself caused."""
        from szpo.policies import row_request

        try:
            tokens = self._responder.answer_chunk(row_request.from_message(message))
        except SzpoError as error:
            return {"error": type(error).__name__, "text": str(error)}
        return {"tokens": row_request.tokens_to_array(tokens)}


def identity(loaded: Any, responder: Any) -> dict[str, Any]:
    """What must be equal in the controller and in every worker, as plain JSON.

    The canary is a perturbed member: the digest of its factors shows that directions, basis and
    coordinates are the run's, bit for bit. In fp32 on a CPU it also answers a prompt.
    """
    from szpo.generation.sampling import Sampling
    from szpo.models.logprobs import vocabulary_size
    from szpo.optim import parameters
    from szpo.policies.row_request import RowRequest
    from szpo.types import Shift

    subspace = responder.subspace
    start = (
        parameters.zeros(subspace.layout)
        if subspace.basis
        else {name: np.array(value, np.float32) for name, value in subspace.start.items()}
    )
    sides = tuple(Shift(0, 0, sign, 0.5) for sign in (1, -1))
    words = vocabulary_size(loaded.model)
    prompt = tuple((7 * i + 3) % words for i in range(CANARY_PROMPT))
    request = RowRequest(
        start, sides, (prompt,), (bytes(16),), np.array([[0, 0, 0, 0], [0, 1, 0, 0]]),
        Sampling(temperature=0.0, max_new_tokens=CANARY_TOKENS),
    )  # fmt: skip
    factors = hashlib.sha256()
    for member in responder.members(request):
        for _, value in sorted(subspace.weights(member).items()):
            factors.update(np.ascontiguousarray(value, "<f4").tobytes())
    found: dict[str, Any] = {
        "base_sha256": loaded.sha256,
        "dtype": loaded.dtype,
        "quantization": loaded.quantization,
        "device": loaded.device.type,
        "basis_sha256": subspace.basis_sha256,
        "factors_sha256": factors.hexdigest(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }
    if exact(loaded):
        found["canary"] = [list(row) for row in responder.answer_chunk(request)]
    return found


def exact(loaded: Any) -> bool:
    """Whether machines of one kind answer with equal tokens: fp32 on a CPU."""
    return (loaded.dtype, loaded.quantization, loaded.device.type) == ("fp32", None, "cpu")


def describe_difference(mine: dict[str, Any], other: dict[str, Any]) -> str | None:
    """Name the first thing in which a worker differs from the controller; None if nothing."""
    for name, value in mine.items():
        if other.get(name) != value:
            return f"its {name} is {_short(other.get(name))}, the run's is {_short(value)}"
    return None


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 72 else f"{text[:69]}..."
