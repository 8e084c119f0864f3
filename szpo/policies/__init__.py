"""What is optimised: the `Policy` contract, LoRA policies, and the subspaces they move in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.policies.lora_policy import LoraPolicy as LoraPolicy
    from szpo.policies.protocol import Policy as Policy
    from szpo.policies.protocol import check_policy as check_policy

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"lora_policy": ["LoraPolicy"], "protocol": ["Policy", "check_policy"]}
)
