"""Whether vLLM loads an exported adapter as it is: its rules for PEFT files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from szpo.errors import RunError
from szpo.models.peft_format import SERVER_RANKS

FILES: Final = ("adapter_config.json", "adapter_model.safetensors")
OFF: Final = {
    "modules_to_save": "weights beside the adapter",
    "use_dora": "DoRA",
    "rank_pattern": "ranks that differ: it reads one",
    "alpha_pattern": "scales that differ: it reads one",
    "fan_in_fan_out": "the transposed layers of GPT-2",
}
"""What vLLM does not load, or reads past, by the key of ``adapter_config.json``."""
_TENSOR: Final = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_OUTSIDE: Final = ("lm_head", "embed_tokens", "wte")


def find_problems(files: Mapping[str, bytes]) -> tuple[str, ...]:
    """What keeps vLLM from serving an adapter, one sentence each; empty where nothing does.

    Args:
        files: The adapter's files by name.
    """
    if lacking := [name for name in FILES if name not in files]:
        return (f"{' and '.join(lacking)} missing",)
    config = json.loads(files[FILES[0]])
    found = [f"{key}: vLLM has no {what}" for key, what in OFF.items() if config.get(key)]
    if config.get("bias", "none") != "none":
        found.append(f"bias {config['bias']!r}: vLLM takes none")
    if config["r"] > SERVER_RANKS[-1]:
        found.append(f"rank {config['r']} is more than the {SERVER_RANKS[-1]} of any server")
    return (*found, *_tensor_problems(config, files[FILES[1]]))


def least_rank(config: Mapping[str, Any]) -> int:
    """The smallest ``--max-lora-rank`` of a server that takes this ``adapter_config.json``."""
    return next(rank for rank in SERVER_RANKS if config["r"] <= rank)


def check_adapter(files: Mapping[str, bytes]) -> None:
    """Raise unless vLLM loads an adapter as it is.

    Raises:
        RunError: it does not; every reason is named.
    """
    if problems := find_problems(files):
        raise RunError(f"vLLM does not load this adapter: {'; '.join(problems)}")


def _tensor_problems(config: Mapping[str, Any], content: bytes) -> list[str]:
    from safetensors.numpy import load

    found, halves = [], dict[str, set[str]]()
    for name, value in load(content).items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            found.append(f"tensor {name} has no name that vLLM knows")
            continue
        site, half = match.groups()
        halves.setdefault(site, set()).add(half)
        if site.rsplit(".", 1)[-1] in _OUTSIDE:
            found.append(f"tensor {name}: vLLM adapts linear layers inside the model only")
        if value.shape[half == "B"] != config["r"]:
            found.append(f"tensor {name} is {value.shape}, its config names rank {config['r']}")
    found += [f"{site} lacks lora_A or lora_B" for site, both in halves.items() if len(both) < 2]
    targets = config["target_modules"]
    missing = [t for t in targets if not any(s == t or s.endswith(f".{t}") for s in halves)]
    return found + [f"target {name} has no tensor" for name in missing]
