"""Entry points of packages that are not installed."""

from types import SimpleNamespace
from typing import Any

import pytest

from szpo import plugins


def plug(patch: pytest.MonkeyPatch, **brought: tuple[str, Any]) -> None:
    """Replace all installed entry points by (name, object) for each group, by its last word."""

    def entries(group: str) -> list[Any]:
        name, found = brought.get(group.removeprefix("szpo."), ("", None))
        entry = SimpleNamespace(name=name, value=f"{name}:it", dist=None, load=lambda: found)
        return [entry] if name else []

    patch.setattr(plugins, "entry_points", entries)
