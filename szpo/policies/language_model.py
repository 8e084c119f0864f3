"""The language model of a run: load it, choose its coordinates, record and restore them.

Separate from `szpo.runs.assemble`, so that runs of other policies load no tensor library.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import psutil

from szpo import cache, plugins, seeds
from szpo.config import auto_model
from szpo.config.schema import Config
from szpo.errors import IntegrityError, UsageError
from szpo.files import quoted
from szpo.ledger.canonical import THETA0
from szpo.ledger.database import Ledger
from szpo.models import adapters, loading
from szpo.models.batched_lora import find_sites
from szpo.models.identity import TENSORS, Identity, require_same
from szpo.models.loading import Described, Loaded, ModelFacts
from szpo.models.local_engines import engine_for
from szpo.models.lora import Site
from szpo.models.sampling import Sampling
from szpo.optim import sample_directions
from szpo.optim.settings import Settings
from szpo.policies import stacked_adapters, subspace_setup, subspaces
from szpo.policies.backend import Backend, LocalBackend, chosen_lora
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.subspace_setup import sampling_of
from szpo.policies.subspaces import Blocks, Subspace
from szpo.types import Answer, Detail, Progress, Prompt, Say, Theta, unseen

SHIPPED = Path(__file__).parents[1] / "data" / "answers"
"""Folder of shipped answers of base models, to which simulated panels are fitted."""
Model: TypeAlias = tuple[str, str]
"""Facts of a base on which its answers depend: digest of its identity, dtype."""
Answers: TypeAlias = list[list[Answer]]
"""Several answers to each prompt."""


@dataclass(frozen=True)
class Base:
    """A base model and the coordinates in which a run moves it."""

    host: Backend
    subspace: Subspace
    conv1d: bool = False
    """Some adapted layers are GPT-2's transposed ``Conv1D``."""
    recorded: Identity | None = None
    """What a resumed run's ledger says of the model, its starting adapter included."""

    @property
    def loaded(self) -> ModelFacts:
        """What this process knows of the model; a `Loaded` if this process holds it."""
        facts = self.host.facts
        return facts if self.recorded is None else replace(facts, identity=self.recorded)


def load_host(config: Config, *, adapter: bool) -> LocalBackend:
    """Load the model of the settings into this process, with or without its starting adapter."""
    loaded = _load(config, adapter=config.model.adapter if adapter else None)
    kind = config.engine.kind
    make = engine_for
    if config.engine.is_local and kind != "local":
        make = plugins.load("szpo.engines", kind, "engine")
    return LocalBackend(loaded, chunk_rows=config.engine.rows, make=make)


def describe(config: Config, *, adapter: bool) -> Described:
    """Read the facts of the settings' model without its weights, which workers hold."""
    m = config.model
    if m.dtype == "auto":  # `szpo.runs.run_engine.choose_device` names one
        raise UsageError("model.dtype auto is chosen on the machine that holds the model")
    return loading.describe(
        m.name, dtype=m.dtype, quantization=m.quantization,
        adapter=m.adapter if adapter else None, device=m.device,
    )  # fmt: skip


def prepare(
    config: Config,
    host: Backend,
    prompts: Sequence[Prompt],
    say: Say,
    progress: Progress = unseen,
) -> Base:
    """Choose the coordinates of a new run; no vote is asked for and no reward is seen."""
    loaded = host.facts
    say(f"model {loaded.name}, {loaded.quantization or loaded.dtype} on {loaded.device}")
    if loading.writes_date(loaded.tokenizer):
        day = loaded.tokenizer.szpo_day
        say(f"the chat template writes today's date: it stays {day} in this run")
    if config.panel.kind == "people":
        free_gib = psutil.virtual_memory().available / 2**30
        if small := auto_model.hint(
            config.model.name, free_gib, auto_model.NUMBER_BYTES[loaded.dtype]
        ):
            say(f"warning: {small}")
    if loaded.adapter is not None and config.coordinates != "adapters":
        say("adapter.rank, targets and layers are those of the starting adapter")
    if config.coordinates == "none":
        say(subspace_setup.describe_none(config))
        if loaded.adapter is None:
            return Base(host, Subspace("none", (), {}, {}, {}))
        sites, conv1d = host.places(config.adapter, _start_config(loaded))
        return Base(host, Subspace("none", sites, _start(loaded, sites) or {}, {}, {}), conv1d)
    start: Theta | None
    blocks: Blocks | None = None
    if config.coordinates == "adapters":
        sites, start, blocks, conv1d = stacked_adapters.gather(config, host, say)
    else:
        sites, conv1d = host.places(config.adapter, _start_config(loaded))
        start = _start(loaded, sites)
    key = subspace_setup.setup_key(config, loaded.sha256, loaded.dtype, prompts)
    make = partial(
        subspace_setup.choose_subspace, host, sites, prompts, config, start, blocks, progress
    )
    subspace = subspace_setup.load_or_make(key, make, sites)
    if subspace.blocks is not None and blocks is not None:  # stored ones may have lain elsewhere
        subspace = replace(subspace, blocks=replace(subspace.blocks, sources=blocks.sources))
    radius = config.optimizer.kl_radius
    report = {**subspace.report, "kl_radius": radius, "mu": subspace.mu(radius)}
    made = (
        f"{report.get('samples', 0)} base answers; basis {subspace_setup.describe_making(report)}"
    )
    say(Detail(f"subspace {subspace.kind}: {subspace.dim:,} coordinates, {made}"))
    return Base(host, replace(subspace, report=report), conv1d)


@dataclass(frozen=True)
class Plain:
    """A base model with its adapter's sites, without a subspace."""

    loaded: Loaded
    sites: tuple[Site, ...]
    start: Theta
    """A and B of the starting adapter, or else A drawn from the seed and B zero."""
    sampling: Sampling


def load_plain(config: Config, say: Say, lora: Any = None) -> Plain:
    """Load the model and find its adapter's sites, for methods that need no subspace.

    ``lora``, a ``peft.LoraConfig``, replaces the settings'; a starting adapter keeps its own.
    """
    loaded = _load(config, adapter=config.model.adapter)
    say(f"model {loaded.name}, {loaded.quantization or loaded.dtype}")
    return place(loaded, config, lora)


def place(loaded: Loaded, config: Config, lora: Any = None) -> Plain:
    """A loaded model with its adapter's sites; see `load_plain`."""
    own = lora is None or loaded.adapter is not None
    chosen = chosen_lora(loaded.model, config.adapter, _start_config(loaded)) if own else lora
    sites = find_sites(loaded.model, chosen)
    start = _start(loaded, sites) or random_start(sites, config.run.root_seed)
    return Plain(loaded, sites, start, sampling_of(config))


def restore(host: Backend, ledger: Ledger) -> Base:
    """Read the coordinates of a recorded run, for the model that its ledger names."""
    loaded = host.facts
    recorded = require_recorded(ledger, loaded)
    begun = datetime.fromtimestamp(ledger.row["created_us"] / 1e6, UTC).date().isoformat()
    loaded.tokenizer.szpo_day = date.fromisoformat(ledger.spec["base"].get("day", begun))
    space: Mapping[str, Any] = ledger.spec["space"]
    try:
        subspace = subspaces.read_recorded(ledger)
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"{ledger.path.name}: the coordinates on record are damaged ({error}); restore a "
            f"copy, or see: szpo verify {quoted(ledger.path)}"
        ) from None
    return Base(host, subspace, bool(space.get("conv1d")), recorded)


def require_recorded(ledger: Ledger, facts: ModelFacts) -> Identity | None:
    """The identity of a ledger's model, which this must be; None in a ledger without one.

    An older ledger has the digest of the tensors alone, and only they are compared.

    Raises:
        IntegrityError: The model is another; the message names what changed.
    """
    parts = ledger.spec["base"].get("parts")
    if parts is None:
        logging.getLogger("szpo").warning(
            f"{ledger.path.name} was recorded when a model's digest covered its tensors alone; "
            "whether its configuration, tokenizer and chat template are the same cannot be told"
        )
        old = Identity({TENSORS: ledger.row["base_sha256"]})
        here = Identity({TENSORS: facts.identity.parts[TENSORS]})
        require_same(old, here, what=f"model {facts.name}")
        return None
    recorded = Identity(parts)
    require_same(recorded.base, facts.identity.base, what=f"model {facts.name}")
    return recorded


def make_policy(config: Config, base: Base, settings: Settings) -> LoraPolicy:
    """Make the policy at its start."""
    policy = LoraPolicy(
        base.loaded,
        base.subspace,
        root_seed=settings.root_seed,
        law=settings.law,
        sampling=sampling_of(config),
        crn=config.optimizer.pairing == "antithetic",
        host=base.host,
    )
    if settings.spans:
        policy.guide(settings.spans)
    return policy


def record(base: Base) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ledger's record of a base: facts for the run's spec, and tensors by name."""
    loaded, space = base.loaded, base.subspace
    facts = {
        "space": {**space.facts(), "conv1d": base.conv1d},
        "base": {
            "name": loaded.name,
            "sha256": loaded.sha256,
            "parts": dict(loaded.identity.parts),
            "dtype": loaded.dtype,
            "quantization": loaded.quantization,
            "hardware": loaded.hardware,
        },
    }
    if loading.writes_date(loaded.tokenizer):
        facts["base"]["day"] = loaded.tokenizer.szpo_day.isoformat()
    tensors = dict(space.tensors())
    if not space.in_z:
        tensors |= {f"{THETA0}{name}": value for name, value in space.start.items()}
    return facts, tensors


def load_or_draw_answers(
    config: Config, base: Base, prompts: Sequence[Prompt], draw: Callable[[], Answers]
) -> Answers:
    """Read the answers to these prompts from the package or the cache, or draw and store them."""
    model = (base.loaded.sha256, base.loaded.dtype)
    answers = find_answers(config, model, prompts)
    if answers is None:
        answers = draw()
        cache.keep(_stored_answers(config, model, prompts), partial(write_answers, answers))
    return answers


def find_answers(config: Config, model: Model, prompts: Sequence[Prompt]) -> Answers | None:
    """The base's answers to these prompts from the package or the cache; None if not stored."""
    usual = answers_name(config, (model[0], subspace_setup.SHIPPED_DTYPE), prompts)
    stored = _stored_answers(config, model, prompts)
    return cache.read_either(SHIPPED / usual, stored, read_answers, "the answers of the base are")


def _stored_answers(config: Config, model: Model, prompts: Sequence[Prompt]) -> Path:
    name = answers_name(config, model, prompts, config.engine.rows)
    return cache.cache_dir() / "answers" / name


def answers_name(
    config: Config, model: Model, prompts: Sequence[Prompt], rows: int | None = None
) -> str:
    """The file name of a base's answers: a digest of everything that they depend on.

    ``rows``: those of a chunk; None for shipped ones, which serve every engine.
    """
    named: list[Any] = [*model]
    named += [sampling_of(config).facts(), [p.turns for p in prompts]]
    named += [] if rows is None else [rows]
    return f"{hashlib.sha256(json.dumps(named).encode()).hexdigest()}.json"


def write_answers(answers: Sequence[Sequence[Answer]], path: Path) -> None:
    """Write answers as JSON."""
    rows = [[astuple(answer) for answer in row] for row in answers]
    path.write_text(json.dumps(rows), encoding="utf-8")


def read_answers(path: Path) -> Answers:
    """Read what `write_answers` wrote."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [[Answer(*answer) for answer in row] for row in rows]


def _load(config: Config, *, adapter: str | None) -> Loaded:
    # bitsandbytes looks for an optional faster kernel and logs an error if it is missing.
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
    m = config.model
    return loading.load(
        m.name, dtype=m.dtype, quantization=m.quantization, adapter=adapter, device=m.device
    )


def _start_config(loaded: ModelFacts) -> Mapping[str, Any] | None:
    """PEFT's settings of the starting adapter; None without one."""
    return None if loaded.adapter is None else loaded.adapter.config


def _start(loaded: ModelFacts, sites: tuple[Site, ...]) -> Theta | None:
    """A and B of the starting adapter; None: A will come from the layers' inputs, B is zero."""
    return None if loaded.adapter is None else adapters.factors(loaded.adapter, sites)


def random_start(sites: Sequence[Site], root_seed: int) -> Theta:
    """Draw LoRA factors that add nothing yet: B is zero, A maps unit-rms inputs to unit rms."""
    start: dict[str, Any] = {}
    for site in sites:
        key = seeds.derive(root_seed, "adapter start", name=site.a)
        values = sample_directions.gaussian(key, site.rank * site.inputs).astype(np.float64)
        # Unit variance on the grid 2**-8, then scaled for inputs of unit rms.
        values *= 2.0**-8 / site.inputs**0.5
        start[site.a] = values.reshape(site.rank, site.inputs).astype(np.float32)
        start[site.b] = np.zeros((site.outputs, site.rank), np.float32)
    return start
