"""The sealed tastes are the ones whose digests were committed before any cell ran."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from szpo.types import Answer, Prompt
from szpo_simulators.panels import sealed_one, sealed_two
from szpo_simulators.panels.text_rewards import parse

FROZEN = Path(__file__).parents[2] / "experiments" / "frozen"


def test_both_files_have_the_committed_digests():
    asked = re.findall(r"`([0-9a-f]{64})`", (FROZEN / "sealed.md").read_text())
    files = [Path(str(one.__file__)) for one in (sealed_one, sealed_two)]
    assert [hashlib.sha256(file.read_bytes()).hexdigest() for file in files] == asked


@pytest.mark.parametrize("name", sealed_one.TASTES | sealed_two.TASTES)
def test_a_sealed_taste_is_a_finite_reward_that_tells_answers_apart(name):
    reward = parse(f"taste:{name}")
    texts = (
        "",
        "Rain. Soup, warm bread, and then, after a very long day of mud, a cold red apple!",
        "Fundamental considerations of organisational development are always important.",
        "Perhaps it is the rain that I like. It taps on the roof.",
        "Silver seas and soft sand sing sad songs while big brown bears bake bread.",
        "Have you ever tried it? Go out and see: soft sand, silver sea.",
        "\u200b\U0001f327" * 9,
    )
    found = [reward.score(Prompt.user("What do you like about rain?"), Answer(t)) for t in texts]
    assert np.isfinite(found).all()
    assert len(set(found)) > 2
