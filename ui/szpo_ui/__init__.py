"""The web process: pages for panelists and operators, and a JSON API, over the vote service."""

from __future__ import annotations

import os

# Read when gradio is imported: nothing is sent from this machine, no run is stored in a browser.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
