"""`Actor`: the policy of a gradient method, a LoRA on the model and sites of an szpo run.

It is a `szpo.policies.lora_policy.LoraPolicy` that moves in A and B, so all methods decode in the
same way. For training, PEFT wraps the base model and is removed afterwards; there is one copy of
the base weights. Adapter weights are always fp32, also on a bf16 or 4-bit base.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from szpo import seeds
from szpo.errors import UsageError
from szpo.models import adapters, lora
from szpo.models.engine_contract import Engine
from szpo.models.loading import Loaded
from szpo.models.lora import Site
from szpo.models.packed_layers import allow_gradients
from szpo.models.sampling import Sampling
from szpo.policies.backend import AnswerRequest, LocalBackend, Texts, Tokens
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.subspaces import Subspace
from szpo.types import Theta

Peft: TypeAlias = Any
"""A ``peft.PeftModel``."""


class Actor(LoraPolicy):
    """A policy whose LoRA factors A and B are trained by gradients.

    KL and fluency are measured against the start: the base model, or base plus starting adapter.
    It can answer and be measured during a training too.
    """

    loaded: Loaded

    def __init__(
        self,
        loaded: Loaded,
        sites: Sequence[Site],
        start: Theta,
        *,
        sampling: Sampling | None = None,
        seed: int = 0,
        engine: Engine | None = None,
    ):
        """Make an actor at its start.

        ``start``: A and B by ``site.a`` and ``site.b``. ``engine``: None makes one for the model.
        """
        self.sites = tuple(sites)
        self._peft: Peft | None = None
        both = {name: start[name] for site in self.sites for name in (site.a, site.b)}
        super().__init__(
            loaded,
            Subspace("full", self.sites, {}, both, {}),
            root_seed=seed,
            sampling=sampling,
            host=BareBackend(loaded, engine=engine),
        )

    @classmethod
    def beside(
        cls,
        loaded: Loaded,
        subspace: Subspace,
        *,
        sampling: Sampling | None = None,
        engine: Engine | None = None,
    ) -> Actor:
        """An actor with the sites, rank and start of a run in this subspace; A is trained too."""
        return cls(loaded, subspace.sites, subspace.factors(), sampling=sampling, engine=engine)

    def complete(self, rows: Sequence[Sequence[int]], *, seed: int) -> tuple[tuple[int, ...], ...]:
        """Sample a continuation of each row of tokens, including an end token."""
        self.require_room(rows)
        sampling = self.sampling
        width = sampling.max_new_tokens
        draws = seeds.uniform(seeds.derive(seed, "complete rows"), len(rows) * width)
        deltas = self.deltas([self.theta()])
        with without_adapters(self.loaded.model):
            return self.local.generate(
                rows, [0] * len(rows), deltas, sampling, draws.reshape(len(rows), width)
            )

    def theta(self) -> Theta:
        """A and B at the current weights, fp32; read-only."""
        if self._peft is not None:
            self.move_to(read_weights(self._peft.get_base_model(), self.sites))
        return super().theta()

    def save_adapter(self, path: Path, *, theta: Theta | None = None) -> None:
        """See `LoraPolicy.save_adapter`."""
        with without_adapters(self.loaded.model):
            super().save_adapter(path, theta=theta)

    @contextmanager
    def training(self, *, dropout: float = 0.0) -> Iterator[Peft]:
        """Wrap the model by PEFT, with its adapter "default" trainable from current weights.

        After the block the actor has the trained weights; after an error, the earlier ones.
        Inside, `sample`, `kl` and other methods use the weights of that moment.
        """
        if self._peft is not None:
            raise UsageError("the actor is being trained already; one training at a time")
        with wrap_peft(self.loaded, self.sites, dropout=dropout) as peft:
            before = self.theta()
            write_weights(peft.get_base_model(), self.sites, before)
            self._peft = peft
            try:
                yield peft
                self.theta()
            except BaseException:
                self.move_to(before)  # sampling moved it to intermediate weights
                raise
            finally:
                self._peft = None


class BareBackend(LocalBackend):
    """A `LocalBackend` that removes PEFT's layers from the model while it answers or reads."""

    def answer_chunk(self, request: AnswerRequest) -> Tokens:
        """See `LocalBackend.answer_chunk`."""
        with without_adapters(self.adapted.model):
            return super().answer_chunk(request)

    def read_chunk(self, request: Texts[Any]) -> Any:
        """See `LocalBackend.read_chunk`."""
        with without_adapters(self.adapted.model):
            return super().read_chunk(request)


# --- PEFT around the base model ------------------------------------------------------------------


@contextmanager
def wrap_peft(
    loaded: Loaded,
    sites: Sequence[Site],
    *,
    model: Any = None,
    task: str | None = "CAUSAL_LM",
    dropout: float = 0.0,
) -> Iterator[Peft]:
    """Yield the model wrapped by PEFT with a trainable fp32 adapter "default"; unwrap it after.

    ``model`` is wrapped instead of the loaded one, such as a classifier around the same layers.
    """
    from peft import LoraConfig, get_peft_model

    base = loaded.model if model is None else model
    conv1d = any(adapters.is_conv1d(base, site) for site in sites)
    settings = lora.peft_config(sites, base=loaded.name, conv1d=conv1d)
    settings |= {"inference_mode": False, "lora_dropout": dropout, "task_type": task}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # a tied LM head may be a site
        peft = get_peft_model(base, LoraConfig(**settings))
    try:
        with allow_gradients(base):
            yield peft
    finally:
        for site in sites:
            layer = base.get_submodule(site.name)
            base.set_submodule(site.name, layer.get_base_layer())
        vars(base).pop("forward", None)  # a trainer may have replaced it
        vars(base).pop("peft_config", None)
        base.requires_grad_(False)
        base.eval()


@contextmanager
def without_adapters(model: Any) -> Iterator[None]:
    """Remove PEFT's layers from the model within the block, and restore them afterwards."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
    training = model.training
    for name, layer in layers:
        model.set_submodule(name, layer.get_base_layer())
    model.eval()
    try:
        yield
    finally:
        for name, layer in layers:
            model.set_submodule(name, layer)
        model.train(training)


def read_weights(model: Any, sites: Sequence[Site]) -> Theta:
    """Read A and B of PEFT's adapter "default" in the model, as fp32 copies."""
    return {
        name: factor.detach().to("cpu", torch.float32).numpy().copy()
        for site in sites
        for name, factor in _factors(model, site, "default")
    }


def write_weights(
    model: Any, sites: Sequence[Site], theta: Theta, adapter: str = "default"
) -> None:
    """Set A and B of a PEFT adapter in the model, as fp32 on the model's device.

    Factors that a trainer has rounded to bf16 become fp32 again.
    """
    for site in sites:
        for name, factor in _factors(model, site, adapter):
            value = torch.from_numpy(np.array(theta[name], np.float32))
            factor.data = value.to(factor.device)


def _factors(model: Any, site: Site, adapter: str) -> Iterator[tuple[str, nn.Parameter]]:
    layer = model.get_submodule(site.name)
    yield site.a, layer.lora_A[adapter].weight
    yield site.b, layer.lora_B[adapter].weight
