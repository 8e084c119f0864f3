"""How both pages' templates are set up: everything is escaped, an unknown name is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from szpo_ui.prose import prose


def environment(
    filters: Mapping[str, Callable[..., Any]], names: Mapping[str, Any]
) -> Environment:
    """The templates of the package with a page's own filters and names; ``prose`` is in both."""
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
