"""A run's adapter as PEFT files, made from its ledger alone, and checks whether vLLM loads it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from szpo.errors import RunError, UsageError
from szpo.failpoints import failpoint
from szpo.files import write_whole
from szpo.ledger import adopted
from szpo.ledger.database import Ledger
from szpo.models import peft_format
from szpo.models.peft_format import SERVER_RANKS
from szpo.policies import recorded_subspace
from szpo.reports.model_card import LAST, UNNAMED, Names, Weights, find_doubt, model_card

FILES: Final = ("adapter_config.json", "adapter_model.safetensors")
OFF: Final = {
    "modules_to_save": "weights beside the adapter",
    "use_dora": "DoRA",
    "rank_pattern": "ranks that differ: it reads one",
    "alpha_pattern": "scales that differ: it reads one",
    "fan_in_fan_out": "the transposed layers of GPT-2",
}
"""Keys of ``adapter_config.json`` that vLLM refuses or ignores, with what it lacks."""
_TENSOR: Final = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_OUTSIDE: Final = ("lm_head", "embed_tokens", "wte")


def fold_adapter_files(
    ledger: Ledger, weights: Weights = LAST, *, base: str | None = None
) -> dict[str, bytes] | None:
    """The adapter's files at these weights, computed from the recorded updates.

    ``base`` is the base model's name in the files; None: the name in the run's settings. Returns
    None if the run's policy is not a language model of szpo.
    """
    space: Mapping[str, Any] | None = ledger.spec.get("space")
    if space is None or "sites" not in space:
        return None
    subspace, improved = recorded_subspace.read(ledger), adopted.read(ledger)
    whole = subspace.factors(weights.theta(ledger)), subspace.sites
    factors, sites = (
        peft_format.pad(*whole)
        if weights.rank is None
        else peft_format.truncate(*whole, weights.rank)
    )
    return peft_format.peft_files(
        factors,
        sites,
        base=base or ledger.spec["base"]["name"],
        conv1d=bool(space.get("conv1d") or (improved and improved.body.get("conv1d"))),
    )


def write_folder(
    ledger: Ledger,
    target: Path,
    weights: Weights = LAST,
    names: Names = UNNAMED,
    *,
    anyway: bool = False,
) -> bool:
    """Write the adapter, its card and the tokenizer to a new folder, completely or not at all.

    Returns:
        Whether the base model's tokenizer was on this machine.
    """
    adapter = fold_adapter_files(ledger, weights, base=names.base)
    if adapter is None:
        raise UsageError(
            f"{ledger.path.stem}: its policy is not a language model, so it has no adapter"
        )
    if not anyway:
        require_sound(ledger, weights)
    with write_whole(target) as draft:
        draft.mkdir()
        tokenizer = peft_format.tokenizer_files(ledger.spec["base"]["name"])
        for file, content in {**tokenizer, **adapter}.items():
            (draft / file).write_bytes(content)
        failpoint("cp13")
        card = model_card(ledger, weights, names)
        (draft / "README.md").write_text(card, encoding="utf-8")
    return bool(tokenizer)


def require_sound(ledger: Ledger, weights: Weights = LAST) -> None:
    """Raise if there is a reason not to export these weights."""
    if against := find_doubt(ledger, weights):
        raise RunError(
            f"{ledger.path.stem}: {against}; nothing was written (--anyway, in Python "
            "anyway=True, does it all the same, and its card says so)"
        )


def find_problems(files: Mapping[str, bytes]) -> tuple[str, ...]:
    """Reasons why vLLM cannot serve an adapter, one sentence each; empty if it can.

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


def check_adapter(files: Mapping[str, bytes]) -> None:
    """Raise if vLLM cannot load an adapter as it is."""
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
