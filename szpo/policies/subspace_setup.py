"""Choose and scale the coordinates of a run, once per model and settings.

A stored subspace depends only on its key: the base model, the adapter, the coordinates' settings,
the sampling, the prompts and the set-up's own seed. The run's seed, panel and rule are not part of
the key, so runs share one basis. No set-up uses votes or rewards. Files lie in the user's cache; a
few that are wanted often ship with the package.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from szpo import cache
from szpo.config.schema import ADAPTER_SAMPLES, CURVE_ANSWERS, KL_SAMPLES, NAMED, Config
from szpo.errors import ResourceError, UsageError
from szpo.features import dictionary, user_features
from szpo.files import quoted, replace_whole
from szpo.models import adapters, devices, identity, loading, named_models
from szpo.models.identity import Identity
from szpo.models.logprobs import Sample
from szpo.models.lora import Site
from szpo.models.sampling import Sampling
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import Law
from szpo.policies.backend import Backend
from szpo.policies.basis import ANSWERS_EACH, feature_subspace
from szpo.policies.probe import ROWS, Probe, draw_ruler, full_subspace
from szpo.policies.stacked_adapters import adapter_subspace
from szpo.policies.subspaces import Blocks, Subspace, every_b
from szpo.types import Progress, Prompt, Theta, unseen
from szpo.voting.panel_factory import find_rate

VERSION = 2
"""Increase it with every change to the set-up, so that older files are not read again."""
SHIPPED = Path(__file__).parents[1] / "data" / "bases"
"""Folder of the files that ship; ``index.json`` there has the digest of each file."""
SHIPPED_SAMPLES: Final = 4096
"""Base answers of the files that ship; settings may ask for fewer. Adapters have
`ADAPTER_SAMPLES`."""
SHIPPED_DTYPE: Final = "bf16"
"""Dtype of the weights with which shipped files were made; they serve a model in any dtype.

Rounding hardly changes the distribution of answers, and so their scores and KL.
"""
ROUNDED: Final = {"rounded": "fp16", "credit": "by parts"}
"""How coordinates of named features are made; part of their key."""
RATES: Final = {"kind", "model", "base_url", "ask", "temperature", "max_tokens"}
"""Settings of a judge on which its ratings depend."""
MAKING: Final = 12_000
"""Answers that a usual set of adapters takes, roughly."""
Origin: TypeAlias = Literal["made", "cache", "shipped"]
"""Whether a basis was made for this run, or shared: from the cache, or from the package."""

WORKERS_ROWS = 4096
"""Answers that workers are asked for at once; they cut them into chunks."""
INPUT_SAMPLES = 64
"""Number of answers whose layer inputs give A."""


def write_subspace(subspace: Subspace, path: Path) -> None:
    """Write a subspace to one ``.npz`` file, atomically."""
    arrays: dict[str, Any] = {name: shorten(value) for name, value in subspace.tensors().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_whole(path) as draft, draft.open("wb") as file:
            np.savez(file, **arrays, facts=np.array(json.dumps(subspace.facts())))
    except OSError as error:
        raise ResourceError(f"cannot write {path} ({error.strerror or error})") from None


def shorten(values: NDArray[np.float32]) -> NDArray[Any]:
    """The same values in fp16 if it holds them exactly, as for coordinates of features."""
    with np.errstate(over="ignore"):
        short = values.astype(np.float16)
    return short if np.array_equal(short.astype(np.float32), values) else values


def read_subspace(path: Path) -> Subspace:
    """Read the subspace that `write_subspace` wrote."""
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        tensors = {name: file[name] for name in file.files if name != "facts"}
        subspace = Subspace.from_facts(json.loads(str(file["facts"])), tensors)
    if subspace.kind == "features" and subspace.features is None:
        raise ValueError("a set-up of named features without them")
    if not all(np.isfinite(value).all() for value in tensors.values()):
        raise ValueError("a tensor is not finite")
    return subspace


def file_name(key: Mapping[str, Any]) -> str:
    """The file name for a key: a digest of the key and `VERSION`."""
    text = json.dumps([VERSION, dict(key)], sort_keys=True)
    return f"{hashlib.sha256(text.encode()).hexdigest()}.npz"


def cached_path(key: Mapping[str, Any]) -> Path:
    """The path in the cache of the set-up with this key."""
    return cache.cache_dir() / "setups" / file_name(key)


def find_subspace(key: Mapping[str, Any]) -> Subspace | None:
    """Read the subspace of this key from the package or the cache; None if neither has it.

    ``report["origin"]`` says which had it. A shipped file with a wrong digest is not read, and
    gives a warning; an unreadable file in the cache is deleted.
    """
    asked = key.get("subspace", {})
    base = [*key.get("base", [None])[:1], SHIPPED_DTYPE]
    most = ADAPTER_SAMPLES if asked.get("kind") == "adapters" else SHIPPED_SAMPLES
    if asked.get("samples", 0) <= most:
        there = {**asked, "samples": most}
        name = file_name({**key, "base": base, "subspace": there})
        shipped = cache.read_shipped(SHIPPED / name, read_subspace, "the coordinates are")
        if shipped is not None:
            return _with_origin(shipped, "shipped")
    stored = cache.read_stored(cached_path(key), read_subspace)
    return None if stored is None else _with_origin(stored, "cache")


def load_or_make(
    key: Mapping[str, Any],
    make: Callable[[], Subspace],
    sites: tuple[Site, ...],
) -> Subspace:
    """Read the subspace of this key, or ``make`` it and write it to the cache.

    A subspace that was made for other LoRA ``sites`` is made again. ``report["origin"]`` says
    where it comes from. A cache that cannot be written is not an error.
    """
    subspace = find_subspace(key)
    if subspace is not None and subspace.sites == sites:
        return subspace
    made = make()
    with contextlib.suppress(ResourceError):
        write_subspace(made, cached_path(key))
    return _with_origin(made, "made")


def _with_origin(subspace: Subspace, origin: Origin) -> Subspace:
    return replace(subspace, report={**subspace.report, "origin": origin})


# ---- what a run's settings ask for ----


def sampling_of(config: Config) -> Sampling:
    """How the answers of a run with these settings are sampled."""
    g = config.generation
    return Sampling(g.temperature, g.top_p, g.max_new_tokens, tuple(g.stop), g.whole_sentences)


def setup_key(
    config: Config, sha256: str, dtype: str, prompts: Sequence[Prompt]
) -> dict[str, Any]:
    """Everything that a set-up depends on, as plain JSON; not the run's own seed.

    The device is left out: answers do not depend on it.
    """
    space = config.subspace
    kind = config.coordinates
    named = kind == "features"
    return {
        "base": [sha256, dtype],
        # "train" was a setting once; what ships is named by it.
        "adapter": config.adapter.model_dump(mode="json")
        | {"train": "AB" if kind == "full" else "B"},
        # Listed one by one, so that a new setting does not invalidate stored and shipped files.
        "subspace": {
            "kind": kind,
            "dim": config.dim,
            "samples": config.samples,
            "redraws": 0,  # files that ship are named by it
            "kl_samples": KL_SAMPLES,
            "setup_seed": space.setup_seed,
            **(ROUNDED | {"dictionary": dictionary.digest()} if named else {}),
            **_own_features(config),
            **_adapters(config),
        },
        # Whitened coordinates do not depend on the radius; the others are scaled to it.
        "kl_radius": None if kind in NAMED else config.optimizer.kl_radius,
        # Scores and KL depend on the temperature, not on top-p, top-k and stop texts.
        "sampling": replace(sampling_of(config), top_p=1.0, stop=()).facts(),
        "prompts": [p.turns for p in prompts],
    }


def _own_features(config: Config) -> dict[str, Any]:
    """The features that the user added to the dictionary and dropped; empty without any."""
    add, drop = config.features.own, config.features.drop
    if not add and not drop:
        return {}
    described = user_features.choose(add, drop)[1]
    facts = {"own": [astuple(each) for each in described], "drop": drop}
    if config.features.judged:
        digest = (
            identify_model(config, config.judge.model) if config.judge.kind == "local" else None
        )
        facts["judge"] = [config.judge.model_dump(mode="json", include=RATES), digest]
    return facts


def _adapters(config: Config) -> dict[str, Any]:
    """The adapters whose weights are the coordinates; empty for other kinds."""
    if config.coordinates != "adapters":
        return {}
    return {
        "adapters": adapters.identify(config.subspace.adapters),
        "dictionary": dictionary.digest(),
        "curves": CURVE_ANSWERS,
    }


def take_set(config: Config) -> tuple[Config, str]:
    """The settings in the set of adapters for their model, where auto takes one; a line to say.

    Without a set for these weights the settings stay, and the line says what one would take.
    """
    if not config.may_take_adapters:
        return config, ""
    if adapters.any_set():
        model = read_identity(config)
        entry = None if model is None else adapters.find_set(model.files.sha256)
        if entry is not None:
            name = json.dumps(entry)
            return config.in_adapters([entry]), (
                f"adapters: votes mix this model's set {name}; without it: subspace.kind="
                f"{config.coordinates}"
            )
    return config, (
        f"adapters: none for this model; szpo adapters make --model {quoted(config.model.name)} "
        f"makes a set, from some {MAKING:,} of its answers that nobody reads"
    )


def look_up(config: Config, prompts: Sequence[Prompt]) -> Subspace | None:
    """Look for the basis of a run before its model is loaded; None if it has to be made."""
    key = key_here(config, prompts)
    return None if key is None else find_subspace(key)


def key_here(config: Config, prompts: Sequence[Prompt]) -> dict[str, Any] | None:
    """The key of a run's set-up before its model is loaded; None if none can be stored.

    Reads the weights once for their digest. Without the model on this machine no basis is stored.
    """
    model = None if config.coordinates == "none" else identify_model(config)
    return None if model is None else setup_key(config, *model, prompts)


def identify_model(config: Config, name: str | None = None) -> tuple[str, str] | None:
    """Digest and dtype of a model before it is loaded; None if it is not on this machine.

    ``name``: that of a judge; else it is the settings' model, with its starting adapter.
    """
    known = read_identity(config, name)
    dtype = config.model.dtype  # workers' device need not be on this machine
    if known is not None and dtype == "auto":
        dtype = devices.choose(config.model.device, dtype).dtype
    return None if known is None else (known.sha256, dtype)


def read_identity(config: Config, name: str | None = None) -> Identity | None:
    """What a model is before it is loaded, see `identify_model`."""
    m = config.model
    try:
        folder = named_models.locate(name or m.name, weights=False)
        if name is not None:
            return identity.read(folder)
        adapter = None if m.adapter is None else identity.read_adapter(Path(m.adapter))
        return identity.read(folder, quantization=m.quantization, adapter=adapter)
    except UsageError:  # only the hub model's small files are here
        return None


def describe_making(report: Mapping[str, Any]) -> str:
    """Say whether a basis was made or is shared, and how long it took on this machine.

    >>> describe_making({"origin": "made", "seconds": 61.5})
    'made in 61.5 s'
    >>> describe_making({"origin": "cache", "seconds": 61.5})
    'shared, from the cache (made in 61.5 s)'
    """
    seconds = f"made in {report.get('seconds', 0)} s"
    match report.get("origin", "made"):
        case "shipped":
            return "shared, it ships with szpo"
        case "cache":
            return f"shared, from the cache ({seconds})"
        case _:
            return seconds


def describe_none(config: Config) -> str:
    """Say what a run without coordinates does with its votes."""
    moved = "improving moves the model" if config.improve.nats else "the model does not move"
    return f"no coordinates: votes are explained, and {moved}"


def describe_plan(config: Config, subspace: Subspace | None, answers: int) -> str:
    """Say what a run's set-up will be, in one sentence; ``answers``: those that it needs."""
    if config.coordinates == "none":
        return describe_none(config)
    if subspace is not None:
        return f"basis {describe_making(subspace.report)}; nothing is measured again"
    return (
        f"basis will be made from some {answers:,} base answers, then shared by all runs with "
        "this model, these prompts, this sampling and subspace.setup_seed"
    )


def read_factors(
    host: Backend, sites: tuple[Site, ...], prompts: Sequence[Prompt], config: Config
) -> Theta:
    """A of each site from its layer's inputs while the base answers, and B = 0."""
    whole, seed = every_b(sites, {}), config.subspace.setup_seed
    probe = probe_of(host, whole, prompts, sampling_of(config), seed)
    return {**whole.start, **probe.read_inputs(probe.start_samples(INPUT_SAMPLES))}


def probe_of(
    host: Backend,
    whole: Subspace,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seed: int,
    progress: Progress = unseen,
) -> Probe:
    """A probe of the start in these coordinates, by the law that scores and KL are of."""
    backend = host.at(whole, Space(seed, whole.layout, Law()))
    tokens = tuple(loading.encode(host.facts.tokenizer, p) for p in prompts)
    law = replace(sampling, top_p=1.0)
    rows = ROWS if host.chunk_rows is None else WORKERS_ROWS
    return Probe(backend, whole, tokens, law, seed, progress, rows)


def choose_subspace(
    host: Backend,
    sites: tuple[Site, ...],
    prompts: Sequence[Prompt],
    config: Config,
    start: Theta | None = None,
    blocks: Blocks | None = None,
    progress: Progress = unseen,
) -> Subspace:
    """Choose and scale the coordinates of a run; no vote is asked for and no reward is seen.

    ``start``: A and B by ``site.a`` and ``site.b``, such as a starting adapter's; None: the run
    starts at the base model, with A from each layer's inputs. ``blocks``: adapters whose weights
    are the coordinates; ``start`` then holds their factors.
    """
    began = time.monotonic()
    kind, seed, sampling = config.coordinates, config.subspace.setup_seed, sampling_of(config)
    if not prompts:
        raise UsageError("the set-up needs prompts; give those the run trains on")
    rate = find_rate(config, host) if kind in NAMED else None
    zero = {s.b: np.zeros((s.outputs, s.rank), np.float32) for s in sites}
    # Where B is 0 the answers are those of the base model, whatever A is.
    blank = {s.a: np.zeros((s.rank, s.inputs), np.float32) for s in sites}
    names = [n for s in sites for n in ((s.a, s.b) if kind == "full" else (s.b,))]

    def probe_at(weights: Theta) -> Probe:
        moving = {name: weights[name] for name in names}
        fixed = {n: v for n, v in weights.items() if n not in moving}
        return probe_in(Subspace(kind, sites, fixed, moving, {}))

    def probe_in(whole: Subspace) -> Probe:
        return probe_of(host, whole, prompts, sampling, seed, progress)

    if blocks is not None and start is not None:
        probe = probe_in(Subspace(kind, sites, start, {}, {}, blocks=blocks))
        size = sum(v.size for v in start.values())
    else:
        probe = probe_at({**blank, **zero} if start is None else start)
        size = sum(v.size for v in probe.whole.start.values())
    if config.dim > size and kind not in ("full", "adapters"):
        raise UsageError(
            f"subspace.dim {config.dim} is more than the {size} weights of the chosen layers; "
            "lower it, or choose more adapter.layers"
        )
    base: list[Sample] = []
    if kind in NAMED:
        base = probe.start_samples(config.samples, ANSWERS_EACH)
    elif start is None:
        base = probe.start_samples(INPUT_SAMPLES)
    if start is None:
        read = probe.read_inputs(base[:INPUT_SAMPLES])
        probe = probe_at({**read, **zero})
    whole = probe.whole

    def text_of(tokens: Sequence[int]) -> str:
        return loading.answer_of(host.facts, tokens, sampling.stop).text

    if kind == "features":
        subspace = feature_subspace(probe, whole, config, base, prompts, text_of, rate)
    elif kind == "adapters":
        subspace = adapter_subspace(probe, whole, config, base, prompts, text_of, rate)
    else:
        subspace = full_subspace(probe, whole, config)
    report = {
        "kind": kind, "dim": subspace.dim, "sites": [s.name for s in sites],
        "layers": sorted({s.depth for s in sites if s.depth is not None}),
        "weights": size, "samples": len(base), "seconds": round(time.monotonic() - began, 1),
        **subspace.report,
    }  # fmt: skip
    if subspace.in_z:
        ruler = [[nats, text_of(tokens)] for nats, tokens in draw_ruler(probe, subspace)]
        report["ruler"] = {"prompt": prompts[0].text, "answers": ruler}
    return replace(subspace, report=report)
