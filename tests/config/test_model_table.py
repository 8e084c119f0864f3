"""Which model to take for people: the docs have the table of the code; and what a hint names."""

import re
from pathlib import Path

from szpo.config import model_table
from szpo.config.model_table import TABLE

HARDWARE = Path(__file__).parents[2] / "docs" / "hardware.md"


def test_the_docs_have_the_table() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|( \d.*)\|$", HARDWARE.read_text("utf-8"), re.M)
    assert dict(rows) == {
        each.name: f" {each.billions} billion | {each.weights_gib:.1f} GiB | "
        f"{each.needs_gib:.1f} GiB | {each.licence} | {each.ran} "
        for each in TABLE
    }
    # 1.71 billion numbers of two bytes are 3.42e9 bytes, 3.19 GiB.
    assert round(TABLE[2].weights_gib, 2) == 3.19
    assert [each.billions for each in TABLE] == sorted(each.billions for each in TABLE)
    assert [each.ran for each in TABLE] == ["run"] + ["not run"] * 4


def test_the_hint_names_what_fits_and_only_for_the_model_that_ships() -> None:
    assert model_table.hint("HuggingFaceTB/SmolLM2-360M-Instruct", 64.0) == ""
    large = model_table.hint("smollm2", 7.6)
    assert "135 million" in large and "8 GiB free" in large
    assert "--set model.name=HuggingFaceTB/SmolLM2-1.7B-Instruct" in large
    small = model_table.hint("smollm2", 2.0)
    assert "--set" not in small and "docs/hardware.md" in small
