"""`Actor`: the policy of a gradient method, a LoRA on the model and sites of a run of szpo.

Its weights are the A and B of a `szpo.policies.lora_policy.LoraPolicy`, which draws and measures
answers: all methods share one way of decoding. For training, PEFT wraps the base model and is
removed afterwards; base weights exist once. Adapter weights are fp32 throughout, also on a bf16 or
4-bit base.
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
from szpo.generation.engine import Engine
from szpo.generation.sampling import Sampling
from szpo.models import adapter_files, peft_format
from szpo.models.batched_lora import find_sites
from szpo.models.four_bit import allow_gradients
from szpo.models.loading import Loaded
from szpo.models.lora_sites import Site
from szpo.policies import language_model
from szpo.policies.lora_policy import AnswerSampling, LoraPolicy
from szpo.policies.responder import LocalHost
from szpo.policies.subspaces import Subspace
from szpo.types import Answer, Floats, Prompt, Theta

Peft: TypeAlias = Any
"""A ``peft.PeftModel``."""


class Actor:
    """A policy whose LoRA factors A and B are trained by gradients.

    KL and fluency are measured against the start: the base model, or base plus starting adapter.
    """

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
        """An actor at its start.

        Args:
            loaded: The base model.
            sites: Layers with a LoRA.
            start: A and B at the start, by ``site.a`` and ``site.b``.
            sampling: How answers are drawn.
            seed: Root seed of everything the actor draws by itself.
            engine: Generates; made for the model where None.
        """
        self.sites = tuple(sites)
        both = {name: start[name] for site in self.sites for name in (site.a, site.b)}
        self.policy = LoraPolicy(
            loaded,
            Subspace("full", self.sites, {}, both, {}),
            root_seed=seed,
            answering=AnswerSampling(sampling or Sampling()),
            host=LocalHost(loaded, engine=engine),
        )
        self.loaded = loaded
        self._peft: Peft | None = None

    @classmethod
    def beside(
        cls,
        loaded: Loaded,
        subspace: Subspace,
        *,
        sampling: Sampling | None = None,
        seed: int = 0,
        engine: Engine | None = None,
    ) -> Actor:
        """The actor of the same sites, rank and start as a run in this subspace; A moves too."""
        start = {**subspace.fixed, **subspace.start}
        return cls(loaded, subspace.sites, start, sampling=sampling, seed=seed, engine=engine)

    @classmethod
    def fresh(
        cls,
        loaded: Loaded,
        config: Any,
        *,
        sampling: Sampling | None = None,
        seed: int = 0,
        engine: Engine | None = None,
    ) -> Actor:
        """An actor on the sites of a ``peft.LoraConfig``, with A drawn from the seed and B zero.

        Raises:
            UsageError: the config does not fit the model, or is more than plain LoRA.
        """
        sites = find_sites(loaded.model, config)
        start = language_model.random_start(sites, seed)
        return cls(loaded, sites, start, sampling=sampling, seed=seed, engine=engine)

    # ---- generation and measurements: as a `LoraPolicy`, also in the middle of training ----

    def sample(
        self, prompts: Sequence[Prompt], samples: int = 1, *, seed: int, base: bool = False
    ) -> list[list[Answer]]:
        """``samples`` answers to each prompt, at the current weights or at the start."""
        with self._unwrap_peft():
            return self.policy.sample(prompts, samples, seed=seed, base=base)

    def sample_tokens(
        self, prompts: Sequence[Prompt], samples: int = 1, *, seed: int
    ) -> tuple[tuple[int, ...], ...]:
        """The tokens of `sample`, an end token included: all answers to a prompt in a row."""
        with self._unwrap_peft():
            return self.policy.sample_tokens(prompts, samples, seed=seed)

    def complete(self, rows: Sequence[Sequence[int]], *, seed: int) -> tuple[tuple[int, ...], ...]:
        """Tokens that continue each row of tokens, an end token included."""
        self.policy.demand_room(rows)
        width = self.policy.answering.sampling.max_new_tokens
        draws = seeds.uniform(seeds.derive(seed, "complete rows"), len(rows) * width)
        with self._unwrap_peft():
            deltas = self.policy.deltas([self.policy.theta()])
            return self.policy.engine.generate(
                rows,
                [0] * len(rows),
                deltas,
                self.policy.answering.sampling,
                draws.reshape(len(rows), width),
            ).tokens

    def logprob_base(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        """Mean log-probability per token of each answer at the start, nats."""
        with self._unwrap_peft():
            return self.policy.logprob_base(prompts, answers)

    def total_logprob_base(self, prompt: Prompt, answers: Sequence[Answer]) -> Floats:
        """Log-probability of each whole answer after the prompt at the start, nats (answers,)."""
        with self._unwrap_peft():
            return self.policy.total_logprob_base(prompt, answers)

    def kl(self, prompts: Sequence[Prompt], *, seed: int, samples: int = 1) -> tuple[float, float]:
        """KL(π ‖ π_start) in nats per completion, with its standard error over prompts."""
        with self._unwrap_peft():
            return self.policy.kl(prompts, seed=seed, samples=samples)

    def digest(self) -> str:
        """SHA-256 of the trained weights in canonical form."""
        with self._unwrap_peft():
            return self.policy.digest()

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt's tokens, through the chat template."""
        return self.policy.encode(prompt)

    # ---- weights ----

    def theta(self) -> Theta:
        """A and B at the current weights, fp32; not to be written to."""
        if self._peft is not None:
            self.policy.move_to(read(self._peft.get_base_model(), self.sites))
        return self.policy.theta()

    def start(self) -> Theta:
        """A and B at the start."""
        return self.policy.start()

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter in PEFT's format.

        Raises:
            StorageError: The folder cannot be written.
        """
        with self._unwrap_peft():
            self.policy.save_adapter(folder)

    @contextmanager
    def training(self, *, dropout: float = 0.0) -> Iterator[Peft]:
        """The model wrapped by PEFT, its adapter "default" at the current weights and trainable.

        After the block the actor has the trained weights; after an error, those from before.
        Inside, `sample`, `kl` and the rest use the weights of that moment.
        """
        if self._peft is not None:
            raise UsageError("the actor is being trained already; one training at a time")
        with wrap_peft(self.loaded, self.sites, dropout=dropout) as peft:
            write(peft.get_base_model(), self.sites, self.policy.theta())
            before = self.policy.theta()
            self._peft = peft
            try:
                yield peft
                self.theta()
            except BaseException:
                self.policy.move_to(before)  # sampling has moved it to weights on the way
                raise
            finally:
                self._peft = None

    @contextmanager
    def _unwrap_peft(self) -> Iterator[None]:
        if self._peft is None:
            yield
            return
        self.theta()
        with without_adapters(self.loaded.model):
            yield


# --- PEFT around the base model, and off again ---------------------------------------------------


@contextmanager
def wrap_peft(
    loaded: Loaded,
    sites: Sequence[Site],
    *,
    model: Any = None,
    task: str | None = "CAUSAL_LM",
    dropout: float = 0.0,
) -> Iterator[Peft]:
    """The model wrapped by PEFT, with a trainable fp32 adapter "default"; unwrapped afterwards.

    ``model`` replaces the loaded one where a shell around the same weights is trained.
    """
    from peft import LoraConfig, get_peft_model

    base = loaded.model if model is None else model
    conv1d = any(adapter_files.is_conv1d(base, site) for site in sites)
    settings = peft_format.peft_config(sites, base=loaded.name, conv1d=conv1d)
    settings |= {"inference_mode": False, "lora_dropout": dropout, "task_type": task}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # a tied LM head among the sites is meant
        peft = get_peft_model(base, LoraConfig(**settings))
    try:
        with allow_gradients(base):
            yield peft
    finally:
        for site in sites:
            layer = base.get_submodule(site.name)
            base.set_submodule(site.name, layer.get_base_layer())
        vars(base).pop("forward", None)  # trainers may have put their own in its place
        vars(base).pop("peft_config", None)
        base.requires_grad_(False)
        base.eval()


@contextmanager
def without_adapters(model: Any) -> Iterator[None]:
    """Take PEFT's layers out of the model inside the block and put them back afterwards."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = [(n, m) for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
    training = model.training
    for name, layer in found:
        model.set_submodule(name, layer.get_base_layer())
    model.eval()
    try:
        yield
    finally:
        for name, layer in found:
            model.set_submodule(name, layer)
        model.train(training)


def read(model: Any, sites: Sequence[Site], adapter: str = "default") -> Theta:
    """A and B of an adapter that PEFT put into the model, as fp32 copies."""
    return {
        name: factor.detach().to("cpu", torch.float32).numpy().copy()
        for site in sites
        for name, factor in _factors(model, site, adapter)
    }


def write(model: Any, sites: Sequence[Site], theta: Theta, adapter: str = "default") -> None:
    """Set A and B of an adapter that PEFT put into the model, as fp32 on the model's device.

    Also brings back to fp32 what a trainer has rounded to bf16.
    """
    for site in sites:
        for name, factor in _factors(model, site, adapter):
            value = torch.from_numpy(np.array(theta[name], np.float32))
            factor.data = value.to(factor.device)


def _factors(model: Any, site: Site, adapter: str) -> Iterator[tuple[str, nn.Parameter]]:
    layer = model.get_submodule(site.name)
    yield site.a, layer.lora_A[adapter].weight
    yield site.b, layer.lora_B[adapter].weight
