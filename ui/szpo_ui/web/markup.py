"""What both pages are made with: templates that escape everything, and their style."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from szpo_ui.web.prose import prose


def environment(
    filters: Mapping[str, Callable[..., Any]], names: Mapping[str, Any]
) -> Environment:
    """The templates of the package with a page's own filters and names; ``prose`` is in both.

    A name that a template does not know is an error.
    """
    made = Environment(
        loader=PackageLoader("szpo_ui"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(prose=prose, **filters)
    made.globals.update(names)
    return made


def style(page: str) -> str:
    """The style of a page (``panel`` or ``operate``): what both share, then its own."""
    folder = resources.files("szpo_ui") / "static"
    return "\n".join(
        (folder / f"{name}.css").read_text(encoding="utf-8") for name in ("common", page)
    )
