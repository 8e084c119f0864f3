"""Panels for people: the front doors of the vote service."""

from __future__ import annotations

import os

# Read when gradio is imported: no word leaves this machine, no run is kept in a browser.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
