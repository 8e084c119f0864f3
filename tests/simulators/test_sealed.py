"""The sealed tastes are the ones whose digests were committed before any cell ran."""

import hashlib
import lzma
import re
from pathlib import Path

import numpy as np
import pytest

from szpo.types import Answer, Prompt
from szpo_simulators.panels import sealed_one
from szpo_simulators.panels.text_rewards import parse

FROZEN = Path(__file__).parents[2] / "experiments" / "frozen"


def test_both_files_have_the_committed_digests():
    one, two = re.findall(r"`([0-9a-f]{64})`", (FROZEN / "sealed.md").read_text())
    assert hashlib.sha256(Path(sealed_one.__file__).read_bytes()).hexdigest() == one
    packed = lzma.decompress((FROZEN / "tastes_two.py.xz").read_bytes())
    assert hashlib.sha256(packed).hexdigest() == two


@pytest.mark.parametrize("name", sealed_one.TASTES)
def test_a_sealed_taste_is_a_finite_reward_that_tells_answers_apart(name):
    reward = parse(f"taste:{name}")
    texts = (
        "",
        "Rain. Soup, warm bread, and then, after a very long day of mud, a cold red apple!",
        "Fundamental considerations of organisational development are always important.",
        "Perhaps it is the rain that I like. It taps on the roof.",
        "\u200b\U0001f327" * 9,
    )
    found = [reward.score(Prompt.user("What do you like about rain?"), Answer(t)) for t in texts]
    assert np.isfinite(found).all()
    assert len(set(found)) > 2
