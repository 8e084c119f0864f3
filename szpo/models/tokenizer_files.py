"""The tokenizer and chat template of a base model that is on this machine, as files.

No model is loaded, converted or downloaded for it, and no tensor library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from szpo import cache, files

NAMES: Final = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja",
    "chat_template.json",
)  # fmt: skip
"""Files that transformers saves for a tokenizer."""
_SNAPSHOT: Final = re.compile(r"models--([\w.-]+?)--([\w.-]+)")
"""How the hub's cache names the folder of owner/name."""


def read_files(base: str) -> dict[str, bytes]:
    """The files by name; empty where the base model is not on this machine.

    ``base`` is a model's name as in the settings: smollm2, tiny, a folder or a hub id.
    """
    for file in _candidates(base):
        folder = file.parent
        return {name: (folder / name).read_bytes() for name in NAMES if (folder / name).is_file()}
    return {}


def hub_name(base: str) -> str | None:
    """The hub id behind a folder of the hub's own cache; None elsewhere.

    >>> hub_name("/home/me/hub/models--HuggingFaceTB--SmolLM2-360M/snapshots/1f2e")
    'HuggingFaceTB/SmolLM2-360M'
    """
    found = [_SNAPSHOT.fullmatch(part) for part in Path(base).parts]
    return next((f"{match[1]}/{match[2]}" for match in found if match), None)


def _candidates(base: str) -> Iterator[Path]:
    """Files named in `NAMES` that are where this base model is looked for."""
    folders = [files.expand(base)]
    if base in ("smollm2", "tiny"):
        folders = sorted(cache.cache_dir().glob(f"{base}-*"), reverse=True)
    for folder in folders:
        yield from (folder / name for name in NAMES if (folder / name).is_file())
    if "/" in base and not folders[0].exists():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        for name in NAMES:
            try:
                path = try_to_load_from_cache(base, name)
            except HFValidationError:  # a folder that is gone
                return
            if isinstance(path, str):
                yield Path(path)
