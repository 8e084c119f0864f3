"""The coordinates of a run: all weights, features or adapters.

``full`` takes every weight as a coordinate, with a radius instead of a basis. ``features`` takes
the leading components of the score, then the natural gradients of named features of the texts,
whitened and scaled (`szpo.policies.basis`) so that near the start

    KL(π_z ‖ π_0) ≈ |z|²/2 nats per completion.

``adapters`` takes the weights of given adapters, whitened alike
(`szpo.policies.stacked_adapters`). ``none`` has one coordinate that moves nothing. Votes and
rewards are not used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from szpo.config.section import suggest
from szpo.errors import UsageError
from szpo.ledger import theta
from szpo.ledger.database import Ledger
from szpo.ledger.theta import stored_tensors
from szpo.models.lora import Site
from szpo.optim import parameters, sparse_prior
from szpo.optim.named_features import BY_SQUARE, Curve, NamedFeatures, length_at, nats_of_parts
from szpo.types import FEATURE_GRID, Floats, Layout, Theta

Kind: TypeAlias = Literal["full", "features", "adapters", "none"]
FEATURE_MAP = "features/map"
"""Name of the map's tensor in files and in the ledger."""
MIXING, OWNER = "mixing", ".owner"
"""Name of T, and end of the names of a site's owners, among stored tensors."""

FIXED: Final = "fixed/"
"""Prefix of the factors that do not move, among the tensors of adopted weights."""


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
    groups: tuple[int, ...] | None = None
    """(k,): group of each feature by its texts; None: features that move the policy alike."""

    def named(
        self,
        coordinates: tuple[str, ...] = (),
        axes: Floats | None = None,
        curves: Sequence[Curve] = (),
    ) -> NamedFeatures:
        """The features that ever differ, as a rule uses them, with near-equal ones in groups.

        ``coordinates`` are the coordinates' names; along ``axes`` (names, d) each alone moves, at
        the cost of its curve.
        """
        differing = [i for i, scale in enumerate(self.scales) if scale > 0]
        # What no coordinate with a name moves may still explain votes.
        moving = [i for i in differing if coordinates or self.map[:, i].any()]
        gradients = np.rint(self.map[:, moving].astype(np.float64) * FEATURE_GRID).astype(np.int64)
        names = [self.names[i] for i in moving]
        own = tuple(each for each in self.own if each[0] in names)
        classes = np.array([name in {each[0] for each in own} for name in names])
        if self.groups is not None:
            groups = np.unique([self.groups[i] for i in moving], return_inverse=True)[1].tolist()
        else:
            metric = gradients.T.astype(np.float64) @ gradients
            groups = sparse_prior.group_features(metric, classes).tolist() if names else []
        units = () if axes is None else np.rint(axes * FEATURE_GRID).astype(np.int64).tolist()
        nats = np.maximum(np.rint(np.reshape(curves, (-1, 4)) * FEATURE_GRID), 1).astype(int)
        return NamedFeatures(
            tuple(names),
            tuple(groups),
            tuple(self.scales[i] for i in moving),
            tuple(map(tuple, gradients.T.tolist())),
            self.components,
            self.dictionary,
            own,
            coordinates,
            tuple(map(tuple, units)),
            tuple(map(tuple, nats.tolist())),
        )

    def facts(self) -> dict[str, Any]:
        """Everything but the map, which is stored as a tensor, as plain JSON; see `from_facts`."""
        return {
            "names": list(self.names),
            "scales": list(self.scales),
            "components": self.components,
            "dictionary": self.dictionary,
            **({"own": [list(each) for each in self.own]} if self.own else {}),
            **({} if self.groups is None else {"groups": list(self.groups)}),
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
        groups = None if "groups" not in facts else tuple(int(each) for each in facts["groups"])
        if groups is not None and len(groups) != len(names):
            raise ValueError("groups of features are of another number")
        rest = facts["components"], facts["dictionary"], own, groups
        return cls(tuple(facts["names"]), tuple(facts["scales"]), map, *rest)


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Named adapters, of which each scales its own entries of the stacked factors."""

    names: tuple[str, ...]
    """(k,): one for each coordinate."""
    sources: tuple[Mapping[str, Any], ...]
    """(k,): where each adapter comes from, as plain JSON."""
    owners: Mapping[str, NDArray[np.int64]]
    """(r,) by name of the site: the adapter of each entry of A x; −1: its weight is always 1."""
    mixing: NDArray[np.float32]
    """T (k, k): the adapters' weights are w = T z."""
    curves: tuple[Curve, ...] = ()
    """(k,): what each alone costs, for words and mixes by hand; empty: |z|²/2."""

    def __post_init__(self) -> None:
        k, owners = len(self.names), np.concatenate([*self.owners.values(), np.array([-1])])
        if len({*self.names}) != k or len(self.sources) != k:
            raise ValueError("adapters: names are not distinct, or not as many as sources")
        nats = np.reshape(self.curves or [BY_SQUARE] * k, (k, 4))
        if not (np.isfinite(nats) & (nats > 0)).all():
            raise ValueError("adapters: a curve of KL has other than four numbers above 0")
        if self.mixing.shape != (k, k) or not np.isfinite(self.mixing).all():
            raise ValueError("adapters: the mixing matrix has another shape, or is not finite")
        if owners.min() < -1 or owners.max() >= k:
            raise ValueError("adapters: an entry of the factors belongs to none")

    def weights(self, z: ArrayLike) -> NDArray[np.float32]:
        """The adapters' weights w = T z (k,), the same on every machine."""
        zero = {"w": np.zeros(len(self.names), np.float32)}
        return parameters.materialise(zero, {"w": self.mixing}, z)["w"]

    def gains(self, z: ArrayLike) -> dict[str, NDArray[np.float32]]:
        """The factor of each entry of A x (r,), by name of the site."""
        weights = np.append(self.weights(z), np.float32(1.0))  # the last one is that of owner −1
        return {site: weights[owner] for site, owner in self.owners.items()}

    @property
    def axes(self) -> Floats:
        """The unit vectors in z along which each adapter alone moves, (k, k)."""
        alone = np.linalg.inv(self.mixing.astype(np.float64)).T
        return np.asarray(alone / np.linalg.norm(alone, axis=1, keepdims=True))

    def point(self, nats: Mapping[str, float]) -> NDArray[np.float32]:
        """The point z (k,) at which each named adapter alone costs so many nats.

        Below 0 its weight is negative. What the whole mix costs is another number.
        """
        require_named(nats, self.names)
        curves = dict(zip(self.names, self.curves or [BY_SQUARE] * len(self.names), strict=True))
        z = np.zeros(len(self.names))
        for name, amount in nats.items():
            z += length_at(curves[name], amount) * self.axes[self.names.index(name)]
        return z.astype(np.float32)

    def nats(self, z: ArrayLike) -> dict[str, float]:
        """What each adapter alone costs at a point, in nats, below 0 against its name.

        The inverse of `point`; the nats do not add up to those of the whole mix.
        """
        return dict(zip(self.names, nats_of_parts(self.axes, self.curves, z), strict=True))


def require_named(names: Iterable[str], known: Sequence[str]) -> None:
    """Refuse a name of no adapter."""
    for name in names:
        if name not in known:
            hint = suggest(name, known) or f"; there are: {', '.join(known)}"
            raise UsageError(f'no adapter is called "{name}"{hint}')


@dataclass(frozen=True)
class Subspace:
    """Fixed geometry of a run's coordinates; all arrays are fp32.

    ``fixed`` holds the factors that never move, ``start`` the values of the moving ones at z = 0,
    ``basis`` one array (*shape, d) per name of ``start`` (empty for ``full``). The policy at z has
    the factors ``fixed`` and ``start + basis·z`` (`szpo.optim.parameters.materialise`). With
    ``blocks``, ``fixed`` holds the adapters' factors side by side, and the policy at z scales
    their entries (`Blocks.gains`).
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
    blocks: Blocks | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates; empty where they have none."""
        return () if self.blocks is None else self.blocks.names

    @property
    def in_z(self) -> bool:
        """Whether the master coordinates are one vector z, not the moving tensors themselves."""
        return bool(self.basis) or self.blocks is not None or self.kind == "none"

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        if self.blocks is not None:
            return len(self.blocks.names)
        if self.basis:
            return int(next(iter(self.basis.values())).shape[-1])
        if self.kind == "none":
            return 1
        return sum(int(value.size) for value in self.start.values())

    @property
    def layout(self) -> Layout:
        """Layout of the master coordinates: one vector z, or every moving tensor."""
        if self.kind == "none":
            return parameters.NO_COORDINATES
        if self.in_z:
            return (("z", (self.dim,)),)
        return tuple((name, value.shape) for name, value in self.start.items())

    @property
    def basis_sha256(self) -> str | None:
        """Digest of the basis, or of adapters with their mixing; None for ``full``."""
        basis = self._stored_basis()
        return parameters.basis_sha256(basis) if basis else None

    def named(self) -> NamedFeatures | None:
        """Features and names of the coordinates as a rule uses them; None without features."""
        if self.features is None or self.blocks is None:
            return None if self.features is None else self.features.named()
        made = {each["name"]: each for each in self.blocks.sources if each.get("feature")}
        named = self.features.named(self.names, self.blocks.axes, self.blocks.curves)
        if not made:
            return named
        own = [made.get(name, {}) for name in self.names]
        senses = tuple((str(e.get("feature", "")), int(e.get("more", True))) for e in own)
        return replace(named, made_for=senses)

    def mu(self, kl_radius: float) -> float:
        """Radius μ at which one side costs ``kl_radius`` (κ, nats): scale · √(2κ/d)."""
        return self.scale * math.sqrt(2 * kl_radius / self.dim)

    def weights(self, theta: Theta) -> Theta:
        """The moving factors at master coordinates θ: {"z": …}, or the tensors themselves."""
        if self.is_whole(theta):
            return theta
        if self.blocks is not None:
            gains = self.blocks.gains(theta["z"])
            return {s.b: self.fixed[s.b] * gains[s.name] for s in self.sites}
        if self.kind == "none":
            return {}
        return parameters.materialise(self.start, self.basis, theta["z"])

    def around(self, at: Theta, z: ArrayLike) -> Theta:
        """Every moving factor where ``at`` is that of z = 0, as around adopted weights."""
        if self.blocks is None:
            return parameters.materialise(at, self.basis, z)
        here, there = self.blocks.gains(np.zeros(self.dim)), self.blocks.gains(z)
        return {
            s.b: at[s.b] + self.fixed[s.b] * (there[s.name] - here[s.name]) for s in self.sites
        }

    @property
    def whole_layout(self) -> Layout:
        """Layout of every B, in place of z."""
        return tuple((s.b, (s.outputs, s.rank)) for s in self.sites)

    def is_whole(self, theta: Theta) -> bool:
        """Whether a point is given by every moving factor, not by coordinates z."""
        return not self.in_z or {*theta} != {name for name, _ in self.layout}

    def factors(self, theta: Theta | None = None) -> dict[str, NDArray[np.float32]]:
        """All LoRA factors at θ (default: the start), by ``site.a`` and ``site.b``."""
        if theta is None and self.blocks is not None:
            theta = parameters.zeros(self.layout)
        moved = {} if theta is None else self.weights(theta)
        return {**self.fixed, **self.start, **moved}

    def in_whole(self, z: ArrayLike) -> Theta:
        """The policy at z in the coordinates of the subspace from which this one was made."""
        here = np.asarray(z, np.float32)
        return {"z": self.blocks.weights(here)} if self.blocks else self.weights({"z": here})

    def _stored_basis(self) -> Mapping[str, NDArray[np.float32]]:
        """The tensors that the digest covers."""
        if self.blocks is None:
            return self.basis
        owners = self.blocks.owners.items()
        named = {f"{site}{OWNER}": each.astype(np.float32) for site, each in owners}
        return {**self.fixed, **named, MIXING: self.blocks.mixing}

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Everything replay needs besides the base model, by name, for the ledger."""
        fixed = {} if self.blocks else self.fixed  # adapters are part of the stored basis
        return {
            **{f"fixed/{name}": value for name, value in fixed.items()},
            **{f"start/{name}": value for name, value in self.start.items()},
            **{f"basis/{name}": value for name, value in self._stored_basis().items()},
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
            **({"names": [*self.names], "sources": [*self.blocks.sources]} if self.blocks else {}),
            **({"curves": self.blocks.curves} if self.blocks and self.blocks.curves else {}),
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
        blocks = None
        if "names" in facts:
            stored = parts["basis"]
            owners = {s.name: stored[f"{s.name}{OWNER}"].astype(np.int64) for s in sites}
            sources, curves = tuple(facts["sources"]), tuple(map(tuple, facts.get("curves", ())))
            blocks = Blocks(tuple(facts["names"]), sources, owners, stored[MIXING], curves)
            parts = {"fixed": {n: stored[n] for n in wanted}, "start": {}, "basis": {}}
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
            blocks,
        )


def every_b(sites: tuple[Site, ...], factors: Theta) -> Subspace:
    """Every B of these sites as coordinates; their start and the A are as in ``factors``.

    A factor that is not there is 0.
    """
    fixed = {s.a: factors.get(s.a, np.zeros((s.rank, s.inputs), np.float32)) for s in sites}
    start = {s.b: factors.get(s.b, np.zeros((s.outputs, s.rank), np.float32)) for s in sites}
    return Subspace("full", sites, fixed, start, {})


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


def read_recorded(ledger: Ledger) -> Subspace:
    """The subspace from the record; a run without coordinates has sites once it has improved.

    Raises:
        IntegrityError: adopted weights are not the recorded ones.
        KeyError, TypeError, ValueError: the record is damaged.
    """
    subspace = Subspace.from_facts(ledger.spec["space"], stored_tensors(ledger))
    made = [body for body in theta.adopted_bodies(ledger) if not theta.went_back(body)]
    if not made or subspace.sites:
        return subspace
    stored = theta.adopted_tensors(ledger, made[-1])
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


def describe_recorded(subspace: Subspace) -> tuple[dict[str, Any], Theta]:
    """What `read_recorded` needs where a run began without sites: facts, tensors."""
    facts = {"sites": [asdict(site) for site in subspace.sites]}
    return facts, {f"{FIXED}{name}": value for name, value in subspace.fixed.items()}
