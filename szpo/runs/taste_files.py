"""Tastes on file: read by name, and as what a new run knows beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from szpo.data import text_files
from szpo.errors import UsageError
from szpo.optim.named_features import NamedFeatures
from szpo.optim.state_regression import StateScale
from szpo.taste import MOST_BYTES, Direction, Taste

if TYPE_CHECKING:
    from szpo.policies.lora_policy import LoraPolicy


def read(path: Path) -> Taste:
    """The taste in a file.

    Raises:
        UsageError: there is none.
    """
    size, _ = text_files.inspect_file(path, "taste")
    if size > MOST_BYTES:
        raise UsageError(f"{path}: {size:,} bytes; a taste has at most {MOST_BYTES:,}")
    body = text_files.parse_json(text_files.decode(path.read_bytes(), str(path)))
    if isinstance(body, text_files.Unreadable):
        raise UsageError(f"{path}: it is not JSON ({body.reason})")
    try:
        return Taste.from_json(body)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def read_directions(files: Sequence[str]) -> list[Direction]:
    """The directions of earlier tastes (features.prior), in order.

    Raises:
        UsageError: a file has none.
    """
    found = []
    for file in files:
        way = read(Path(file)).direction
        if way is None:
            raise UsageError(
                f"features.prior: {file} is about named features alone, which no hidden states "
                'follow; leave it out, and say what it likes: features.add = ["say: …"]'
            )
        found.append(way)
    return found


def require_fitting(
    files: Sequence[str], ways: Sequence[Direction], policy: LoraPolicy, layer: int | None
) -> None:
    """Refuse earlier tastes of other states than the layer's of this policy's model.

    ``ways`` are read from the ``files``.

    Raises:
        UsageError: one is of another model or layer.
    """
    for file, way in zip(files, ways, strict=True):
        try:
            way.require_model(policy.loaded.sha256, policy.loaded.name)
        except UsageError as error:
            raise UsageError(f"features.prior: {file}: {error}") from None
        if way.layer != layer:
            raise UsageError(
                f"features.prior: {file} is of layer {way.layer}, the run of layer {layer}; set "
                f"features.layer to {way.layer}, or leave it out"
            )


def with_prior(named: NamedFeatures, ways: Sequence[Direction]) -> NamedFeatures:
    """A run's features with the directions of earlier tastes, where it has states."""
    if named.states is None or not ways:
        return named
    return replace(named, states=replace(named.states, earlier=in_scale(ways, named.states)))


def in_scale(ways: Sequence[Direction], scale: StateScale) -> tuple[tuple[int, ...], ...]:
    """Directions (E, width) in a run's scale of states; see `StateScale.earlier`."""
    return tuple(
        tuple(np.rint(np.array(way.weights) * (scale.scale / way.scale)).astype(np.int64).tolist())
        for way in ways
    )
