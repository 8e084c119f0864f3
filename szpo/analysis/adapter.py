"""A run's adapter as PEFT files, made from its ledger alone, and pushed to the Hub.

Push a folder to the Hugging Face Hub with `huggingface_hub`. The token is from the environment
(``HF_TOKEN``) or ``hf auth login``; szpo never asks for, prints or records one. ``HF_ENDPOINT`` is
the address of another hub.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from szpo import keyed_requests
from szpo.analysis.model_card import LAST, UNNAMED, Names, Weights, find_doubt, model_card
from szpo.errors import ResourceError, RunError, StorageError, SzpoError, UsageError
from szpo.failpoints import failpoint
from szpo.files import write_whole
from szpo.ledger import theta
from szpo.ledger.database import Ledger
from szpo.models import lora
from szpo.policies import subspaces

Kind = Literal["model", "dataset"]
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REASONS: Final[dict[int, tuple[type[SzpoError], str]]] = {
    401: (UsageError, "it accepts none of your tokens; run `hf auth login`, or set HF_TOKEN"),
    403: (UsageError, "the token may not write there; take one with the right to write"),
    404: (UsageError, "no such user or repository, or the token may not see it; check both"),
    409: (StorageError, "somebody changed it at the same moment; look at it and push again"),
    412: (StorageError, "somebody changed it at the same moment; look at it and push again"),
    413: (UsageError, "it is larger than the hub takes; leave something out"),
    429: (ResourceError, "it had too many requests; push again later"),
}


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
    subspace, improved = subspaces.read_recorded(ledger), theta.read_adopted(ledger)
    whole = subspace.factors(weights.theta(ledger)), subspace.sites
    factors, sites = (
        lora.pad(*whole) if weights.rank is None else lora.truncate(*whole, weights.rank)
    )
    return lora.peft_files(
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
        tokenizer = lora.tokenizer_files(ledger.spec["base"]["name"])
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


def check_name(name: str, option: str) -> str:
    """Check that a name has the hub's form OWNER/NAME, and return it.

    ``option``: what gave it, for the message.
    """
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise UsageError(f'{option} "{name}" is no name on the hub; give USER/NAME')
    return name


def push_to_hub(folder: Path, name: str, *, kind: Kind, public: bool = False) -> str:
    """Push all files of a folder as one commit; the repository is created if there is none.

    An existing repository keeps its visibility and its other files.

    ``name``: OWNER/NAME. A new repository is private unless ``public``.

    Returns:
        The address of the repository.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    # The client's HTTP library depends on its version; its errors have this base class.
    unreachable: tuple[type[BaseException], ...] = (HfHubHTTPError.__mro__[1], OSError)
    api = HfApi(endpoint=keyed_requests.hub_endpoint(), library_name="szpo")
    where = f"{name} on {keyed_requests.without_password(api.endpoint)}"
    try:
        made = api.create_repo(name, repo_type=kind, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=folder, repo_type=kind, commit_message="Upload by szpo"
        )
    except HFValidationError:
        raise UsageError(f'"{name}" is no name on the hub; give USER/NAME') from None
    except HfHubHTTPError as error:
        raise _refusal(where, error.response.status_code) from None
    except RuntimeError as error:  # from an upload of a large file, which hides the cause
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError):
            raise _refusal(where, cause.response.status_code) from None
        why = keyed_requests.hide_keys(str(error))
        raise ResourceError(f"{where}: {why}; nothing was published") from None
    except unreachable as error:
        raise ResourceError(
            f"{where} cannot be reached ({type(error).__name__}); nothing was published"
        ) from None
    return str(made)


def _refusal(where: str, status: int) -> SzpoError:
    """The error for an HTTP status; its class, and so the exit code, says whose fault it is."""
    if status in _REASONS:
        kind, why = _REASONS[status]
    elif status >= 500:
        kind, why = ResourceError, "it fails; push again later"
    else:
        kind, why = UsageError, "it refuses what was sent; check the name"
    return kind(f"{where}: {why} (HTTP {status}); nothing was published")
