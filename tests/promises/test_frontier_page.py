"""The frontier's finished cells belong to the frozen plan, and the page says what they say."""

import re
from pathlib import Path

import pytest

from szpo_simulators.bench.frontier import plan, summary
from szpo_simulators.compare.cell_store import CellStore

ROOT = Path(__file__).parents[2]
STORE = CellStore(ROOT / "experiments" / "frontier")
FROZEN = plan.read(ROOT / "experiments" / "frozen" / "frontier.toml")
PAGE = (ROOT / "docs" / "frontier.md").read_text(encoding="utf-8")
LINES = summary.summarise(FROZEN, summary.read_rows(FROZEN, STORE))


def test_every_stored_cell_is_one_of_the_plan():
    stored = {path.stem for path in (STORE.folder / "cells").glob("*.json")}
    assert stored and stored <= {cell.name for cell in plan.cells(FROZEN, (), ())}


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line['group']}-{line['checkpoint']}")
def test_the_page_has_each_group_at_each_checkpoint_as_measured(line):
    """Means over the finished seeds; a cell that ends later makes this fail until it is told."""
    interval = "" if line["low"] is None else f" [{line['low']:+.2f}, {line['high']:+.2f}]"
    cells = [line["group"], str(line["checkpoint"]), f"{line['seeds']} of {line['of']}"]
    cells.append(f"{line['mean']:+.3f}{interval}")
    if "kl_most" in line:
        cells += [f"{line['kl']:.2f} ({line['kl_most']:.2f})", f"{line['lowest']:+.3f}"]
        cells.append(f"{line['first_three']}, {line['all_four']}")
    else:  # the best of n has a bound of its KL, and no guards
        cells.append(f"{line['kl']:.2f}")
    row = re.escape(" | ".join(cells))
    assert re.search(rf"^\| {row} \|", PAGE, re.M), " | ".join(cells)
