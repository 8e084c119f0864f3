"""Make the coordinates that ship with szpo: default settings, shipped prompts, more answers.

Run: make basis (minutes). Run it again after every change of how a set-up is made
(`szpo.policies.subspace_cache.VERSION`), of the default settings or of the shipped prompts.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import Any

import numpy as np

from szpo import cache
from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.data.prompts import load_shipped
from szpo.models import loading
from szpo.optim.directions import Law
from szpo.optim.parameters import Space
from szpo.policies import language_model, score_features, subspace_cache
from szpo.policies.lora_policy import AnswerSampling, LoraPolicy
from szpo.policies.probe import Probe
from szpo.policies.responder import LocalHost
from szpo.policies.subspaces import Subspace
from szpo.training import guard_moments

CHECKED = 4
"""Answers of which the index has tokens and coordinates, for a test to make again."""


def check(config: Config, loaded: loading.Loaded, subspace: Subspace) -> dict[str, Any]:
    """The first base answers of the set-up, and the whitened scores of each."""
    tokens = tuple(loading.encode(loaded.tokenizer, p) for p in load_shipped().train)
    sampling, seed = subspace_cache.sampling_of(config), config.subspace.setup_seed
    respondent = LocalHost(loaded).at(subspace, Space(seed, subspace.layout, Law()))
    drawn = Probe(respondent, subspace, tokens, sampling, seed).start_samples(CHECKED)
    found = score_features.whitened_scores(
        respondent, subspace, [(s.prompt, s.answer) for s in drawn],
        temperature=sampling.temperature,
    )  # fmt: skip
    return {
        "answers": [list(sample.answer) for sample in drawn],
        "coordinates": np.round(found, 4).tolist(),
    }


def main() -> None:
    """Make the file and its index; what shipped before is deleted."""
    samples, folder = subspace_cache.SHIPPED_SAMPLES, subspace_cache.SHIPPED
    config = settings_file.load(sets=[f"subspace.samples={samples}"])
    loaded = loading.load(config.model.name, device="cpu")
    prompts = load_shipped().train
    host = LocalHost(loaded)
    sites = host.places(config.adapter, None).sites
    made = language_model.set_up(config, host, sites, prompts)
    key = subspace_cache.setup_key(config, loaded.sha256, loaded.dtype, prompts)
    shutil.rmtree(folder, ignore_errors=True)
    file = folder / subspace_cache.file_name(key)
    subspace_cache.write(made, file)
    facts = {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "model": config.model.name,
        **check(config, loaded, made),
    }
    index = json.dumps({file.name: facts}, indent=1) + "\n"
    (folder / "index.json").write_text(index, encoding="utf-8")
    print(f"wrote {file} ({file.stat().st_size / 1000:.0f} kB)")
    answering = AnswerSampling(subspace_cache.sampling_of(config))
    policy = LoraPolicy(loaded, made, root_seed=0, answering=answering)
    shutil.rmtree(guard_moments.SHIPPED, ignore_errors=True)
    guard_moments.load_or_read(policy, prompts)
    guard_moments.SHIPPED.mkdir()
    newest = max((cache.cache_dir() / "readings").glob("*.npz"), key=lambda p: p.stat().st_mtime)
    reading = shutil.copy(newest, guard_moments.SHIPPED / newest.name)
    digest = {"sha256": hashlib.sha256(reading.read_bytes()).hexdigest()}
    index = json.dumps({reading.name: digest}, indent=1) + "\n"
    (guard_moments.SHIPPED / "index.json").write_text(index, encoding="utf-8")
    print(f"wrote {reading}")


if __name__ == "__main__":
    main()
