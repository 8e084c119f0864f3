"""The web process: pages for panelists and operators, and a JSON API, over the vote service."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

# Read when gradio is imported: nothing is sent from this machine, no run is stored in a browser.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"


def __getattr__(name: str) -> Any:
    """`Comparison`, which imports Gradio, at its first use."""
    if name != "Comparison":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("szpo_ui.panel.component").Comparison
