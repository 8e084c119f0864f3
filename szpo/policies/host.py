"""Whoever holds a run's base model: this process, or workers elsewhere.

A run asks for places of an adapter, for a `Respondent` in coordinates, and for one of a judge's
model. `szpo.cluster.remote` is the same contract over workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from szpo.config.model_sections import Adapter as AdapterSettings
from szpo.errors import IntegrityError
from szpo.generation.engine import Engine
from szpo.generation.engine_choice import engine_for
from szpo.models import adapter_files, loading
from szpo.models.batched_lora import find_sites
from szpo.models.loading import Loaded, ModelFacts
from szpo.models.lora_sites import Site
from szpo.optim.parameters import Space
from szpo.policies import layer_choice
from szpo.policies.responder import NO_SPACE, NOWHERE, Respondent, Responder
from szpo.policies.subspaces import Subspace


@dataclass(frozen=True)
class Places:
    """Where an adapter sits in a model."""

    sites: tuple[Site, ...]
    conv1d: bool
    """Some of them are GPT-2's transposed ``Conv1D``."""


class Host(Protocol):
    """Whoever holds the base model, and a judge's model beside it."""

    @property
    def facts(self) -> ModelFacts:
        """The base model, as far as it is known here."""

    @property
    def chunk_rows(self) -> int | None:
        """Rows answered at a time; None: all of a request."""

    def places(self, adapter: AdapterSettings, config: Mapping[str, Any] | None) -> Places:
        """The layers that get an adapter; ``config`` is a starting adapter's own, of PEFT.

        Raises:
            UsageError: a setting does not fit the model.
        """

    def at(self, subspace: Subspace, space: Space) -> Respondent:
        """Answer in these coordinates from here on; those of an earlier call end.

        Raises:
            IntegrityError: their tensors do not fit the model.
        """

    def beside(self, name: str) -> tuple[ModelFacts, Respondent]:
        """A judge's model without adapters: the base itself where it has that name, unquantised.

        Raises:
            UsageError: no such model.
        """

    def close(self) -> None:
        """Let go of whatever holds the model; may be called twice."""


class LocalHost:
    """A `Host` whose models are in this process."""

    def __init__(
        self, loaded: Loaded, *, chunk_rows: int | None = None, engine: Engine | None = None
    ):
        """``engine`` is one made before, for the sites of the first `at`."""
        self._loaded = loaded
        self.chunk_rows = chunk_rows
        self._given = engine
        self._engines: dict[tuple[Site, ...], Engine] = {}

    @property
    def facts(self) -> Loaded:
        """See `Host.facts`."""
        return self._loaded

    def places(self, adapter: AdapterSettings, config: Mapping[str, Any] | None) -> Places:
        """See `Host.places`."""
        sites = find_sites(self._loaded.model, lora_config(self._loaded.model, adapter, config))
        conv1d = any(adapter_files.is_conv1d(self._loaded.model, site) for site in sites)
        return Places(sites, conv1d)

    def at(self, subspace: Subspace, space: Space) -> Responder:
        """See `Host.at`."""
        demand_fit(self._loaded.model, subspace)
        sites = subspace.sites
        if sites not in self._engines:
            self._engines[sites] = self._given or engine_for(self._loaded.adapt(sites))
            self._given = None
        return self._responder(subspace, space)

    def beside(self, name: str) -> tuple[Loaded, Respondent]:
        """See `Host.beside`."""
        loaded = self._loaded
        if (loaded.name, loaded.quantization) != (name, None):
            other = loading.load(name, dtype=loaded.dtype, device=str(loaded.device))
            host = LocalHost(other, chunk_rows=self.chunk_rows)
            return host.beside(name)
        if () not in self._engines:
            self._engines[()] = engine_for(loaded.adapt())
        return loaded, self._responder(NOWHERE, NO_SPACE)

    def close(self) -> None:
        """See `Host.close`."""

    def _responder(self, subspace: Subspace, space: Space) -> Responder:
        adapted = self._loaded.adapt(subspace.sites)
        engine = self._engines[subspace.sites]
        return Responder(subspace, space, engine, adapted, chunk_rows=self.chunk_rows)


def lora_config(
    model: Any, adapter: AdapterSettings, config: Mapping[str, Any] | None = None
) -> Any:
    """The ``peft.LoraConfig`` of the settings, or that of a starting adapter."""
    if config is not None:
        from peft import LoraConfig

        return LoraConfig.from_peft_type(**config)  # type: ignore[no-untyped-call]
    depth = int(model.config.get_text_config().num_hidden_layers)
    layers = list(range(depth)) if adapter.layers == "all" else adapter.layers
    chosen = layer_choice.lora_config(
        model,
        targets=adapter.targets,
        layers=None if isinstance(layers, str) else layers,
        rank=adapter.rank,
    )
    chosen.lora_alpha = adapter.alpha or adapter.rank
    return chosen


def demand_fit(model: Any, subspace: Subspace) -> None:
    """Refuse tensors of other shapes than the model's layers take.

    Raises:
        IntegrityError: a layer or a shape differs.
    """
    held = {**subspace.fixed, **subspace.start}
    for site in subspace.sites:
        for name, shape in _shapes(model, site).items():
            if held[name].shape != shape:
                raise IntegrityError(
                    f"tensor {name} is {held[name].shape} in the run, {shape} in this model"
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
