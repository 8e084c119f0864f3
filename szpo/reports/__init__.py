"""Output of a run: HTML page, charts, export, adapters, model cards, tables of votes."""
