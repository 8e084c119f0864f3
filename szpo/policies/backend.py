"""A backend holds a run's base model and answers with it, in this process or elsewhere.

`LocalBackend` works in this process; `szpo.policies.ray_engine` and `szpo.policies.vllm_engine`
keep the same contract over workers, which run the code here, and over servers.

A request asks for rows to be answered, or answers to be read. It is all that is sent to a worker
on another machine: kilobytes, whatever the model's size. A row's uniform numbers are a slice of
its key's stream, so they do not depend on the worker.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from szpo import seeds
from szpo.config.tables import Adapter as AdapterSettings
from szpo.errors import IntegrityError
from szpo.models import adapters, loading, logprobs, lora, scores, states
from szpo.models.answer_shares import cut_rows
from szpo.models.batched_lora import AdaptedModel, Deltas, find_sites
from szpo.models.engine_contract import Engine
from szpo.models.loading import Loaded, ModelFacts
from szpo.models.local_engines import FlatEngine, engine_for
from szpo.models.logprobs import Sample
from szpo.models.lora import Site
from szpo.models.sampling import Sampling
from szpo.models.scores import ScoredLaw, logit_moves
from szpo.optim import parameters
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import Law
from szpo.policies.subspaces import Subspace
from szpo.types import Floats, Shift, Theta

Tokens: TypeAlias = tuple[tuple[int, ...], ...]
R = TypeVar("R")

EMPTY_SUBSPACE = Subspace("full", (), {}, {}, {})
"""The subspace of a model without an adapter: it has nothing to move."""
NO_SPACE = Space(0, parameters.NO_COORDINATES, Law())


@dataclass(frozen=True)
class AnswerRequest:
    """Rows to be answered by members of one base model."""

    theta: Theta
    shifts: tuple[Shift, ...]
    """One per member, at θ + shift. Without shifts, see ``thetas``."""
    prompts: tuple[tuple[int, ...], ...]
    """Different prompts, as tokens."""
    keys: tuple[bytes, ...]
    """Keys of random numbers, 16 bytes each."""
    rows: NDArray[np.int64]
    """(rows, 4): numbers of the row's prompt, member and key; its place in the key's stream."""
    sampling: Sampling
    canary: bool = False
    """Check that members which answer a common prompt differ in the logits after it."""
    base: bool = False
    """θ is the start; if the start is the base model itself, no adapter is computed."""
    thetas: tuple[Theta, ...] = ()
    """Without shifts: the members' coordinates. Without both, the bare base model answers."""

    def members(self) -> list[int]:
        """The member of each row."""
        members: list[int] = self.rows[:, 1].tolist()
        return members

    def uniforms(self) -> Floats:
        """The uniform numbers in [0, 1) for the draws, (rows, new tokens)."""
        width = self.sampling.max_new_tokens
        parts = [
            seeds.uniform(self.keys[key], width, start=place * width)
            for key, place in self.rows[:, 2:].tolist()
        ]
        return np.stack(parts) if parts else np.zeros((0, width))

    def split(self, size: int) -> list[tuple[NDArray[np.int64], Self]]:
        """Split the request into chunks of ``size`` rows, each with the indices of its rows.

        Rows of one prompt stay together, so plus and minus of a comparison mostly share a chunk.
        The chunks depend only on the rows and ``size``, never on the workers.
        """
        order = np.argsort(self.rows[:, 0], kind="stable")
        cuts = [order[i : i + size] for i in range(0, len(order), size)]
        return [(rows, self.pick(rows)) for rows in cuts]

    def join(
        self, chunks: Sequence[tuple[NDArray[np.int64], Self]], answers: Sequence[Tokens]
    ) -> Tokens:
        """The answers of all rows, in order, from those of the chunks of `split`."""
        whole: list[tuple[int, ...]] = [()] * len(self.rows)
        for (rows, _), some in zip(chunks, answers, strict=True):
            for row, tokens in zip(rows.tolist(), some, strict=True):
                whole[row] = tokens
        return tuple(whole)

    def pick(self, rows: NDArray[np.int64]) -> Self:
        """The request for some of its rows, without data that only the others need."""
        table = self.rows[rows].copy()
        used = []
        for column in range(3):
            numbers, table[:, column] = np.unique(table[:, column], return_inverse=True)
            used.append(numbers.tolist())
        prompts, members, keys = used
        return replace(
            self,
            shifts=tuple(self.shifts[i] for i in members if self.shifts),
            thetas=tuple(self.thetas[i] for i in members if self.thetas),
            prompts=tuple(self.prompts[i] for i in prompts),
            keys=tuple(self.keys[i] for i in keys),
            rows=table,
            canary=self.canary and len(members) > 1,
        )


@dataclass(frozen=True)
class Texts(Generic[R]):
    """Answers to be read; the class of a request says what of them, and by which policy."""

    prompts: tuple[tuple[int, ...], ...]
    """The prompt of each answer, as tokens."""
    answers: tuple[tuple[int, ...], ...]

    def split(self, size: int) -> list[Self]:
        """Split the request into chunks of ``size`` answers, in order."""
        starts = range(0, len(self.answers), size)
        return [self._pick(range(i, min(i + size, len(self.answers)))) for i in starts]

    def _pick(self, rows: Sequence[int], **more: Any) -> Self:
        return replace(
            self,
            prompts=tuple(self.prompts[row] for row in rows),
            answers=tuple(self.answers[row] for row in rows),
            **more,
        )


class LogProbs(Texts[Floats]):
    """Log-probability of each token at the start, nats; one answer after the other."""


class Totals(Texts[Floats]):
    """Log-probability of each whole answer at the start, nats, (answers,)."""


class Odds(Texts[Floats]):
    """Log-probability of each answer's tokens as the bare model's next one, nats."""


class States(Texts[Floats]):
    """Mean and last hidden state of each answer in the bare model."""


@dataclass(frozen=True)
class MeanStates(Texts[Floats]):
    """Mean of a layer's output over each answer's tokens at the start, (answers, hidden)."""

    layer: int


class Inputs(Texts[Mapping[str, NDArray[Any]]]):
    """An A for each site from its layer's inputs, in one chunk."""

    def split(self, size: int) -> list[Self]:
        """The request itself."""
        return [self]


@dataclass(frozen=True)
class KL(Texts[Floats]):
    """KL of member to start per answer, nats, (answers,)."""

    thetas: tuple[Theta, ...]
    """The members' master coordinates."""
    owner: tuple[int, ...]
    """The member of each answer."""
    temperature: float = 1.0

    def _pick(self, rows: Sequence[int], **more: Any) -> Self:
        used = sorted({self.owner[row] for row in rows})
        number = {member: i for i, member in enumerate(used)}
        return super()._pick(
            rows,
            thetas=tuple(self.thetas[member] for member in used),
            owner=tuple(number[self.owner[row]] for row in rows),
        )


@dataclass(frozen=True)
class Moves(Texts[Floats]):
    """Scores of each answer along members, and its Fisher matrix in them."""

    thetas: tuple[Theta, ...]
    """The members' master coordinates."""
    temperature: float = 1.0
    fisher: bool = True
    """False: the scores alone, which take less time."""


@dataclass(frozen=True)
class Scores(Texts[NDArray[np.float32]]):
    """Gradients of log π(answer) in every B; several rows for an answer with cuts."""

    law: ScoredLaw
    theta: Theta | None = None
    """Where; None: at the start."""


def join(parts: Sequence[Any]) -> Any:
    """Join what was read of a request's chunks."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0)


class Backend(Protocol):
    """Holds a base model, answers prompts and reads given answers in an adapter's coordinates."""

    @property
    def facts(self) -> ModelFacts:
        """What this process knows of the base model."""

    @property
    def chunk_rows(self) -> int | None:
        """Rows answered at once; None: all rows of a request."""

    @property
    def written(self) -> int:
        """Tokens of all answers so far, without end tokens; a server's are not counted."""

    def places(
        self, adapter: AdapterSettings, config: Mapping[str, Any] | None
    ) -> tuple[tuple[Site, ...], bool]:
        """The layers that get an adapter, and whether some are GPT-2's transposed ``Conv1D``.

        ``config`` is the PEFT config of a starting adapter.
        """

    def at(self, subspace: Subspace, space: Space, *, run: bool = False) -> Backend:
        """This backend in these coordinates; requests go to one that has some.

        ``run``: the coordinates are the run's own, no longer those of its set-up.
        """

    def beside(self, name: str) -> Backend:
        """A judge's model without adapters; the base itself if it has that name, unquantised."""

    def answer(self, request: AnswerRequest) -> Tokens:
        """The new tokens of each row, in the order of the request, an end token included."""

    def read(self, request: Texts[R]) -> R:
        """What the request asks for, in the order of its answers.

        Raises:
            RunError: a score is not finite.
            ResourceError: no worker is there to read.
        """

    def close(self) -> None:
        """Release the model; may be called twice."""


class LocalBackend:
    """A `Backend` whose models are in this process; each request brings its own coordinates."""

    subspace: Subspace
    space: Space
    engine: Engine
    adapted: AdaptedModel
    plain_start: bool
    """True if the start is the base model itself."""

    def __init__(
        self, loaded: Loaded, *, chunk_rows: int | None = None, engine: Engine | None = None,
        make: Callable[[AdaptedModel], Engine] = engine_for,
    ):  # fmt: skip
        """``engine``: an engine for the sites of the first `at`; ``make`` makes the others."""
        self._loaded = loaded
        self.chunk_rows = chunk_rows
        self._make = make
        # What all backends of `at` share.
        self._given = [] if engine is None else [engine]
        self._engines: dict[tuple[Site, ...], Engine] = {}
        self._counts = [0]

    @property
    def facts(self) -> Loaded:
        """See `Backend.facts`."""
        return self._loaded

    @property
    def written(self) -> int:
        """See `Backend.written`."""
        return self._counts[0]

    def places(
        self, adapter: AdapterSettings, config: Mapping[str, Any] | None
    ) -> tuple[tuple[Site, ...], bool]:
        """See `Backend.places`."""
        sites = find_sites(self._loaded.model, chosen_lora(self._loaded.model, adapter, config))
        return sites, any(adapters.is_conv1d(self._loaded.model, site) for site in sites)

    def at(self, subspace: Subspace, space: Space, *, run: bool = False) -> Self:
        """See `Backend.at`."""
        require_fit(self._loaded.model, subspace)
        backend = copy.copy(self)
        backend.__dict__.pop("_blocks", None)  # those of other coordinates
        backend.subspace, backend.space = subspace, space
        backend.adapted = self._loaded.adapt(subspace.sites)
        if subspace.sites not in self._engines:
            given = self._given.pop() if self._given else self._make(backend.adapted)
            self._engines[subspace.sites] = given
        backend.engine = self._engines[subspace.sites]
        start = subspace.factors()
        backend.plain_start = not any(start[site.b].any() for site in subspace.sites)
        return backend

    def beside(self, name: str) -> LocalBackend:
        """See `Backend.beside`."""
        loaded = self._loaded
        if (loaded.name, loaded.quantization) != (name, None):
            other = loading.load(name, dtype=loaded.dtype, device=str(loaded.device))
            other.tokenizer.szpo_day = loaded.tokenizer.szpo_day
            return LocalBackend(other, chunk_rows=self.chunk_rows).beside(name)
        return self.at(EMPTY_SUBSPACE, NO_SPACE)

    def close(self) -> None:
        """See `Backend.close`."""

    def answer(self, request: AnswerRequest) -> Tokens:
        """See `Backend.answer`."""
        if self.chunk_rows is None:
            return self.answer_chunk(request)
        chunks = request.split(self.chunk_rows)
        return request.join(chunks, [self.answer_chunk(chunk) for _, chunk in chunks])

    def answer_chunk(self, request: AnswerRequest) -> Tokens:
        """Answer all rows of a request in one generation call."""
        return self.generate(
            [request.prompts[i] for i in request.rows[:, 0]],
            request.members(),
            None if request.base and self.plain_start else self.deltas(self.members(request)),
            request.sampling,
            request.uniforms(),
            canary=request.canary,
        )

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        members: Sequence[int],
        deltas: Deltas | None,
        sampling: Sampling,
        uniforms: Floats,
        *,
        canary: bool = False,
    ) -> Tokens:
        """`Engine.generate` with answers cut as the sampling says."""
        made = self.engine.generate(prompts, members, deltas, sampling, uniforms, canary=canary)
        self._counts[0] += count_written(made, self.adapted.stop_tokens)
        return cut_rows(self.adapted, made) if sampling.whole_sentences else made

    def read(self, request: Texts[R]) -> R:
        """See `Backend.read`."""
        chunks = [request] if self.chunk_rows is None else request.split(self.chunk_rows)
        values: R = join([self.read_chunk(chunk) for chunk in chunks])
        return values

    def read_chunk(self, request: Texts[Any]) -> Any:
        """Read all answers of a request in this process."""
        model, prompts, answers = self.adapted.model, request.prompts, request.answers
        samples = [Sample(p, a, i) for i, (p, a) in enumerate(zip(prompts, answers, strict=True))]
        match request:
            case Inputs():
                return logprobs.input_directions(self.adapted, samples)
            case Odds():
                return logprobs.label_odds(model, prompts, answers)
            case States():
                return logprobs.hidden_features(model, prompts, answers)
            case MeanStates():
                return states.mean_states(
                    self.adapted, samples, request.layer, self.start_deltas()
                )
            case Scores():
                return self._scores(request)
            case Totals():
                return self._totals(request)
            case LogProbs():
                own, owner = self.start_deltas(), (0,) * len(samples)
                rows = self.engine.logprobs(prompts, answers, owner, own)
                return np.concatenate([np.zeros(0), *rows])
            case Moves():
                moves = self.deltas(request.thetas)
                assert moves is not None  # there are members
                return logit_moves(
                    self.adapted, moves, samples, reference=self.start_deltas(),
                    temperature=request.temperature, fisher=request.fisher,
                )  # fmt: skip
            case KL():
                deltas = self.deltas(request.thetas)
                if deltas is None:  # no weight can have moved
                    return np.zeros(len(samples))
                return logprobs.kl_of_members(
                    self.adapted, deltas, samples, request.owner,
                    reference=self.start_deltas(), temperature=request.temperature,
                    flat=isinstance(self.engine, FlatEngine),
                )  # fmt: skip
        raise TypeError(f"{type(request).__name__} cannot be read")

    def _totals(self, request: Totals) -> Floats:
        totals, deltas = np.zeros(len(request.answers)), self.start_deltas()
        for prompt in dict.fromkeys(request.prompts):  # each is read once for all its answers
            rows = [i for i, own in enumerate(request.prompts) if own == prompt]
            answers, asked = [request.answers[i] for i in rows], [prompt] * len(rows)
            each = self.engine.logprobs(asked, answers, [0] * len(rows), deltas)
            totals[rows] = [values.sum() for values in each]
        return totals

    def _scores(self, request: Scores) -> NDArray[np.float32]:
        samples = [Sample(p, a) for p, a in zip(request.prompts, request.answers, strict=True)]
        where, width = self.subspace.factors(request.theta), scores.width_of(self.subspace.sites)
        values = np.empty((len(samples), request.law.rows, width), np.float32)
        for index, some in scores.iterate_scores(self.adapted, where, samples, request.law):
            values[index] = some
        return values.reshape(-1, width)

    def members(self, request: AnswerRequest) -> list[Theta]:
        """The master coordinates of each member."""
        if request.thetas:
            return list(request.thetas)
        at = request.theta
        if not (self.subspace.in_z and self.subspace.is_whole(at)):
            return [parameters.shift(self.space, at, shift) for shift in request.shifts]
        return [self._around(at, shift) for shift in request.shifts]

    def _around(self, at: Theta, shift: Shift) -> Theta:
        """Adopted weights, or these perturbed along the coordinates."""
        if not shift.sign:
            return at
        here = parameters.zeros(self.space.layout)
        return self.subspace.around(at, parameters.shift(self.space, here, shift)["z"])

    def deltas(self, thetas: Sequence[Theta]) -> Deltas | None:
        """LoRA deltas of members at these coordinates, on the model's device; None for none."""
        if not (thetas and self.subspace.sites):
            return None
        sites, device = self.subspace.sites, self.adapted.model.device
        whole = any(map(self.subspace.is_whole, thetas))
        if self.subspace.blocks is not None and not whole:
            gains = [self.subspace.blocks.gains(theta["z"]) for theta in thetas]
            stacked = {s.name: np.stack([each[s.name] for each in gains]) for s in sites}
            held = {name: torch.from_numpy(each).to(device) for name, each in stacked.items()}
            return replace(self._blocks, gains=held)
        members = [self.subspace.weights(theta) for theta in thetas]
        return stack(sites, self.subspace.factors(), members, device)

    @functools.cached_property
    def _blocks(self) -> Deltas:
        """The adapters' factors, once on the model's device."""
        fixed, sites = self.subspace.fixed, self.subspace.sites
        device = self.adapted.model.device
        held = {name: torch.from_numpy(value).to(device) for name, value in fixed.items()}
        return Deltas({s.name: held[s.a] for s in sites}, {s.name: held[s.b][None] for s in sites})

    def start_deltas(self) -> Deltas | None:
        """The deltas of the starting policy; None where it is the base model itself."""
        return None if self.plain_start else self.deltas([start_of(self.subspace)])


def count_written(answers: Tokens, stop: Sequence[int]) -> int:
    """Number of tokens in answers, without end tokens.

    >>> count_written(((5, 6, 1), (7,)), stop=(1,))
    3
    """
    return sum(token not in stop for answer in answers for token in answer)


def start_of(subspace: Subspace) -> Theta:
    """The master coordinates of a run's start: zeros in a subspace, else the starting factors."""
    if subspace.in_z:
        return parameters.zeros(subspace.layout)
    return {name: np.array(value, np.float32) for name, value in subspace.start.items()}


def stack(
    sites: tuple[Site, ...],
    start: Theta,
    members: Sequence[Theta],
    device: torch.device | str = "cpu",
) -> Deltas:
    """Stack members into deltas; each member replaces some tensors of ``start``.

    A stays shared where no member replaces it.
    """

    def whole(name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([m.get(name, start[name]) for m in members])).to(device)

    moved = {name for m in members for name in m}
    A = {
        s.name: whole(s.a) if s.a in moved else torch.from_numpy(start[s.a]).to(device)
        for s in sites
    }
    return Deltas(A, {s.name: whole(s.b) for s in sites})


def chosen_lora(model: Any, adapter: AdapterSettings, config: Mapping[str, Any] | None) -> Any:
    """The ``peft.LoraConfig`` of the settings, or of a starting adapter."""
    if config is not None:
        from peft import LoraConfig

        return LoraConfig.from_peft_type(**config)  # type: ignore[no-untyped-call]
    depth = int(model.config.get_text_config().num_hidden_layers)
    layers = list(range(depth)) if adapter.layers == "all" else adapter.layers
    return lora.lora_config(
        model,
        targets=adapter.targets,
        layers=None if isinstance(layers, str) else layers,
        rank=adapter.rank,
    )


def require_fit(model: Any, subspace: Subspace) -> None:
    """Refuse tensors whose shapes do not fit the model's layers."""
    held = {**subspace.fixed, **subspace.start}  # of the shapes of all factors
    for site in subspace.sites:
        for name, shape in _shapes(model, site).items():
            if held[name].shape != shape:
                raise IntegrityError(
                    f"tensor {name} is {held[name].shape} in the run, {shape} in this model; "
                    "give the model that was used"
                )


def _shapes(model: Any, site: Site) -> dict[str, tuple[int, ...]]:
    """The shapes that a site's factors must have in this model."""
    try:
        module = model.get_submodule(site.name)
    except AttributeError:
        raise IntegrityError(
            f"layer {site.name} of the run is not in this model; give the model that was used"
        ) from None
    inputs = getattr(module, "in_features", None) or getattr(module, "nx", None) or site.inputs
    outputs = getattr(module, "out_features", None) or getattr(module, "nf", None) or site.outputs
    return {site.a: (site.rank, int(inputs)), site.b: (int(outputs), site.rank)}
