"""What leaves a run: the HTML page, charts, the export, adapters, model cards, tables of votes."""
