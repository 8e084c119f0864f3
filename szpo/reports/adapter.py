"""The adapter of a run as PEFT's files, from its ledger alone, and as a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from szpo.errors import UsageError
from szpo.failpoints import failpoint
from szpo.files import write_whole
from szpo.ledger.database import Ledger
from szpo.ledger.theta import stored_tensors
from szpo.models import tokenizer_files
from szpo.models.lora_sites import Site
from szpo.models.peft_format import peft_files
from szpo.optim import parameters
from szpo.replay import replay
from szpo.reports.model_card import Names, model_card


def adapter_files(
    ledger: Ledger, until: int | None = None, *, share: float = 1.0, base: str | None = None
) -> dict[str, bytes] | None:
    """The adapter's files after the steps < ``until`` (all by default), folded from the record.

    With a ``share`` below 1 they are that share of the way from the run's start. ``base`` is the
    base model's name in the files; None: that of the run's settings. None where the run's policy
    is no language model, so that there is no adapter.

    Raises:
        UsageError: the run has applied fewer steps.
        IntegrityError: the weights are not those that the ledger recorded.
    """
    space: Mapping[str, Any] | None = ledger.spec.get("space")
    if space is None or "sites" not in space:
        return None
    parts: dict[str, dict[str, Any]] = {"fixed": {}, "start": {}, "basis": {}}
    for name, value in stored_tensors(ledger).items():
        kind, _, rest = name.partition("/")
        if kind in parts:
            parts[kind][rest] = value.astype(np.float32)
    theta = replay.point_on_line(ledger, share, until)
    basis = parts["basis"]
    moved = parameters.materialise(parts["start"], basis, theta["z"]) if basis else theta
    return peft_files(
        {**parts["fixed"], **parts["start"], **moved},
        [Site(**site) for site in space["sites"]],
        base=base or ledger.spec["base"]["name"],
        conv1d=bool(space.get("conv1d", False)),
    )


def write_folder(
    ledger: Ledger,
    target: Path,
    *,
    step: int | None = None,
    share: float = 1.0,
    names: Names | None = None,
) -> bool:
    """Write the adapter, its card and the tokenizer into a new folder, whole or not at all.

    Returns:
        Whether the base model's tokenizer was on this machine.

    Raises:
        UsageError: the policy is no language model.
        StorageError: the folder exists, or cannot be written.
    """
    adapter = adapter_files(ledger, step, share=share, base=names.base if names else None)
    if adapter is None:
        raise UsageError(f"{ledger.path.stem}: its policy is no language model; no adapter")
    with write_whole(target) as draft:
        draft.mkdir()
        tokenizer = tokenizer_files.read_files(ledger.spec["base"]["name"])
        for file, content in {**tokenizer, **adapter}.items():
            (draft / file).write_bytes(content)
        failpoint("cp13")
        card = model_card(ledger, step=step, share=share, names=names)
        (draft / "README.md").write_text(card, encoding="utf-8")
    return bool(tokenizer)


def changes_nothing(folder: Path) -> bool:
    """Whether the base model with the adapter of a folder is the base model: every B is zero."""
    from safetensors.numpy import load_file

    tensors = load_file(folder / "adapter_model.safetensors")
    return not any(value.any() for name, value in tensors.items() if "lora_B" in name)
