"""A bf16 model's weights a second time on a CPU, laid out as the processor multiplies by them."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from szpo.models.devices import GIB, cpu_computes_in_bf16

LAID_OUT: Final = GIB // 2
"""Bytes of the largest model whose weights are laid out: they are then in memory twice."""


def lay_out(model: Any) -> None:
    """Keep a bf16 model's weights as oneDNN multiplies by them, for passes without gradients.

    torch lays a matrix out anew in each product, which costs as much as the product with seven
    rows. Products are the same to the last bit, or nothing is laid out.
    """
    layers = [
        m for m in model.modules() if type(m) is nn.Linear and m.weight.dtype == torch.bfloat16
    ]
    size = sum(m.weight.nbytes for m in layers)
    if not 0 < size <= LAID_OUT or not cpu_computes_in_bf16():
        return
    try:
        with torch.no_grad():
            layouts = [torch.ops.mkldnn._reorder_linear_weight(m.weight, None) for m in layers]
            tried = layers[0].weight[:3]
            same = torch.equal(layers[0](tried), _multiply(layers[0], layouts[0], tried))
    except (AttributeError, RuntimeError):  # this torch or this processor has no such product
        return
    for module, layout in zip(layers, layouts, strict=True) if same else ():
        module.forward = partial(_multiply, module, layout)  # type: ignore[method-assign]


def _multiply(module: nn.Linear, layout: Tensor, x: Tensor) -> Tensor:
    if torch.is_grad_enabled() or not x.numel():
        return nn.functional.linear(x, module.weight, module.bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, layout, module.bias, "none", [], "")
    return product
