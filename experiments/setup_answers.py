"""Base answers of SmolLM2 and their raw score vectors, for `setup_table.py`.

Run: python experiments/setup_answers.py FOLDER [--answers N] [--redraws N] [--redrawn N]
[--turn I/N] [--dtype D] [--sites MODULE:FIRST-LAST ...]. A part has 128 answers to the shipped
prompts. Parts that are in the folder stay, so a run that was cut goes on, and N processes with a
turn each share the parts. Each part holds the scores in B (rank 1) of those modules in those
layers (down_proj in layers 18 to 27 and o_proj in 18 to 22 by default): the answers' own, and of
the first --redrawn answers those of words drawn anew everywhere.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path

import numpy as np

from szpo.data import prompts
from szpo.generation.sampling import Sampling
from szpo.models import loading, logprobs, scores
from szpo.models.batched_lora import find_sites
from szpo.models.lora_sites import lora_config
from szpo.models.scores import ScoredLaw
from szpo.optim.directions import Law
from szpo.optim.parameters import Space
from szpo.policies.probe import Probe
from szpo.policies.responder import LocalHost
from szpo.policies.subspaces import Subspace

PART = 128
SEED = 20_191
SITES = ("down_proj:18-27", "o_proj:18-22")


def is_at(name: str, sites: str) -> bool:
    """Whether the adapter's site of this name is among MODULE:FIRST-LAST, ends included."""
    module, first, last = re.split("[:-]", sites)
    found = re.search(rf"\.(\d+)\..*{module}$", name)
    return found is not None and int(first) <= int(found[1]) <= int(last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--answers", type=int, default=4096)
    parser.add_argument("--redraws", type=int, default=3)
    parser.add_argument("--redrawn", type=int, default=2048)
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--turn", default="0/1")
    parser.add_argument("--sites", nargs="+", default=SITES, metavar="MODULE:FIRST-LAST")
    chosen = parser.parse_args()
    turn, turns = map(int, chosen.turn.split("/"))
    chosen.folder.mkdir(parents=True, exist_ok=True)
    loaded = loading.load("smollm2", dtype=chosen.dtype)
    modules = sorted({each.split(":")[0] for each in chosen.sites})
    depth = loaded.model.config.num_hidden_layers
    every = find_sites(
        loaded.model, lora_config(loaded.model, targets=modules, layers=range(depth))
    )
    sites = tuple(s for s in every if any(is_at(s.name, each) for each in chosen.sites))
    tokens = tuple(loading.encode(loaded.tokenizer, p) for p in prompts.load_shipped().train)
    blank = {s.a: np.zeros((s.rank, s.inputs), np.float32) for s in sites}
    blank |= {s.b: np.zeros((s.outputs, s.rank), np.float32) for s in sites}
    adapted = loaded.adapt(sites)
    host = LocalHost(loaded)
    start: dict[str, np.ndarray] = {}
    for part in range(chosen.answers // PART):
        file = chosen.folder / f"{part:03}.npz"
        # Part 0 is drawn by every process: its answers give A.
        if start and (file.exists() or part % turns != turn):
            continue
        began = time.process_time()
        # Parts have seeds of their own, and begin where the last one ended among the prompts.
        turned = tokens[part * PART % len(tokens) :] + tokens[: part * PART % len(tokens)]
        space = Subspace(
            "score", sites, {s.a: blank[s.a] for s in sites}, {s.b: blank[s.b] for s in sites}, {}
        )
        respondent = host.at(space, Space(SEED, space.layout, Law()))
        probe = Probe(respondent, space, turned, Sampling(), SEED + part)
        drawn = probe.start_samples(PART)
        if not start:
            start = {**blank, **logprobs.input_directions(adapted, drawn[:64])}
            if file.exists() or turn:
                continue
        made = time.process_time()
        redraws = chosen.redraws if (part + 1) * PART <= chosen.redrawn else 0
        law = ScoredLaw(redraws=redraws, seed=SEED + part)
        found = np.empty((PART, 1 + law.redraws, scores.width_of(sites)), np.float16)
        for index, some in scores.iterate_scores(adapted, start, drawn, law):
            found[index] = some
        place = {t: i for i, t in enumerate(tokens)}
        texts = [loaded.tokenizer.decode(s.answer, skip_special_tokens=True) for s in drawn]
        with file.with_suffix(".draft").open("wb") as draft:
            np.savez(
                draft, scores=found, groups=np.array([place[s.prompt] for s in drawn]),
                texts=np.array(json.dumps(texts)),
                sites=np.array(json.dumps([[s.name, s.outputs] for s in sites])),
            )  # fmt: skip
        file.with_suffix(".draft").rename(file)
        now = time.process_time()
        print(
            f"part {part}: {made - began:.1f} s to draw, {now - made:.1f} s to score", flush=True
        )


if __name__ == "__main__":
    main()
