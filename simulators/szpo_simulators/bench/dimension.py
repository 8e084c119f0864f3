"""`szpo bench dimension`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from szpo.errors import UsageError


def main(
    quick: bool = False,
    folder: Path = Path("runs/bench-dimension"),
    figures: Path | None = None,
) -> dict[str, Any]:
    """Not there yet.

    Args:
        quick: Small settings, under a minute.
        folder: Where finished cells, tables and figures go.
        figures: Where the documents' figures go as well.
    """
    raise UsageError(f"bench dimension: not there yet ({quick}, {folder}, {figures})")
