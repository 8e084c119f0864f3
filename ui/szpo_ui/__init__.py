"""The web process: pages for panelists and operators and a JSON API, over the vote service."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

# Gradio reads these on import: it then sends nothing home and stores no run in the browser.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"


def __getattr__(name: str) -> Any:
    """Import `Comparison`, and with it Gradio, only when it is used."""
    if name != "Comparison":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("szpo_ui.component").Comparison
