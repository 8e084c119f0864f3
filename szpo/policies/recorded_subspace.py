"""The subspace of a recorded run: its coordinates, and the sites of adopted weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from szpo.ledger import adopted
from szpo.ledger.database import Ledger
from szpo.ledger.theta import stored_tensors
from szpo.models.lora_sites import Site
from szpo.policies.subspaces import Subspace
from szpo.types import Theta

FIXED: Final = "fixed/"
"""Prefix of the factors that do not move, among the tensors of adopted weights."""


def read(ledger: Ledger) -> Subspace:
    """The subspace from the record; a run without coordinates has sites once it has improved.

    Raises:
        IntegrityError: adopted weights are not the recorded ones.
        KeyError, TypeError, ValueError: the record is damaged.
    """
    found = Subspace.from_facts(ledger.spec["space"], stored_tensors(ledger))
    made = [body for body in adopted.bodies(ledger) if not adopted.went_back(body)]
    if not made or found.sites:
        return found
    stored = adopted.tensors(ledger, made[-1])
    return without_coordinates(
        tuple(Site(**site) for site in made[-1]["sites"]),
        {
            name.removeprefix(FIXED): values
            for name, values in stored.items()
            if name.startswith(FIXED)
        },
    )


def without_coordinates(sites: tuple[Site, ...], factors: Theta) -> Subspace:
    """A subspace in which no vote moves anything, over these factors A and B of the start."""
    return Subspace("none", sites, factors, {}, {})


def describe(subspace: Subspace) -> tuple[dict[str, Any], Theta]:
    """What `read` needs beside the record of a run that began without sites: facts, tensors."""
    facts: Mapping[str, Any] = {"sites": [asdict(site) for site in subspace.sites]}
    return dict(facts), {f"{FIXED}{name}": value for name, value in subspace.fixed.items()}
