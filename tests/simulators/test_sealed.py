"""The sealed tastes are the ones whose digests were committed before any cell ran."""

import hashlib
import re
from pathlib import Path

from szpo_simulators.panels import tastes

FROZEN = Path(__file__).parents[2] / "experiments" / "frozen"


def test_both_files_have_the_committed_digests():
    asked = re.findall(r"`([0-9a-f]{64})`", (FROZEN / "sealed.md").read_text())
    files = sorted(tastes.SEALED.glob("sealed_*.py"))
    assert tastes.reward("five_senses").name == "taste:five_senses"
    assert [hashlib.sha256(file.read_bytes()).hexdigest() for file in files] == asked
