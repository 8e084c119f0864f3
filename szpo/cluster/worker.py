"""The worker: it loads the run's model once, reports what it holds, and answers chunks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from szpo import files
from szpo.errors import IntegrityError
from szpo.policies.requests import Message

CANARY_PROMPT, CANARY_TOKENS = 8, 8
PACKAGES = ("szpo", "numpy", "torch", "transformers")


def set_threads(threads: int) -> None:
    """Fix this process's number of threads; call it before torch is imported if possible.

    The number of threads changes the order of sums, and so the last bits of results.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    import torch

    torch.set_num_threads(threads)


def setup_message(
    facts: Any, coordinates: Any = None, *, threads: int, judge: str | None = None
) -> Message:
    """What a `Worker` needs to build the run's policy, except the models' weights.

    Args:
        facts: The base model (`szpo.models.loading.ModelFacts`).
        coordinates: An object with the run's ``subspace`` and ``space``; None: not known yet.
        threads: Threads of each worker.
        judge: Name of a second model that judges; None: there is none.
    """
    head: dict[str, Any] = {
        "model": _own_place(facts.name, facts.folder),
        "dtype": facts.dtype,
        "quantization": facts.quantization,
        "device": facts.device.type,
        "threads": threads,
    }
    beside = {} if judge is None else {"judge": _own_place(judge, files.expand(judge))}
    if coordinates is None:
        return {"head": json.dumps(head), **beside}
    subspace, space = coordinates.subspace, coordinates.space
    head["space"] = {
        **dataclasses.replace(subspace, report={}, features=None).facts(),
        "root_seed": space.root_seed,
        "law": dataclasses.asdict(space.law),
    }
    arrays = dataclasses.replace(subspace, features=None).tensors()
    return {"head": json.dumps(head), **beside, **arrays}


def _own_place(name: str, folder: Path) -> str:
    """A folder's absolute path; other names are resolved on the worker's machine."""
    return str(folder.absolute()) if files.expand(name).is_dir() else name


def setup_id(setup: Message) -> str:
    """Digest of a setup, 16 hex digits, by which replies to an earlier setup are recognised."""
    found = hashlib.sha256()
    for name, value in sorted(setup.items()):
        data = value.encode() if isinstance(value, str) else np.ascontiguousarray(value).tobytes()
        found.update(name.encode() + data)
    return found.hexdigest()[:16]


def coordinates_id(setup: Message) -> str:
    """Digest of a setup's coordinates; a worker with other coordinates refuses a request.

    The judge is left out, so that loading one does not invalidate the policy's requests.
    """
    return setup_id({name: value for name, value in setup.items() if name != "judge"})


class Worker:
    """A base model and a run's coordinates, ready to answer."""

    def __init__(self, setup: Message):
        """Load the model that ``setup`` names; takes seconds to minutes."""
        self._head = json.loads(setup["head"])
        set_threads(self._head["threads"])
        from szpo.models import loading
        from szpo.policies.hosts import LocalHost

        self._host = LocalHost(
            loading.load(
                self._head["model"],
                dtype=self._head["dtype"],
                quantization=self._head["quantization"],
                device=self._head["device"],
            )
        )
        self._judge: tuple[Any, Any] | None = None
        self._judge_name: str | None = None
        self._answerer: Any = None
        self.hold(setup)

    def holds(self, setup: Message) -> bool:
        """Whether `hold` is enough for this setup, since its base model is already loaded."""
        head = json.loads(setup["head"])
        names = ("model", "dtype", "quantization", "device", "threads")
        return all(head[name] == self._head[name] for name in names)

    def hold(self, setup: Message) -> None:
        """Switch to another setup's coordinates and judge; the base model stays loaded."""
        from szpo.optim.parameters import Space
        from szpo.optim.sample_directions import Law
        from szpo.policies.subspaces import Subspace

        head = json.loads(setup["head"])
        self._id = coordinates_id(setup)
        judge = setup.get("judge")
        if judge is not None and judge != self._judge_name:
            self._judge, self._judge_name = self._host.beside(judge), judge
        self._head = head
        if "space" not in head:
            self._answerer = None
            return
        named = head["space"]
        tensors = {
            key: np.array(value) for key, value in setup.items() if key not in ("head", "judge")
        }
        subspace = Subspace.from_facts(named, tensors)
        space = Space(named["root_seed"], subspace.layout, Law(**named["law"]))
        self._answerer = self._host.at(subspace, space)

    def identify(self) -> dict[str, Any]:
        """What this worker holds; see `identity`."""
        found = identity(self._host.facts, self._answerer)
        if self._judge is not None:
            found["judge_sha256"] = self._judge[0].sha256
        return found

    def answer(self, message: Message) -> Message:
        """Answer a chunk; an error becomes a message with its class name and text."""
        try:
            return self._answer(message)
        except Exception as error:
            return {"error": type(error).__name__, "text": str(error)}

    def _answer(self, message: Message) -> Message:
        from szpo.policies.requests import AnswerRequest, ReadRequest, tokens_to_array

        if message.get("task") == "places":
            return self._places(json.loads(message["head"]))
        if message.get("space", self._id) != self._id:
            raise IntegrityError("a worker was asked in coordinates that it does not hold")
        answerer = self._answerer
        if message.get("model") == "base":
            answerer = self._host.beside(self._host.facts.name)[1]
        elif message.get("model") == "judge" and self._judge is not None:
            answerer = self._judge[1]
        if message.get("task") == "read":
            return dict(answerer.read(ReadRequest.from_message(message)))
        tokens = answerer.answer(AnswerRequest.from_message(message))
        return {"tokens": tokens_to_array(tokens)}

    def _places(self, head: dict[str, Any]) -> Message:
        from szpo.config.model_sections import Adapter

        adapter = Adapter.model_validate(head["adapter"])
        sites, conv1d = self._host.places(adapter, head["config"])
        found = {"sites": [dataclasses.asdict(site) for site in sites], "conv1d": conv1d}
        return {"head": json.dumps(found)}


def identity(facts: Any, answerer: Any) -> dict[str, Any]:
    """What must be equal in every worker, as plain JSON.

    It adds to `expect`: the digest of the weights, the hardware and, for fp32 on a CPU, the
    canary: the answers of two perturbed members to one prompt.
    """
    found = expect(facts, answerer)
    found |= {"base_sha256": facts.sha256, "hardware": facts.hardware}
    if answerer is not None and exact(facts):
        from szpo.models.logprobs import vocabulary_size

        words = vocabulary_size(facts)
        request = _canary(answerer, tuple((7 * i + 3) % words for i in range(CANARY_PROMPT)))
        found["canary"] = [list(row) for row in answerer.answer_chunk(request)]
    return found


def expect(facts: Any, coordinates: Any) -> dict[str, Any]:
    """The part of `identity` that is known without the model's weights.

    Equal digests of two perturbed members' factors show that directions, basis and coordinates
    equal the run's bit for bit.
    """
    found: dict[str, Any] = {
        "dtype": facts.dtype,
        "quantization": facts.quantization,
        "device": facts.device.type,
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }
    if facts.sha256:
        found["base_sha256"] = facts.sha256
    if coordinates is not None:
        from szpo.optim import parameters

        request = _canary(coordinates, (0,))
        factors = hashlib.sha256()
        for shift in request.shifts:
            member = parameters.shift(coordinates.space, request.theta, shift)
            for _, value in sorted(coordinates.subspace.weights(member).items()):
                factors.update(np.ascontiguousarray(value, "<f4").tobytes())
        found["basis_sha256"] = coordinates.subspace.basis_sha256
        found["factors_sha256"] = factors.hexdigest()
    return found


def _canary(coordinates: Any, prompt: tuple[int, ...]) -> Any:
    """A request to two members, the start plus and minus one direction, with one prompt."""
    from szpo.generation.sampling import Sampling
    from szpo.policies.hosts import start_of
    from szpo.policies.requests import AnswerRequest
    from szpo.types import Shift

    sides = tuple(Shift(0, 0, sign, 0.5) for sign in (1, -1))
    return AnswerRequest(
        start_of(coordinates.subspace), sides, (prompt,), (bytes(16),),
        np.array([[0, 0, 0, 0], [0, 1, 0, 0]]),
        Sampling(temperature=0.0, max_new_tokens=CANARY_TOKENS),
    )  # fmt: skip


def exact(facts: Any) -> bool:
    """Whether equal machines are expected to give equal tokens: in fp32 on a CPU."""
    return (facts.dtype, facts.quantization, facts.device.type) == ("fp32", None, "cpu")


def describe_difference(mine: dict[str, Any], other: dict[str, Any]) -> str | None:
    """Describe the first entry in which a worker differs from the run; None if none does."""
    for name, value in mine.items():
        if other.get(name) != value:
            return f"its {name} is {_short(other.get(name))}, the run's is {_short(value)}"
    return None


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 72 else f"{text[:69]}..."
