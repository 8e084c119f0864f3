"""The words of the tiny model's texts, by its recipe."""

import runpy
from pathlib import Path

RECIPE = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "tools" / "tiny_model.py"))
ASKS, TOPICS, MOODS = (RECIPE[name] for name in ("ASKS", "TOPICS", "MOODS"))
tiny_corpus = RECIPE["tiny_corpus"]
