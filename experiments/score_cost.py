"""Score vectors of SmolLM2 by a tape through B of every row, and from captured activations.

Run: python experiments/score_cost.py [--answers N] [--rounds N]. Both ways in one process, in
turn, on the same answers of 24 random words to the shipped prompts: processor seconds, resident
memory above what stood before, and how far the vectors differ.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from szpo.data.prompts import load_shipped
from szpo.models import loading, logprobs, scores
from szpo.models.batched_lora import find_sites
from szpo.models.logprobs import Sample
from szpo.models.lora_sites import lora_config
from tests.support.scoring import by_rows


def megabytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def measure(work: Callable[[], np.ndarray]) -> tuple[float, float, np.ndarray]:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # or the other way's memory would be used again
    Path("/proc/self/clear_refs").write_text("5")
    before, began = megabytes("VmRSS"), time.process_time()
    found = work()
    return time.process_time() - began, megabytes("VmHWM") - before, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=1)
    chosen = parser.parse_args()
    loaded = loading.load("smollm2", device="cpu")
    model = loaded.model
    sites = find_sites(model, lora_config(model))
    asked = [loading.encode(loaded.tokenizer, p) for p in load_shipped().train]
    rng = np.random.default_rng(0)
    samples = [
        Sample(asked[i % len(asked)], tuple(rng.integers(100, 40_000, 24).tolist()), i)
        for i in range(chosen.answers)
    ]
    adapted = loaded.adapt(sites)
    start = {s.b: np.zeros((s.outputs, s.rank), np.float32) for s in sites}
    start |= logprobs.input_directions(adapted, samples[:8])
    ways = {
        "tape": lambda: by_rows(model, sites, start, samples, 1.0),
        "captured": lambda: scores.score_vectors(adapted, start, samples),
    }
    found = {}
    scores.score_vectors(adapted, start, samples[:2])
    for i in range(chosen.rounds):
        for name, work in ways.items():
            seconds, peak, found[name] = measure(work)
            rate = chosen.answers / seconds
            print(f"{i} {name}: {seconds:.1f} s, {rate:.1f} a second, {peak:.0f} MB", flush=True)
    apart = np.linalg.norm(found["tape"] - found["captured"], axis=1)
    print("relative difference:", float(np.median(apart / np.linalg.norm(found["tape"], axis=1))))


if __name__ == "__main__":
    main()
