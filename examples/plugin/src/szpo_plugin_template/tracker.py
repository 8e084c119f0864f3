"""The tracker `lines`: a line of JSON for each step, in a file named after the run."""

import json

from szpo.runs.callbacks import read_scalars


class Lines:
    """Adds to the file, so that a resumed run goes on in it."""

    def __init__(self, folder):
        self.folder = folder
        self.file = None

    def begin(self, run):
        """Called before the first step, and again when the run is resumed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / f"{run.name}.jsonl"

    def after_step(self, step):
        """Called after each step; the figures are finite numbers by name."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step.step, **read_scalars(step)}) + "\n")

    def end(self, outcome):
        """Called when the run ends or pauses; nothing is open here."""


def tracker(place):
    """Make the tracker; ``place`` is its folder."""
    return Lines(place)
