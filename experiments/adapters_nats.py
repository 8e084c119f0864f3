"""Adapters that were stopped at other nats, each scaled until it costs the same.

    python experiments/adapters_nats.py SET SET [--nats 1.5,3] [--answers 8]

Of each adapter that both sets have, by itself: the value of its feature at these nats, measured
on szpo's held-out prompts, where no set was made. Lengths are found on others of these.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

from szpo.config import settings_file
from szpo.improvement import aims
from szpo.models import adapters
from szpo.policies.protocol import moved
from szpo.runs import other_weights
from szpo.runs.other_weights import Mixer
from szpo.types import Floats

TRIES = 6
SEED = 31


def reach(mixer: Mixer, name: str, nats: float) -> tuple[Floats, float]:
    """The point along an adapter that costs the nats by measured KL, and what it costs."""
    asked, z = mixer.heldout[:24], np.asarray(mixer.blocks.point({name: nats}), float)
    for _ in range(TRIES):
        with moved(mixer.policy, {"z": np.float32(z)}):
            found = mixer.policy.kl(asked, seed=SEED)[0]
        if abs(found / nats - 1) < 0.05:
            break
        z = z * min(max(math.sqrt(nats / max(found, 1e-6)), 0.5), 2.0)
    return z, found


def main() -> None:
    """Print a line for each adapter, set and number of nats."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs=2)
    parser.add_argument("--nats", default="1.5,3")
    parser.add_argument("--answers", type=int, default=8, help="to each of 48 prompts")
    given = parser.parse_args()
    made = [adapters.read_set(Path(place))["adapters"] for place in given.sets]
    rows = [{row["name"]: row for row in each} for each in made]
    for place in given.sets:
        config = settings_file.load(sets=adapters.settings_of_set(Path(place), place))
        mixer = other_weights.mixer_of_set(config, say=print)
        asked = mixer.heldout[24:72]
        for name in (name for name in rows[0] if name in rows[1]):
            row = rows[0][name]
            (aim,) = aims.read([f"{name} = {'' if row['more'] else 'fewer '}{row['feature']}"])
            for nats in (0.0, *map(float, given.nats.split(","))):
                z, kl = reach(mixer, name, nats) if nats else (np.zeros(mixer.policy.dim), 0.0)
                with moved(mixer.policy, {"z": np.float32(z)}):
                    drawn = mixer.policy.sample(asked, given.answers, seed=SEED + 1)
                each = [prompt for prompt in asked for _ in range(given.answers)]
                answers = [answer for group in drawn for answer in group]
                values = aims.values_of([aim], mixer.policy, each, answers)[:, 0]
                error = values.reshape(len(asked), -1).mean(1).std(ddof=1) / len(asked) ** 0.5
                print(
                    f"{place}; {name}; {kl:.2f} nats; {values.mean():.4f} ± {error:.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
