"""Make the coordinates that ship with szpo: smollm2, its prompts, more answers than usual.

Run: make basis, or python docs/tools/ship_basis.py NAME for those of one name: "default", named
features, takes some 20 minutes of processor time. "adapters", only by its name, makes the usual
set of adapters and the coordinates that mix them: some two hours of processor time, and it goes on
after an interruption ("curves": only what each of them costs alone, four minutes; "nats": what
each costs by answers to held-out prompts, ten minutes, and those beyond their budget are drawn
back); then "demo", what the demo reads of its start: five minutes.
"tiny", only by its name, trains the tiny model: a minute. Run it again after every change of how a
set-up is made (`szpo.policies.subspace_setup.VERSION`), of the default sampling, of the shipped
prompts or, for the first, of the dictionary. Answers are to prompts for training, but by "nats";
no vote is seen, and no reward but by "adapters".
What it shows of nats ("what nats look like") goes to experiments/tables/ruler.csv by hand.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import tiny_model

from szpo.cli import adapters, app
from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.data.prompts import load_shipped
from szpo.improvement import adapter_set
from szpo.improvement.draw_back import draw_back
from szpo.models import adapters as sets
from szpo.models import loading, named_models
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import Law
from szpo.policies import language_model, lora_policy, stacked_adapters, subspace_setup
from szpo.policies.backend import Backend, LocalBackend
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.probe import Probe
from szpo.policies.protocol import draw_answers
from szpo.policies.stacked_adapters import measure_curves
from szpo.policies.subspace_setup import probe_of
from szpo.policies.subspaces import Subspace
from szpo.runs import assemble, run_engine
from szpo.types import Prompt
from szpo_simulators.panels import heldout

ROOT: Final = Path(__file__).parents[2]
ADAPTERS: Final = Path("szpo/data/adapters/smollm2")
"""Folder of the set of adapters that ships."""
MIXED: Final = f'subspace.adapters=["{ADAPTERS}"]'
NATS: Final = 3.0
"""Budget of each of its adapters."""
FRESH, FRESH_SEED = 64, 890
"""Held-out prompts on which it is read, and the first seed of the answers."""
CHECKED = 4
"""Answers of which the index has tokens and coordinates, for a test to make again."""
NOTED = 8
"""Leading coordinates that it has of them."""


@dataclass(frozen=True)
class Told:
    """An adapter as fresh answers tell it at a share of its way."""

    nats: float
    stderr: float
    share: float


def check(config: Config, loaded: loading.Loaded, subspace: Subspace) -> dict[str, Any]:
    """The first base answers of the set-up, and the whitened scores of each."""
    tokens = tuple(loading.encode(loaded.tokenizer, p) for p in load_shipped().train)
    sampling, seed = subspace_setup.sampling_of(config), config.subspace.setup_seed
    backend = LocalBackend(loaded).at(subspace, Space(seed, subspace.layout, Law()))
    drawn = Probe(backend, subspace, tokens, sampling, seed).start_samples(CHECKED)
    found = lora_policy.whitened_scores(
        backend, subspace, [(s.prompt, s.answer) for s in drawn],
        temperature=sampling.temperature,
    )  # fmt: skip
    return {
        "answers": [list(sample.answer) for sample in drawn],
        "coordinates": np.round(found[:, :NOTED], 4).tolist(),
    }


def make_features() -> None:
    """Make the coordinates of named features and their lines in the indices."""
    config = settings_file.load(
        sets=[
            "model.name=smollm2",
            "subspace.kind=features",
            f"subspace.samples={subspace_setup.SHIPPED_SAMPLES}",
        ],
    )
    loaded = loading.load(config.model.name, dtype=subspace_setup.SHIPPED_DTYPE, device="cpu")
    prompts = load_shipped().train
    host = LocalBackend(loaded)
    sites, _ = host.places(config.adapter, None)
    made = subspace_setup.choose_subspace(host, sites, prompts, config)
    key = subspace_setup.setup_key(config, loaded.sha256, loaded.dtype, prompts)
    facts = {"preset": "default", "model": config.model.name, **check(config, loaded, made)}
    file = subspace_setup.SHIPPED / subspace_setup.file_name(key)
    _clear(file.parent, "default")
    subspace_setup.write_subspace(made, file)
    _note(file, facts)
    policy = LoraPolicy(loaded, made, root_seed=0, sampling=subspace_setup.sampling_of(config))
    draw_for_panels("default", config, policy)


def make_demo() -> None:
    """Make what the demo reads of its start, in the adapters that ship."""
    chosen = settings_file.load(preset_name="demo", sets=["model.device=cpu"])
    chosen = run_engine.choose_device(chosen)
    config, told = subspace_setup.take_set(chosen)
    print(told)
    host = language_model.load_host(config, adapter=False)
    base = language_model.prepare(config, host, load_shipped().train, print)
    assert base.subspace.report["origin"] == "shipped", "first: ship_basis.py adapters"
    sampling = subspace_setup.sampling_of(config)
    policy = LoraPolicy(base.loaded, base.subspace, root_seed=0, sampling=sampling, host=host)
    draw_for_panels("demo", config, policy)
    held = load_shipped().heldout[: config.evaluation.prompts]
    _clear(heldout.SHIPPED, "demo")
    compared = config.evaluation.samples
    level = heldout.SHIPPED / heldout.file_name(policy, held, compared)
    heldout.to_file(heldout.read_base(policy, held, compared), level)
    _note(level, {"preset": "demo"})


def draw_for_panels(name: str, config: Config, policy: LoraPolicy) -> None:
    """Ship the base's answers to which simulated panels are fitted."""
    asked = load_shipped().train[: assemble.SHARPNESS_PROMPTS]
    drawn = draw_answers(policy, asked, assemble.SHARPNESS_SAMPLES, seed=0)
    _clear(language_model.SHIPPED, name)
    model = (policy.loaded.sha256, policy.loaded.dtype)
    answers = language_model.SHIPPED / language_model.answers_name(config, model, asked)
    language_model.write_answers(drawn, answers)
    _note(answers, {"preset": name})


def make_curves() -> None:
    """Measure again what each adapter that ships costs alone; all else stays as it is."""
    make_adapters(curves=True)


def read_nats() -> None:
    """Read what each adapter that ships costs by fresh answers; draw those beyond `NATS` back.

    Their coordinates then stay the same policies, but for rounding.
    """
    os.chdir(ROOT)
    config = settings_file.load(sets=[*_chosen(), *MIXED])
    host = language_model.load_host(config, adapter=False)
    asked = load_shipped().heldout[:FRESH]
    document, shares = sets.read_set(ADAPTERS), list[float]()
    for entry in document["adapters"]:
        folder = ADAPTERS / entry["folder"]

        def read(share: float, number: int, folder: Path = folder) -> Told:
            seed = FRESH_SEED + number
            found = adapter_set.read_nats(host, config, folder, asked, seed=seed, scale=share)
            print(folder.name, share, *found)
            return Told(*found, share)

        told = draw_back(read, lambda told: (told, True), NATS)
        shares.append(told.share)
        entry |= {
            "nats_allowed": NATS, "nats": round(told.nats, 3),
            "nats_stderr": round(told.stderr, 3),
            "scale": round(told.share * entry.get("scale", 1.0), 4),
        }  # fmt: skip
    for entry, share in zip(document["adapters"], shares, strict=True):
        if share < 1:
            adapter_set.rescale(host, config, ADAPTERS / entry["folder"], share)
    (ADAPTERS / sets.SET).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if min(shares) == 1:
        return
    stored, scale = _stored(), np.array(shares, np.float32)
    _, factors, blocks, _ = stacked_adapters.gather(config, host, print)
    assert stored.blocks is not None
    mixing = stored.blocks.mixing / scale[:, None]
    _ship_adapters(
        replace(
            stored, fixed=factors,
            blocks=replace(blocks, mixing=mixing, curves=stored.blocks.curves),
        ), config, host,
    )  # fmt: skip


def make_adapters(*, curves: bool = False) -> None:
    """Make the set of adapters that ships, and the coordinates w = T z of its weights."""
    os.chdir(ROOT)  # the record names the set's folder, which is another one elsewhere
    words = [word for text in _chosen() for word in ("--set", text)]
    if not curves and app.call(["adapters", "make", str(ADAPTERS), *words]):
        raise SystemExit(1)
    config = settings_file.load(sets=[*_chosen(), *MIXED])
    host = language_model.load_host(config, adapter=False)
    prompts = load_shipped().train
    if curves:
        made = _with_curves(config, host, prompts)
    else:
        made = language_model.prepare(config, host, prompts, print).subspace
    _ship_adapters(made, config, host)


def _chosen() -> list[str]:
    """The settings under which the set that ships is made and mixed."""
    fixed = {"model.name": "smollm2", "model.dtype": subspace_setup.SHIPPED_DTYPE}
    fixed |= {f"generation.{name}": value for name, value in adapters.SAMPLING.items()}
    return [f"{name}={value}" for name, value in fixed.items()]


def _ship_adapters(made: Subspace, config: Config, host: Backend) -> None:
    """Write the coordinates of the adapters that ship, and say what all takes."""
    prompts = load_shipped().train
    key = subspace_setup.setup_key(config, host.facts.sha256, host.facts.dtype, prompts)
    file = subspace_setup.SHIPPED / subspace_setup.file_name(key)
    _clear(file.parent, "adapters")
    subspace_setup.write_subspace(made, file)
    _note(file, {"preset": "adapters", "model": config.model.name})
    size = sum(each.stat().st_size for each in (file, *ADAPTERS.rglob("*")) if each.is_file())
    print(f"{size / 1e6:.2f} MB in all; at most 1 MB ships")


def _stored() -> Subspace:
    """The coordinates of the adapters, as they ship."""
    index = json.loads((subspace_setup.SHIPPED / "index.json").read_text(encoding="utf-8"))
    (name,) = (name for name, facts in index.items() if facts["preset"] == "adapters")
    return subspace_setup.read_subspace(subspace_setup.SHIPPED / name)


def _with_curves(config: Config, host: Backend, prompts: Sequence[Prompt]) -> Subspace:
    shipped = _stored()
    blocks, sampling = shipped.blocks, subspace_setup.sampling_of(config)
    assert blocks is not None
    weights = replace(blocks, mixing=np.eye(shipped.dim, dtype=np.float32), curves=())
    whole = replace(shipped, blocks=weights, features=None, report={})
    probe = probe_of(host, whole, prompts, sampling, config.subspace.setup_seed)
    curves, facts = measure_curves(probe, blocks)
    report = {**shipped.report, **facts}
    return replace(shipped, blocks=replace(blocks, curves=curves), report=report)


def make_tiny() -> None:
    """Train the tiny model that ships."""
    recipe = tiny_model.TinyRecipe()
    shutil.rmtree(named_models.SHIPPED, ignore_errors=True)
    folder = named_models.SHIPPED / recipe.folder_name()
    _clear(folder, "tiny")
    tiny_model.train_tiny(recipe, folder)
    (folder / "model.safetensors").chmod(0o644)
    for name in named_models.SHIPPED_FILES:
        _note(folder / name, {"preset": "tiny"})


def _clear(folder: Path, cleared: str) -> None:
    """Delete what shipped under a name."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "index.json"
    index = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
    for name in [name for name, facts in index.items() if facts["preset"] == cleared]:
        (folder / name).unlink(missing_ok=True)
        del index[name]
    place.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _note(file: Path, facts: dict[str, Any]) -> None:
    """Write a file's digest and facts into the index beside it."""
    place = file.with_name("index.json")
    index = json.loads(place.read_text(encoding="utf-8"))
    index[file.name] = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), **facts}
    place.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {file} ({file.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    made = {
        "default": make_features, "adapters": make_adapters, "curves": make_curves,
        "nats": read_nats, "demo": make_demo, "tiny": make_tiny,
    }  # fmt: skip
    for each in sys.argv[1:] or ["default"]:
        made[each]()
