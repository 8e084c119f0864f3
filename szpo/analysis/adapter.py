"""A run's adapter as PEFT files, made from its ledger alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from szpo.analysis import improvement
from szpo.analysis.exported_weights import LAST, Weights, find_doubt
from szpo.analysis.model_card import model_card
from szpo.errors import RunError, UsageError
from szpo.failpoints import failpoint
from szpo.files import write_whole
from szpo.ledger import theta
from szpo.ledger.database import Ledger
from szpo.models import lora
from szpo.policies import subspaces


def fold_adapter_files(ledger: Ledger, weights: Weights = LAST) -> dict[str, bytes] | None:
    """The adapter's files at these weights, computed from the recorded updates.

    Returns None if the run's policy is not a language model of szpo.
    """
    space: Mapping[str, Any] | None = ledger.spec.get("space")
    if space is None or "sites" not in space:
        return None
    subspace, improved = subspaces.read_recorded(ledger), theta.read_adopted(ledger)
    whole = subspace.factors(weights.theta(ledger)), subspace.sites
    factors, sites = (
        lora.pad(*whole) if weights.rank is None else lora.truncate(*whole, weights.rank)
    )
    return lora.peft_files(
        factors,
        sites,
        base=ledger.spec["base"]["name"],
        conv1d=bool(space.get("conv1d") or (improved and improved.body.get("conv1d"))),
    )


def write_folder(
    ledger: Ledger,
    target: Path,
    weights: Weights = LAST,
    *,
    anyway: bool = False,
) -> bool:
    """Write the adapter, its card and the tokenizer to a new folder, completely or not at all.

    Returns:
        Whether the base model's tokenizer was on this machine.
    """
    adapter = fold_adapter_files(ledger, weights)
    if adapter is None:
        raise UsageError(
            f"{ledger.path.stem}: its policy is not a language model, so it has no adapter"
        )
    if not anyway:
        require_sound(ledger, weights)
    with write_whole(target) as draft:
        draft.mkdir()
        tokenizer = lora.tokenizer_files(ledger.spec["base"]["name"])
        for file, content in {**tokenizer, **adapter}.items():
            (draft / file).write_bytes(content)
        failpoint("cp13")
        card = model_card(ledger, weights)
        (draft / "README.md").write_text(card, encoding="utf-8")
    return bool(tokenizer)


def require_sound(ledger: Ledger, weights: Weights = LAST) -> None:
    """Raise if there is a reason not to export these weights."""
    if against := find_doubt(ledger, improvement.read(ledger), weights):
        raise RunError(
            f"{ledger.path.stem}: {against}; nothing was written (--anyway, in Python "
            "anyway=True, does it all the same, and its card says so)"
        )
