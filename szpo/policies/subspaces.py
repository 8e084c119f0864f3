"""The coordinates of a run: all adapter weights, random ones, score components or features.

``score`` (natural directions without votes): let s = ∇_B log π(y | x) be the score of an answer
that the starting policy drew, F = E[s sᵀ] its Fisher matrix. The leading eigenvectors Q of F's
estimate on one half of the samples give the directions. C = Qᵀ F̂ Q on the other half gives the
whitening, and Monte-Carlo KL one scale c: P = c · Q C^{-1/2}, so that near the start

    KL(π_δ ‖ π_0) ≈ |δ|²/2 nats per completion for z = δ.

``random`` takes random orthonormal directions of the same weights, and only the scale is measured;
it needs no gradient. ``full`` takes every weight as a coordinate, with a radius instead of a
basis. ``features`` takes the leading score components, then the natural gradients of named
features of the texts (`szpo.policies.feature_basis`). Votes and rewards are not used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from szpo.models.lora_sites import Site
from szpo.optim import parameters, sparse_prior
from szpo.optim.named_features import NamedFeatures
from szpo.types import FEATURE_GRID, Floats, Layout, Theta

Kind: TypeAlias = Literal["full", "random", "score", "features"]
KINDS = get_args(Kind)
FEATURE_MAP = "features/map"
"""Name of the map's tensor in files and in the ledger."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureMap:
    """How the coordinates change named features of the texts."""

    names: tuple[str, ...]
    """(k,): one for each feature."""
    scales: tuple[int, ...]
    """(k,): spreads at the start in units of 2⁻¹²; 0 where a feature never differed."""
    map: NDArray[np.float32]
    """(d, k): natural gradients, in spreads for a unit of z."""
    components: int
    """Number of leading coordinates that are score components."""
    dictionary: str
    """Digest of the dictionary that the features come from."""
    own: tuple[tuple[str, ...], ...] = ()
    """The user's own features, as in `NamedFeatures.own`."""

    def named(self) -> NamedFeatures:
        """The features that ever differ, as a rule uses them, with near-equal ones in groups."""
        moving = [i for i, scale in enumerate(self.scales) if scale > 0 and self.map[:, i].any()]
        gradients = np.rint(self.map[:, moving].astype(np.float64) * FEATURE_GRID).astype(np.int64)
        names = [self.names[i] for i in moving]
        own = tuple(each for each in self.own if each[0] in names)
        classes = np.array([name in {each[0] for each in own} for name in names])
        metric = gradients.T.astype(np.float64) @ gradients
        return NamedFeatures(
            tuple(names),
            tuple(sparse_prior.group_features(metric, classes).tolist()),
            tuple(self.scales[i] for i in moving),
            tuple(map(tuple, gradients.T.tolist())),
            self.components,
            self.dictionary,
            own,
        )

    def facts(self) -> dict[str, Any]:
        """Everything but the map, which is stored as a tensor, as plain JSON; see `from_facts`."""
        return {
            "names": list(self.names),
            "scales": list(self.scales),
            "components": self.components,
            "dictionary": self.dictionary,
            **({"own": [list(each) for each in self.own]} if self.own else {}),
        }

    @classmethod
    def from_facts(
        cls, facts: Mapping[str, Any] | None, map: NDArray[np.float32] | None
    ) -> FeatureMap | None:
        """The map from stored facts; None without them.

        Raises:
            ValueError: The facts or the map are invalid.
        """
        if facts is None or map is None:
            return None
        names, scales = facts["names"], facts["scales"]
        if not all(isinstance(name, str) for name in names) or len({*names}) != len(names):
            raise ValueError("names of features are not distinct texts")
        if not all(isinstance(scale, int) and scale >= 0 for scale in scales):
            raise ValueError("scales of features are not integers of at least 0")
        if map.shape[1:] != (len(names),) or len(scales) != len(names):
            raise ValueError("the map of features has another shape")
        if not (np.abs(map.astype(np.float64)) < 2**40).all():  # nan is not less
            raise ValueError("the map of features is not finite")
        own = tuple(tuple(each) for each in facts.get("own", ()))
        rest = facts["components"], facts["dictionary"], own
        return cls(tuple(facts["names"]), tuple(facts["scales"]), map, *rest)


@dataclass(frozen=True)
class Subspace:
    """Fixed geometry of a run's coordinates; all arrays are fp32.

    ``fixed`` holds the factors that never move, ``start`` the values of the moving ones at z = 0,
    ``basis`` one array (*shape, d) per name of ``start`` (empty for ``full``). The policy at z has
    the factors ``fixed`` and ``start + basis·z`` (`szpo.optim.parameters.materialise`).
    """

    kind: Kind
    sites: tuple[Site, ...]
    fixed: Theta
    start: Theta
    basis: Mapping[str, NDArray[np.float32]]
    scale: float = 1.0
    """In μ = scale · √(2κ/d); 1 where the basis itself is scaled."""
    report: Mapping[str, Any] = field(default_factory=dict)
    features: FeatureMap | None = None

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        if self.basis:
            return int(next(iter(self.basis.values())).shape[-1])
        return sum(int(value.size) for value in self.start.values())

    @property
    def layout(self) -> Layout:
        """Layout of the master coordinates: one vector z, or every moving tensor."""
        if self.basis:
            return (("z", (self.dim,)),)
        return tuple((name, value.shape) for name, value in self.start.items())

    @property
    def basis_sha256(self) -> str | None:
        """Digest of the basis; None for ``full``."""
        return parameters.basis_sha256(self.basis) if self.basis else None

    def mu(self, kl_radius: float) -> float:
        """Radius μ at which one side costs ``kl_radius`` (κ, nats): scale · √(2κ/d)."""
        return self.scale * math.sqrt(2 * kl_radius / self.dim)

    def weights(self, theta: Theta) -> Theta:
        """The moving factors at master coordinates θ: {"z": …}, or the tensors themselves."""
        return parameters.materialise(self.start, self.basis, theta["z"]) if self.basis else theta

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Everything replay needs besides the base model, by name, for the ledger."""
        return {
            **{f"fixed/{name}": value for name, value in self.fixed.items()},
            **{f"start/{name}": value for name, value in self.start.items()},
            **{f"basis/{name}": value for name, value in self.basis.items()},
            **({} if self.features is None else {FEATURE_MAP: self.features.map}),
        }

    def facts(self) -> dict[str, Any]:
        """Everything but the tensors, as plain JSON; see `from_facts`."""
        return {
            "kind": self.kind,
            "scale": self.scale,
            "sites": [asdict(site) for site in self.sites],
            "report": dict(self.report),
            **({} if self.features is None else {"features": self.features.facts()}),
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Self:
        """The subspace from stored facts and tensors; other tensors are ignored.

        Raises:
            KeyError, TypeError, ValueError: They are invalid; a missing tensor is named.
        """
        parts: dict[str, dict[str, Any]] = {"fixed": {}, "start": {}, "basis": {}}
        for name, value in tensors.items():
            part, _, tensor = name.partition("/")
            if part in parts:
                parts[part][tensor] = np.asarray(value, np.float32)
        sites = tuple(Site(**site) for site in facts["sites"])
        wanted = [name for site in sites for name in (site.a, site.b)]
        for name in wanted:
            if name not in parts["fixed"] and name not in parts["start"]:
                raise ValueError(f"tensor {name} is missing")
        features = FeatureMap.from_facts(facts.get("features"), tensors.get(FEATURE_MAP))
        return cls(
            facts["kind"],
            sites,
            parts["fixed"],
            {name: parts["start"][name] for name in wanted if name in parts["start"]},
            {name: parts["basis"][name] for name in wanted if name in parts["basis"]},
            float(facts["scale"]),
            facts.get("report", {}),
            features,
        )


def split_basis(start: Theta, matrix: Floats) -> dict[str, NDArray[np.float32]]:
    """Split columns over all moving weights (D, d) into one fp32 array (*shape, d) per tensor."""
    parts, at = {}, 0
    for name, value in start.items():
        rows = matrix[at : at + value.size]
        parts[name] = np.ascontiguousarray(
            rows.reshape(*value.shape, matrix.shape[1]), dtype=np.float32
        )
        at += value.size
    return parts
