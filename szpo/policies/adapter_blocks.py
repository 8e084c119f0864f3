"""Stack adapters of one base side by side, so that each coordinate scales its own block.

The sum of w_j · scale_j · B_j A_j over adapters is one product B (w ∘ A x): at each site the rows
of all A_j are stacked, and the columns of all scale_j · B_j beside them, in the order of the
adapters. The blocks differ in rank and in the sites that they adapt. A starting adapter is the
first block, and its weight stays 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from szpo.config.schema import Config
from szpo.errors import UsageError
from szpo.models import adapter_files, adapter_sources
from szpo.models.lora_sites import Site
from szpo.models.peft_format import SERVER_RANKS
from szpo.policies.backend import Backend
from szpo.policies.subspaces import Blocks
from szpo.types import Say, Theta

MOST_BYTES = 256 * 2**20
"""Largest size of all factors in fp32: the record holds them."""
STARTING = -1
"""Owner of the entries whose weight is always 1."""


Stacked: TypeAlias = tuple[tuple[Site, ...], dict[str, NDArray[np.float32]], Blocks, bool]
"""Sites; A and B of all adapters side by side, by ``site.a`` and ``site.b``, with each scale in B;
their weights, which are the coordinates (T is the identity); whether some layers are GPT-2's
transposed ``Conv1D``."""


@dataclass(frozen=True)
class Part:
    """One adapter: its sites, with rank and scale, and its factors."""

    name: str
    owner: int
    sites: tuple[Site, ...]
    factors: Theta


def gather(config: Config, host: Backend, say: Say) -> Stacked:
    """Read the adapters of the settings, and the starting adapter, for this host's model.

    Raises:
        UsageError: One of them does not fit the model, or all of them are too large.
    """
    loaded, conv1d = host.facts, False
    parts: list[Part] = []
    sources: list[dict[str, Any]] = []
    if loaded.adapter is not None:
        sites, conv1d = host.places(config.adapter, loaded.adapter.config)
        own = adapter_files.factors(loaded.adapter, sites)
        parts.append(Part("the starting adapter", STARTING, sites, own))
    for place in adapter_sources.find(config.subspace.adapters):
        adapter, facts = adapter_sources.read(place, loaded.name, loaded.folder)
        sites, transposed = host.places(config.adapter, adapter.config)
        conv1d = conv1d or transposed
        parts.append(Part(place.name, len(sources), sites, adapter_files.factors(adapter, sites)))
        sources.append(facts)
        if loaded.sha256 and facts["base_sha256"] not in (None, loaded.sha256):
            say(f'warning: adapter "{place.name}" was made on other weights of {loaded.name}')
    return stack(parts, sources, conv1d)


def stack(parts: Sequence[Part], sources: Sequence[dict[str, Any]], conv1d: bool) -> Stacked:
    """Stack the parts; ``sources`` are the facts of those with an owner, in order."""
    for part in parts:
        _require_shapes(part)
    sites: dict[str, Site] = {}
    for part in parts:
        for site in part.sites:
            before = sites.get(site.name)
            rank = site.rank + (before.rank if before else 0)
            sites[site.name] = replace(site, rank=rank, scale=1.0)
    _require_room(parts, tuple(sites.values()))
    factors: dict[str, NDArray[np.float32]] = {}
    owners: dict[str, NDArray[np.int64]] = {}
    for name, site in sites.items():
        here = [(p, own) for p in parts for own in p.sites if own.name == name]
        factors[site.a] = np.concatenate([p.factors[own.a] for p, own in here])
        scaled = [p.factors[own.b] * np.float32(own.scale) for p, own in here]
        factors[site.b] = np.concatenate(scaled, axis=1)
        owners[name] = np.concatenate([np.full(own.rank, p.owner) for p, own in here])
    names = tuple(part.name for part in parts if part.owner != STARTING)
    blocks = Blocks(names, tuple(sources), owners, np.eye(len(names), dtype=np.float32))
    return tuple(sites.values()), factors, blocks, conv1d


def _require_shapes(part: Part) -> None:
    for site in part.sites:
        shapes = {site.a: (site.rank, site.inputs), site.b: (site.outputs, site.rank)}
        for name, shape in shapes.items():
            if (found := part.factors[name].shape) != shape:
                raise UsageError(
                    f'adapter "{part.name}": {name} is {found}, and this model with its '
                    f"adapter_config.json makes it {shape}; give the adapter's own base"
                )


def _require_room(parts: Sequence[Part], sites: Sequence[Site]) -> None:
    most, rank = SERVER_RANKS[-1], max(site.rank for site in sites)
    if rank > most:
        each = ", ".join(f"{p.name} {max(s.rank for s in p.sites)}" for p in parts)
        raise UsageError(
            f"subspace.adapters: ranks add up to {rank}, more than {most} ({each}); leave some "
            "out, or lower their ranks"
        )
    size = sum(4 * site.rank * (site.inputs + site.outputs) for site in sites)
    if size > MOST_BYTES:
        raise UsageError(
            f"subspace.adapters: their factors take {size / 2**20:,.0f} MB, more than the "
            f"{MOST_BYTES // 2**20} MB that a run records; leave some out, or lower their ranks"
        )
