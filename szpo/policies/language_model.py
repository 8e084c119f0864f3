"""The language model of a run: load it, choose its coordinates, record and restore them.

Apart from `szpo.runs.assemble`, so that runs of other policies load no tensor library.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from szpo import cache, seeds
from szpo.config.schema import Config
from szpo.errors import IntegrityError
from szpo.files import replace_whole
from szpo.generation.sampling import Sampling
from szpo.ledger.database import Ledger
from szpo.ledger.rows import THETA0
from szpo.ledger.theta import stored_tensors
from szpo.models import adapter_files, devices, loading, weight_files
from szpo.models.batched_lora import find_sites
from szpo.models.loading import Loaded
from szpo.models.lora_sites import Site
from szpo.optim import directions
from szpo.optim.settings import Settings
from szpo.policies import layer_choice, shared_basis, subspace_cache, subspace_setup
from szpo.policies.lora_policy import AnswerSampling, LoraPolicy
from szpo.policies.shared_basis import sampling_of
from szpo.policies.subspaces import SetupSettings, Subspace
from szpo.types import Answer, Prompt, Theta

Say = Callable[[str], None]


@dataclass(frozen=True)
class Base:
    """A base model and the coordinates in which a run moves it."""

    loaded: Loaded
    subspace: Subspace


def check_files(config: Config) -> None:
    """Refuse a model, an adapter or a device that is not there, before weights are loaded.

    Raises:
        UsageError: One is not, or holds no weights that may be read.
    """
    m = config.model
    devices.demand(m.device)
    if m.adapter is not None:
        weight_files.safetensors_in(Path(m.adapter), what="adapter")
    folder = loading.locate(m.name, weights=False)
    if not loading.is_hub_id(m.name):
        weight_files.safetensors_in(folder)


def prepare(config: Config, prompts: Sequence[Prompt], say: Say) -> Base:
    """Load the model and choose the coordinates; no vote is asked for and no reward is seen.

    Raises:
        UsageError: The model is missing, or a setting does not fit it.
    """
    loaded = _load(config, adapter=config.model.adapter)
    say(f"model {loaded.name}, {loaded.quantization or loaded.dtype} on {loaded.device}")
    if loaded.adapter is not None:
        say("adapter rank, alpha, targets and layers are those of the starting adapter")
    lora = _lora(config, loaded)
    sites = find_sites(loaded.model, lora)

    def make() -> Subspace:
        setup = SetupSettings(
            kind=config.subspace.kind,
            dim=config.dim,
            train=config.adapter.train,
            samples=config.subspace.samples,
            redraws=config.subspace.redraws,
            kl_samples=config.subspace.kl_samples,
            kl_radius=config.optimizer.kl_radius,
            sampling=sampling_of(config),
            root_seed=config.subspace.setup_seed,
        )
        start = _start(config, loaded, sites, config.subspace.setup_seed)
        return subspace_setup.set_up_subspace(loaded, prompts, setup, lora=lora, start=start)

    if loaded.adapter is not None:  # its tensors would have to be part of the key
        subspace = make()
    else:
        key = shared_basis.setup_key(config, loaded.sha256, loaded.dtype, prompts)
        subspace = subspace_cache.load_or_make(key, make, sites=sites)
    radius = config.optimizer.kl_radius
    report = {**subspace.report, "kl_radius": radius, "mu": subspace.mu(radius)}
    say(
        f"subspace {subspace.kind}: {subspace.dim:,} coordinates, {report.get('samples', 0)} "
        f"base answers; basis {shared_basis.describe(report)}"
    )
    return Base(loaded, replace(subspace, report=report))


@dataclass(frozen=True)
class Plain:
    """A base model and where its adapter sits, without a subspace."""

    loaded: Loaded
    sites: tuple[Site, ...]
    start: Theta
    """A and B: those of the starting adapter, or A drawn from the seed and B zero."""
    sampling: Sampling


def load_plain(config: Config, say: Say, lora: Any = None) -> Plain:
    """Load the model and find its adapter's sites, for methods that need no subspace.

    ``lora`` is a ``peft.LoraConfig`` in place of the settings'; a starting adapter keeps its own.

    Raises:
        UsageError: The model is missing, or a setting does not fit it.
    """
    loaded = _load(config, adapter=config.model.adapter)
    say(f"model {loaded.name}, {loaded.quantization or loaded.dtype}")
    own = lora is None or loaded.adapter is not None
    sites = find_sites(loaded.model, _lora(config, loaded) if own else lora)
    seed = config.run.seed
    start = _start(config, loaded, sites, seed) or random_start(sites, seed)
    return Plain(loaded, sites, start, sampling_of(config))


def restore(config: Config, ledger: Ledger) -> Base:
    """Load the model that a ledger names, and read the coordinates from the ledger.

    Raises:
        IntegrityError: The model is not the recorded one, or does not fit the tensors.
    """
    loaded = _load(config, adapter=None)
    weight_files.demand_same(ledger.row["base_sha256"], loaded.sha256, what=f"model {loaded.name}")
    parts: dict[str, dict[str, Any]] = {"fixed": {}, "start": {}, "basis": {}}
    for name, value in stored_tensors(ledger).items():
        kind, _, rest = name.partition("/")
        if kind in parts:
            parts[kind][rest] = value.astype(np.float32)
    space: Mapping[str, Any] = ledger.spec["space"]
    sites = tuple(Site(**site) for site in space["sites"])
    stored = {**parts["fixed"], **parts["start"]}
    wanted = {name: shape for site in sites for name, shape in _shapes(loaded, site).items()}
    for name, shape in wanted.items():
        found = stored[name].shape if name in stored else "missing"
        if found != shape:
            raise IntegrityError(f"tensor {name} is {found} in the run, {shape} in this model")
    start = {name: parts["start"][name] for name in wanted if name in parts["start"]}
    subspace = Subspace(
        kind=space["kind"],
        sites=sites,
        fixed=parts["fixed"],
        start=start,
        basis={name: parts["basis"][name] for name in start if name in parts["basis"]},
        scale=float(space["scale"]),
        report=space.get("report", {}),
    )
    return Base(loaded, subspace)


def make_policy(config: Config, base: Base, settings: Settings) -> LoraPolicy:
    """Make the policy at its start."""
    return LoraPolicy(
        base.loaded,
        base.subspace,
        root_seed=settings.root_seed,
        law=settings.law,
        answering=AnswerSampling(
            sampling_of(config),
            crn=config.generation.common_random_numbers,
            chunk_rows=config.engine.rows,
        ),
    )


def record(base: Base) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the ledger records of a base: facts for the run's spec, and tensors by name."""
    loaded, space = base.loaded, base.subspace
    facts = {
        "space": {
            "kind": space.kind,
            "scale": space.scale,
            "sites": [asdict(site) for site in space.sites],
            "report": dict(space.report),
            "conv1d": any(adapter_files.is_conv1d(loaded.model, site) for site in space.sites),
        },
        "base": {
            "name": loaded.name,
            "sha256": loaded.sha256,
            "dtype": loaded.dtype,
            "quantization": loaded.quantization,
            "hardware": devices.hardware(str(loaded.device)),
        },
    }
    tensors = dict(space.tensors())
    if not space.basis:
        tensors |= {f"{THETA0}{name}": value for name, value in space.start.items()}
    return facts, tensors


def load_or_draw_answers(
    config: Config, base: Base, prompts: Sequence[Prompt], draw: Callable[[], list[list[Answer]]]
) -> list[list[Answer]]:
    """Read the answers to these prompts from the cache, or draw them and write them there.

    A starting adapter is part of the policy and not of the key: its answers are not cached.
    """
    if base.loaded.adapter is not None:
        return draw()
    loaded = base.loaded
    named = [loaded.sha256, loaded.dtype, loaded.quantization, asdict(sampling_of(config)),
             [p.turns for p in prompts]]  # fmt: skip
    key = hashlib.sha256(json.dumps(named).encode()).hexdigest()
    path = cache.cache_dir() / "answers" / f"{key}.json"
    if path.is_file():
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [[Answer(*answer) for answer in row] for row in rows]
    found = draw()
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [[(a.text, a.end, a.tokens) for a in row] for row in found]
    with replace_whole(path) as draft:
        draft.write_text(json.dumps(rows), encoding="utf-8")
    return found


def _load(config: Config, *, adapter: str | None) -> Loaded:
    # bitsandbytes looks for an optional faster kernel and logs an error when it is not there.
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
    m = config.model
    return loading.load(
        m.name, dtype=m.dtype, quantization=m.quantization, adapter=adapter, device=m.device
    )


def _lora(config: Config, loaded: Loaded) -> Any:
    """The ``peft.LoraConfig`` of the settings, or that of the starting adapter."""
    if loaded.adapter is not None:
        from peft import LoraConfig

        return LoraConfig.from_pretrained(str(loaded.adapter.path))
    a = config.adapter
    depth = int(loaded.model.config.get_text_config().num_hidden_layers)
    layers = list(range(depth)) if a.layers == "all" else a.layers
    chosen = layer_choice.lora_config(
        loaded.model,
        targets=a.targets,
        layers=None if isinstance(layers, str) else layers,
        rank=a.rank,
    )
    chosen.lora_alpha = a.alpha or a.rank
    return chosen


def _start(config: Config, loaded: Loaded, sites: tuple[Site, ...], seed: int) -> Theta | None:
    """A and B at the start; None leaves A to the layers' inputs and B at zero.

    Raises:
        UsageError: The starting adapter lacks a tensor.
    """
    if loaded.adapter is not None:
        return adapter_files.factors(loaded.adapter, sites)
    if config.adapter.init == "inputs":
        return None
    return random_start(sites, seed)


def random_start(sites: Sequence[Site], root_seed: int) -> Theta:
    """Draw LoRA factors that add nothing yet: B is zero, A reads an input of unit rms as such."""
    start: dict[str, Any] = {}
    for site in sites:
        key = seeds.derive(root_seed, "adapter start", name=site.a)
        values = directions.gaussian(key, site.rank * site.inputs).astype(np.float64)
        # Unit variance over the grid 2**-8, then as wide as an input of unit rms would be read.
        values *= 2.0**-8 / site.inputs**0.5
        start[site.a] = values.reshape(site.rank, site.inputs).astype(np.float32)
        start[site.b] = np.zeros((site.outputs, site.rank), np.float32)
    return start


def _shapes(loaded: Loaded, site: Site) -> dict[str, tuple[int, ...]]:
    """The shapes that a site's factors must have in this model."""
    try:
        module = loaded.model.get_submodule(site.name)
    except AttributeError:
        raise IntegrityError(
            f"layer {site.name} of the run is not in this model; give the model that was used"
        ) from None
    inputs = getattr(module, "in_features", None) or getattr(module, "nx", None) or site.inputs
    outputs = getattr(module, "out_features", None) or getattr(module, "nf", None) or site.outputs
    return {site.a: (site.rank, int(inputs)), site.b: (int(outputs), site.rank)}
