"""The worker: it loads the run's model once, and answers requests in any setup that comes along.

Every reply carries what the worker holds, so one that died and was restarted is checked like a new
one.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from szpo import files
from szpo.models.identity import TENSORS, Identity
from szpo.models.weight_files import list_first

if TYPE_CHECKING:
    from szpo.config.tables import Adapter
    from szpo.models.loading import ModelFacts
    from szpo.optim.parameters import Space
    from szpo.policies.backend import AnswerRequest
    from szpo.policies.subspaces import Subspace

CANARY_PROMPT, CANARY_TOKENS = 8, 8
PACKAGES = ("szpo", "numpy", "torch", "transformers")
MODELS = ("model", "judge")
"""Entries of a `Holding` that are the parts of a model, see `szpo.models.identity`."""
Holding: TypeAlias = dict[str, Any]
"""What must be equal in every worker; see `holding`."""
Who: TypeAlias = Literal["run", "base", "judge"]
"""Which model answers: the run's in its coordinates, the same without an adapter, or a judge's."""
SETUPS = 4
"""Setups that are kept at a time."""
_numbers = itertools.count()


def set_threads(threads: int) -> None:
    """Fix this process's number of threads; call it before torch is imported if possible.

    The number of threads changes the order of sums, and so the last bits of results.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    import torch

    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Coordinates:
    """The run's subspace, and the `Space` from which its directions are drawn."""

    subspace: Subspace
    space: Space


@dataclass(frozen=True)
class Setup:
    """What a worker needs to build the run's policy, except the models' weights."""

    model: str
    dtype: Any
    quantization: Any
    device: str
    coordinates: Coordinates | None = None
    judge: str | None = None
    """Name of a second model that judges."""
    number: int = field(default_factory=lambda: next(_numbers))
    """No other setup of this process has it."""


def setup_of(
    facts: ModelFacts, coordinates: Coordinates | None = None, judge: str | None = None
) -> Setup:
    """The setup of a run's base model, in its coordinates once they are known."""
    if coordinates is not None:
        slim = replace(coordinates.subspace, report={}, features=None)
        coordinates = replace(coordinates, subspace=slim)
    return Setup(
        _own_place(facts.name, facts.folder), facts.dtype, facts.quantization,
        facts.device.type, coordinates,
        None if judge is None else _own_place(judge, files.expand(judge)),
    )  # fmt: skip


def _own_place(name: str, folder: Path) -> str:
    """A folder's absolute path; other names are resolved on the worker's machine."""
    return str(folder.absolute()) if files.expand(name).is_dir() else name


@dataclass(frozen=True)
class Places:
    """A request for the layers that get an adapter; see `szpo.policies.backend.Backend.places`."""

    adapter: Adapter
    config: Any


class Worker:
    """A base model, and a run's coordinates in it."""

    def __init__(self, threads: int):
        """Fix the threads; the model is loaded with the first setup."""
        set_threads(threads)
        self._host: Any = None
        # By number of a setup: what is shown of it, the run's backend and the judge's.
        self._held: dict[int, tuple[Holding, Any, Any]] = {}
        self._judge: tuple[str, Any] | None = None

    def present(self) -> bool:
        """True: this process runs and takes calls."""
        return True

    def show(self, setup: Setup, present: bool = True) -> tuple[Holding, int]:
        """Hold a setup; returns what this worker holds then, and its process.

        ``present``: what `present` gave, for which Ray waits before it sends this call.
        """
        return self._hold(setup)[0], os.getpid()

    def answer(self, setup: Setup, who: Who, request: Any) -> tuple[Holding, Any]:
        """What this worker holds, and its answer to a request in this setup; None to None."""
        shown, asked, judge = self._hold(setup)
        if request is None:
            return shown, None
        if isinstance(request, Places):
            return shown, self._host.places(request.adapter, request.config)
        from szpo.policies.backend import AnswerRequest

        if who == "base":
            asked = self._host.beside(self._host.facts.name)
        elif who == "judge":
            asked = judge
        ask = asked.answer if isinstance(request, AnswerRequest) else asked.read
        return shown, ask(request)

    def _hold(self, setup: Setup) -> tuple[Holding, Any, Any]:
        if setup.number in self._held:
            return self._held[setup.number]
        from szpo.models import loading
        from szpo.policies.backend import LocalBackend

        if self._host is None:
            how = {"dtype": setup.dtype, "quantization": setup.quantization}
            self._host = LocalBackend(loading.load(setup.model, device=setup.device, **how))
        run = None
        if setup.coordinates is not None:
            own = copy.deepcopy(setup.coordinates)  # Ray's arrays are read-only, torch's are not
            run = self._host.at(own.subspace, own.space)
        held = holding(self._host.facts, run)
        judge = None
        if setup.judge is not None:
            if self._judge is None or self._judge[0] != setup.judge:
                self._judge = setup.judge, self._host.beside(setup.judge)
            judge = self._judge[1]
            held["judge"] = dict(judge.facts.identity.base.parts)
        self._held[setup.number] = (held, run, judge)
        if len(self._held) > SETUPS:
            del self._held[next(iter(self._held))]
        return self._held[setup.number]


def holding(facts: Any, backend: Any) -> Holding:
    """What must be equal in every worker, as plain JSON.

    It adds to `expect`: the hardware and, for fp32 on a CPU, the canary: the answers of two
    perturbed members to one prompt.
    """
    held = expect(facts, backend) | {"hardware": facts.hardware}
    if backend is not None and exact(facts):
        from szpo.models.logprobs import vocabulary_size

        words = vocabulary_size(facts)
        request = _canary(backend, tuple((7 * i + 3) % words for i in range(CANARY_PROMPT)))
        held["canary"] = [list(row) for row in backend.answer_chunk(request)]
    return held


def expect(facts: Any, coordinates: Any) -> Holding:
    """The part of `holding` that is known without the model's weights, but for its tensors.

    Equal digests of two perturbed members' factors show that directions, basis and coordinates
    equal the run's bit for bit.
    """
    held: Holding = {
        "model": dict(facts.identity.base.parts),
        "dtype": facts.dtype,
        "device": facts.device.type,
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }
    if coordinates is not None:
        from szpo.optim import parameters

        request = _canary(coordinates, (0,))
        factors = hashlib.sha256()
        for shift in request.shifts:
            member = parameters.shift(coordinates.space, request.theta, shift)
            for _, value in sorted(coordinates.subspace.weights(member).items()):
                factors.update(np.ascontiguousarray(value, "<f4").tobytes())
        held["basis_sha256"] = coordinates.subspace.basis_sha256
        held["factors_sha256"] = factors.hexdigest()
    return held


def _canary(coordinates: Any, prompt: tuple[int, ...]) -> AnswerRequest:
    """A request to two members, the start plus and minus one direction, with one prompt."""
    from szpo.models.sampling import Sampling
    from szpo.policies.backend import AnswerRequest, start_of
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


def describe_difference(mine: Holding, other: Holding) -> str | None:
    """Describe the first entry in which a worker differs from the run; None if none does.

    Tensors that the run does not know yet are not compared.
    """
    for name, value in mine.items():
        if name in MODELS:
            known = {part: x for part, x in other.get(name, {}).items()
                     if part != TENSORS or part in value}  # fmt: skip
            if changed := Identity(value).changes(Identity(known)):
                return f"its {name} is another than the run's: {list_first(changed)}"
        elif other.get(name) != value:
            return f"its {name} is {_short(other.get(name))}, the run's is {_short(value)}"
    return None


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 72 else f"{text[:69]}..."
