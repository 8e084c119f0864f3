"""LoRA deltas of several members computed per row inside one forward pass.

The base weights are read once for all rows; a row adds ``scale · B_m A_m x`` of the member m it
belongs to. Members are the policies of one step (plus and minus of every direction), or, for
per-sample scores, one member per row.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from szpo import background_work
from szpo.errors import UsageError
from szpo.models.adapters import beyond_plain
from szpo.models.lora import Site

MAX_STACKED_ROWS = 64
"""Members times rank up to which a shared A is stacked once per member."""


@dataclass(frozen=True, slots=True)
class AdaptedModel:
    """A causal language model, the weights of it that LoRA adapts, and how its answers end.

    The model itself is never changed; `Deltas` say what the adapted weights add.
    """

    model: Any
    """Any causal LM of transformers."""
    sites: tuple[Site, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    tokenizer: Any = None
    """Needed where answers are cut to whole sentences."""
    wordless: tuple[int, ...] = ()
    """Rows of the head that are never drawn: the tokenizer has no token for them."""


@dataclass(frozen=True, slots=True)
class Deltas:
    """The LoRA factors of all members, in fp32, keyed by the name of the site.

    ``B[name]`` is (members, out, r); ``A[name]`` is (r, in) when members share it, otherwise
    (members, r, in). Tensors may require gradients.

    With ``gains`` all members share A (r, in) and B (1, out, r), and ``gains[name]`` (members, r)
    scales the entries of A x.
    """

    A: Mapping[str, Tensor]
    B: Mapping[str, Tensor]
    gains: Mapping[str, Tensor] | None = None

    @property
    def members(self) -> int:
        """How many different policies the deltas hold."""
        return next(iter((self.gains or self.B).values())).shape[0]


def find_sites(model: nn.Module, config: Any) -> tuple[Site, ...]:
    """The weights that a ``peft.LoraConfig`` adapts in ``model``, in the model's own order.

    PEFT itself resolves targets, layers, rank and alpha patterns; the model is left as it was.
    Raises UsageError for variants that are more than ``scale · B A x`` on a linear layer.
    """
    from peft import LoraModel
    from peft.tuners.lora import LoraLayer

    if unsupported := beyond_plain(vars(config)):
        raise UsageError(f"LoRA option {unsupported[0]} is not supported: use a plain LoRA config")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT corrects fan_in_fan_out for Conv1D by itself
            wrapped = LoraModel(model, config, "default")
    except ValueError as error:
        raise UsageError(f"LoRA config does not fit the model: {error}") from None
    sites = []
    try:
        for name, module in wrapped.model.named_modules():
            if not isinstance(module, LoraLayer):
                continue
            if "default" not in module.lora_A:
                raise UsageError(
                    f"{name} is not a linear layer; let adapter.targets name only such"
                )
            sites.append(
                Site(
                    name,
                    _depth(name),
                    module.in_features or 0,
                    module.out_features or 0,
                    int(module.r["default"]),
                    float(module.scaling["default"]),
                )
            )
    finally:
        wrapped.unload()
    return tuple(sites)


def adapted_layers(model: nn.Module, sites: tuple[Site, ...]) -> list[nn.Module]:
    """The decoder layers from the first adapted one on; empty if no layer is below it."""
    depths = [site.depth for site in sites if site.depth is not None]
    if not sites or len(depths) < len(sites) or min(depths) == 0:
        return []
    first = next(site for site in sites if site.depth == min(depths))
    stack = re.match(r"(.*?)\.\d+\.", first.name)
    layers = model.get_submodule(stack.group(1)) if stack else None
    return list(layers)[min(depths) :] if isinstance(layers, nn.ModuleList) else []


def _depth(name: str) -> int | None:
    """Layer number in a module path: the first whole number between dots."""
    match = re.search(r"\.(\d+)\.", name)
    return int(match.group(1)) if match else None


@dataclass(frozen=True)
class _SharedProduct:
    """The A factors of sites with the same inputs, side by side, so that one product serves all.

    ``At`` is (in, widths); ``columns`` gives each site's part of it. If ``whole``, a site has
    members·rank columns, otherwise (members share a large A) only rank.
    """

    At: Tensor
    columns: dict[str, slice]
    ranks: tuple[int, ...]
    whole: bool


class Attachment:
    """Deltas hooked onto a model; ``assign`` says which member each row (or token) belongs to."""

    def __init__(self, sites: tuple[Site, ...], deltas: Deltas):
        self._members = deltas.members
        self._device = next(iter(deltas.B.values())).device
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}
        self._up: dict[str, Tensor] = {}  # scale · Bᵀ of all members, (members·rank, out)
        self._down: dict[str, tuple[Tensor, int, bool]] = {}  # Aᵀ, rank, whole
        self._gains = deltas.gains
        self._gains_of_rows: dict[str, Tensor] = {}
        siblings: dict[tuple[str, int, bool], list[str]] = {}
        for site in sites:
            A, B = deltas.A[site.name], deltas.B[site.name]
            if self._gains is not None:  # views: nothing is held a second time
                self._down[site.name] = (A.t(), site.rank, True)
                self._up[site.name] = (B[0] if site.scale == 1 else B[0] * site.scale).t()
                continue
            B = B * site.scale
            self._factors[site.name] = (A, B)
            self._up[site.name] = B.permute(0, 2, 1).reshape(-1, B.shape[1]).contiguous()
            whole = A.dim() == 3 or self._members * site.rank <= MAX_STACKED_ROWS
            if whole and A.dim() == 2:
                A = A.repeat(self._members, 1)  # cheaper than repeating each result
            self._down[site.name] = (A.reshape(-1, A.shape[-1]).t(), site.rank, whole)
            parent = (site.name.rpartition(".")[0], site.inputs, whole)
            siblings.setdefault(parent, []).append(site.name)
        self._shared: dict[str, _SharedProduct] = {}
        for names in siblings.values():
            self._share_product(names)
        self._last_product: tuple[Tensor, _SharedProduct, Tensor] | None = None
        self._rows = torch.zeros(1, dtype=torch.long)
        self._masks: dict[tuple[int, ...], Tensor] = {}
        self._row_is_member = False

    def _share_product(self, names: list[str]) -> None:
        """Let these sites, which have the same inputs, share one product with their A factors."""
        parts = [self._down[name] for name in names]
        ends = [0, *itertools.accumulate(At.shape[1] for At, _, _ in parts)]
        columns = {
            name: slice(a, b) for name, (a, b) in zip(names, itertools.pairwise(ends), strict=True)
        }
        shared = _SharedProduct(
            torch.cat([At for At, _, _ in parts], dim=1),
            columns,
            tuple(rank for _, rank, _ in parts),
            parts[0][2],
        )
        self._shared.update(dict.fromkeys(names, shared))

    def assign(self, rows: Tensor) -> None:
        """Give each row its member: (rows, 1) for inputs (rows, tokens, ·), (1, tokens) for flat.

        When rows are 0 … members−1 in order, each row is its own member and its delta is one small
        product of its own; otherwise the members' products are stacked and masked.
        """
        rows = rows.to(self._device)
        self._rows = rows
        self._masks, self._last_product, self._gains_of_rows = {}, None, {}
        self._row_is_member = (
            self._gains is None
            and self._members > 1
            and rows.shape == (self._members, 1)
            and bool((rows[:, 0] == torch.arange(self._members, device=self._device)).all())
        )

    def _mask(self, *ranks: int) -> Tensor:
        """One-hot membership, each column repeated ``rank`` times: (*rows.shape, members·rank)."""
        if ranks not in self._masks:
            hot = nn.functional.one_hot(self._rows, self._members).to(torch.float32)
            parts = [hot.repeat_interleave(rank, dim=-1) for rank in ranks]
            self._masks[ranks] = torch.cat(parts, dim=-1)
        return self._masks[ranks]

    def _project_down(self, name: str, x: Tensor) -> Tensor:
        """A x of a site for all members, zero but for each row's own: (…, members·rank)."""
        if self._gains is not None:
            if name not in self._gains_of_rows:
                self._gains_of_rows[name] = self._gains[name][self._rows]
            return (x.to(torch.float32) @ self._down[name][0]) * self._gains_of_rows[name]
        shared = self._shared[name]
        last = self._last_product
        if last is None or last[0] is not x or last[1] is not shared:
            if next(iter(shared.columns)) != name:
                # Its inputs differ from its neighbours' after all (o_proj beside q_proj): split.
                self._share_product([other for other in shared.columns if other != name])
                self._share_product([name])
                shared = self._shared[name]
            h = x.to(torch.float32) @ shared.At
            if self._members > 1 and shared.whole:
                h = h * self._mask(*shared.ranks)
            self._last_product = last = (x, shared, h)
        h = last[2][..., shared.columns[name]]
        if self._members > 1 and not shared.whole:
            rank = self._down[name][1]
            h = h.repeat(*(1,) * (h.dim() - 1), self._members) * self._mask(rank)
        return h

    def delta(self, name: str, x: Tensor) -> Tensor:
        """``scale · B_m A_m x`` per row in fp32, for x (rows, tokens, in)."""
        if self._row_is_member:
            A, B = self._factors[name]
            return (x.to(torch.float32) @ A.transpose(-1, -2)) @ B.transpose(1, 2)
        return self._project_down(name, x) @ self._up[name]

    def _add(self, name: str, x: Tensor, out: Tensor) -> Tensor:
        """``out`` plus the delta, written into ``out`` and rounded once, from fp32."""
        wide = out.to(torch.float32)  # itself where the base is fp32
        if self._row_is_member:
            A, B = self._factors[name]
            h = x.to(torch.float32) @ A.transpose(-1, -2)
            wide.baddbmm_(h, B.transpose(1, 2))
        else:
            h = self._project_down(name, x)
            wide.view(-1, wide.shape[-1]).addmm_(h.reshape(-1, h.shape[-1]), self._up[name])
        return out if wide is out else out.copy_(wide)

    def hook(self, name: str) -> Any:
        """A forward hook that adds the delta of site ``name``."""

        def add(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                return out + self.delta(name, inputs[0]).to(out.dtype)
            return self._add(name, inputs[0], out)

        return add


@contextmanager
def attach_deltas(
    model: nn.Module, sites: tuple[Site, ...], deltas: Deltas | None, rows: Tensor | None = None
) -> Iterator[Attachment | None]:
    """Add the deltas to every forward pass of ``model`` by this thread inside the block.

    ``rows`` gives each row its member (see `Attachment.assign`); None means member 0 everywhere.
    With ``deltas`` None the model stays the base model. Differentiable with respect to A and B.
    """
    if deltas is None:
        yield None
        return
    attachment = Attachment(sites, deltas)
    attachment.assign(torch.zeros(1, 1, dtype=torch.long) if rows is None else rows)
    handles = [
        model.get_submodule(site.name).register_forward_hook(
            background_work.only_here(attachment.hook(site.name))
        )
        for site in sites
    ]
    try:
        yield attachment
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class Below:
    """The layers below the first adapted one, and what the last of them gave."""

    layers: list[nn.Module]
    output: Any = None


@contextmanager
def keep_below(adapted: AdaptedModel) -> Iterator[Below]:
    """Keep what the layers below the first adapted one give for the rows of this block."""
    upper = adapted_layers(adapted.model, adapted.sites)
    lists = [m for m in adapted.model.modules() if isinstance(m, nn.ModuleList)]
    whole = next((list(m) for m in lists if upper and any(each is upper[0] for each in m)), [])
    below = Below(whole[: len(whole) - len(upper)])

    def keep(_module: nn.Module, _inputs: Any, out: Any) -> None:
        below.output = out

    handle = below.layers[-1].register_forward_hook(keep) if below.layers else None
    try:
        yield below
    finally:
        if handle is not None:
            handle.remove()


@contextmanager
def skip(below: Below) -> Iterator[None]:
    """Let these layers give what was kept, without computing it again."""
    before = [layer.__dict__.get("forward") for layer in below.layers]
    for layer in below.layers:
        layer.forward = lambda *_inputs, **_more: below.output
    try:
        yield
    finally:
        for layer, own in zip(below.layers, before, strict=True):
            if own is None:
                del layer.forward
            else:
                layer.forward = own
