"""Where an adapter sits in a base model, and the layers that get one by default.

The default depends only on the model's shape. No tensor library, so that file writers can use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from szpo.errors import UsageError


@dataclass(frozen=True, slots=True)
class Site:
    """One adapted weight of the base model: y = W x + scale · B A x; A is (r, in), B (out, r)."""

    name: str
    """Path of the module inside the base model, as PEFT writes it after ``base_model.model.``."""
    depth: int | None
    """Number of the decoder layer it sits in."""
    inputs: int
    outputs: int
    rank: int
    scale: float

    @property
    def a(self) -> str:
        """Name of the A factor among the coordinates."""
        return f"{self.name}.lora_A"

    @property
    def b(self) -> str:
        """Name of the B factor among the coordinates."""
        return f"{self.name}.lora_B"


def middle_layers(depth: int, count: int = 5) -> tuple[int, ...]:
    """``count`` neighbouring layers centred at two thirds of the depth.

    >>> middle_layers(30)
    (18, 19, 20, 21, 22)
    >>> middle_layers(2)
    (0, 1)
    """
    count = min(count, depth)
    first = min(max(round(2 * depth / 3) - count // 2, 0), depth - count)
    return tuple(range(first, first + count))


def lora_config(
    model: Any,
    *,
    targets: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    rank: int = 1,
) -> Any:
    """The default ``peft.LoraConfig``: rank 1 on the MLP's output in `middle_layers`."""
    from peft import LoraConfig

    linear = linear_names(model)
    if targets is None:
        targets = [next((n for n in OUTPUTS if _is_path(model, n)), "")]
    missing = [t for t in targets if not _is_path(model, t)]
    if missing or not targets:
        raise UsageError(
            f"adapter.targets: no layer matches {', '.join(map(repr, missing)) or 'the default'}; "
            f"this model has {', '.join(sorted(linear))}"
        )
    depth = int(model.config.get_text_config().num_hidden_layers)
    chosen = list(middle_layers(depth) if layers is None else layers)
    beyond = [i for i in chosen if not 0 <= i < depth]
    if beyond or not chosen:
        raise UsageError(
            f"adapter.layers: {beyond or chosen} do not exist; this model has 0 to {depth - 1}"
        )
    return LoraConfig(
        r=rank, lora_alpha=rank, target_modules=list(targets), layers_to_transform=chosen,
        bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip


OUTPUTS = ("down_proj", "fc2", "mlp.c_proj", "dense_4h_to_h", "fc_out", "w2", "o_proj", "out_proj")
"""Names of the MLP's output layer in the families of transformers, most usual first."""


def linear_names(model: Any) -> frozenset[str]:
    """Last name parts of the linear layers inside the decoder layers."""
    return frozenset(
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if (hasattr(module, "in_features") or hasattr(module, "nx"))
        and any(part.isdigit() for part in name.split("."))
    )


def _is_path(model: Any, target: str) -> bool:
    return any(name == target or name.endswith("." + target) for name, _ in model.named_modules())
