"""Judges: language models, and a small scorer, as panelists like any other."""
