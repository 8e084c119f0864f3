"""Members as adapters for a server: what it computes with after its own cast, and PEFT files.

A server rounds adapters to the dtype of its model. The files hold what is left after that, so both
sides know the same numbers. Servers of vLLM read one rank and one scale for all weights and ignore
PEFT's ``rank_pattern`` and ``alpha_pattern``: the scale goes into B, and ranks are filled up with
zeros.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from szpo.errors import UsageError
from szpo.models import adapter_files
from szpo.models.loading import DTYPES
from szpo.models.lora_sites import Site
from szpo.models.peft_format import SERVER_RANKS
from szpo.types import Theta


@dataclass(frozen=True)
class CastMember:
    """A member's factors after a server's cast."""

    factors: Mapping[str, NDArray[np.float32]]
    """A and scale · B by ``site.a`` and ``site.b``, rounded to the server's dtype."""
    sha256: str
    """Of the factors: members with the same digest are one policy on the server."""


def cast_member(factors: Theta, sites: Sequence[Site], dtype: str) -> CastMember:
    """Round a member's factors as a server of this dtype does; B takes up the scale before."""
    found, digest = {}, hashlib.sha256()
    for site in sites:
        found[site.a] = _round(factors[site.a], dtype)
        found[site.b] = _round(factors[site.b] * np.float32(site.scale), dtype)
        for name in (site.a, site.b):
            digest.update(np.ascontiguousarray(found[name], "<f4").tobytes())
    return CastMember(found, digest.hexdigest())


def trusted_factors(member: CastMember, sites: Sequence[Site]) -> Theta:
    """The factors with which this process computes the policy that the server does.

    B is divided by the scale again, in fp32: this process multiplies by it.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for site in sites:
        found[site.a] = member.factors[site.a]
        found[site.b] = member.factors[site.b] / np.float32(site.scale)
    return found


def save_member(path: Path, member: CastMember, sites: Sequence[Site], *, base: str) -> None:
    """Write a new folder of PEFT files with one rank for all weights and a scale of 1.

    Raises:
        StorageError: The folder cannot be written.
    """
    rank = max(site.rank for site in sites)
    padded: dict[str, NDArray[np.float32]] = {}
    for site in sites:
        missing = rank - site.rank
        padded[site.a] = np.pad(member.factors[site.a], ((0, missing), (0, 0)))
        padded[site.b] = np.pad(member.factors[site.b], ((0, 0), (0, missing)))
    plain = tuple(replace(site, rank=rank, scale=1.0) for site in sites)
    adapter_files.save_adapter(path, padded, plain, base=base)


def demand_rank(sites: Sequence[Site]) -> int:
    """The smallest ``--max-lora-rank`` of a vLLM server that takes these adapters.

    Raises:
        UsageError: no vLLM server takes a rank so large.
    """
    rank = max(site.rank for site in sites)
    for limit in SERVER_RANKS:
        if rank <= limit:
            return limit
    raise UsageError(
        f"adapter.rank {rank} is more than any vLLM server takes ({SERVER_RANKS[-1]}); lower it, "
        "or use another engine.kind"
    )


def _round(value: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    rounded = torch.from_numpy(np.array(value, np.float32)).to(DTYPES[dtype])
    found: NDArray[np.float32] = rounded.to(torch.float32).numpy()
    return found
