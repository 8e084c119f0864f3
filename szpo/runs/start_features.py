"""Which features may explain the votes of a run whose coordinates have none; read behind a sheet.

Features, groups, scales and so the prior are functions of the first `ANSWERS` answers that the
run's seed draws at the start, never of votes or of shown pairs. They join the chain as an event
before the first fit and never change, so that the Bayes factor holds whenever somebody looks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from szpo import seeds
from szpo.data.text_files import clean_answer, clean_prompt
from szpo.features import dictionary, differences, user_features
from szpo.features.dictionary import Entry
from szpo.features.user_features import Description
from szpo.ledger.run_spec import FEATURES
from szpo.optim import optimizer, sparse_prior
from szpo.optim.named_features import NamedFeatures
from szpo.optim.state_regression import GRID, StateScale
from szpo.policies.protocol import Policy, draw_answers
from szpo.runs.services import Position, Services
from szpo.types import FEATURE_GRID, Answer, Floats, Prompt
from szpo.voting import lease

ANSWERS: Final = 256
"""Answers of the start that are read."""
STATES: Final = 64
"""Of these, answers whose hidden states fix the states' scale."""
EACH: Final = 4
"""Answers to each prompt at least, since features are compared within prompts."""
SHIPPED_COUNTS: Final = 64
"""How many answers the shipped spreads count as; rare features are measured badly with few."""
BASES: Final = Path(__file__).parents[1] / "data" / "bases"


def begin(run: Services, at: Position) -> Position:
    """Draw and record the features of a run that has none yet before its first fit."""
    settings = run.settings
    if not settings.awaits_features or run.features is None:
        return at
    body = asdict(run.features())
    with run.ledger.transaction("controller"):
        lease.check(run.ledger, run.epoch)
        run.ledger.record_event(FEATURES, "controller", body)
    return replace(at, state=optimizer.init(run.settings)) if settings.idle else at


def draw(
    policy: Policy,
    prompts: Sequence[Prompt],
    root_seed: int,
    entries: Sequence[Entry],
    described: Sequence[Description] = (),
    layer: int | None = None,
) -> NamedFeatures:
    """Draw the start's answers, and read from them which features differ, how far and which alike.

    ``described``: what is recorded of the user's own entries. ``layer``: whose hidden states are
    read too, to find their scale; None: of no layer.
    """
    key = seeds.derive(root_seed, "features")
    order = seeds.permutation(key, len(prompts))[: ANSWERS // EACH]
    asked = [clean_prompt(prompts[i]) for i in order]
    each = math.ceil(ANSWERS / len(asked))
    drawn = draw_answers(policy, asked, each, seed=seeds.as_seed(key))
    pairs = [
        (prompt.text, clean_answer(answer).text)
        for prompt, row in zip(asked, drawn, strict=True)
        for answer in row
    ]
    user_features.rate_ahead(entries, pairs)
    values = differences.values(pairs, entries).reshape(len(asked), each, -1)
    found = read(values, [entry.name for entry in entries], shipped_scales(), described)
    if layer is None:
        return found
    few = range(min(len(asked), STATES // each))
    texts = [(asked[i], answer) for i in few for answer in drawn[i]]
    return replace(found, states=scale_of(policy, texts, each, layer))


def scale_of(
    policy: Any, texts: Sequence[tuple[Prompt, Answer]], each: int, layer: int
) -> StateScale | None:
    """The scale of hidden states by ``each`` answers to every prompt; None where none differ."""
    prompts, answers = [prompt for prompt, _ in texts], [answer for _, answer in texts]
    states = np.asarray(policy.mean_states(prompts, answers, layer))
    return scale_by(states.reshape(-1, each, states.shape[1]), layer)


def scale_by(states: Floats, layer: int) -> StateScale | None:
    """The scale by states of answers (prompts, answers, width); None where none differ."""
    off = states - states.mean(1, keepdims=True)
    freedom = off.shape[0] * (off.shape[1] - 1)
    # Two answers are apart by twice the variance, on the mean of |h⁺ − h⁻|².
    apart = math.sqrt(2 * float((off**2).sum()) / max(1, freedom))
    whole = round(GRID * apart) if math.isfinite(apart) else 0
    return StateScale(layer, states.shape[2], whole) if whole > 0 else None


def read(
    values: Floats,
    names: Sequence[str],
    usual: Mapping[str, int],
    described: Sequence[Description] = (),
) -> NamedFeatures:
    """The features by their values (prompts, answers, k) on the start's answers.

    Two are of one group if their correlation within prompts is above .8, and both or neither are
    the user's own. A feature's scale is its spread within prompts, shrunk towards the ``usual``
    one (2⁻¹² units, by name); a feature without either is left out.
    """
    off = values - values.mean(1, keepdims=True)
    freedom = max(1, values.shape[0] * (values.shape[1] - 1))
    square, count = (off**2).sum((0, 1)) / freedom, values.shape[0] * values.shape[1]
    known = np.array([usual.get(name, 0) / FEATURE_GRID for name in names])
    weight = np.where(known > 0, SHIPPED_COUNTS, 0)
    spread = np.sqrt((count * square + weight * known**2) / (count + weight))
    scales = [differences.scale(each) for each in spread.tolist()]
    kept = [i for i, scale in enumerate(scales) if scale > 0]
    flat = off.reshape(count, -1)[:, kept]
    mine = {each.name for each in described}
    classes = np.array([names[i] in mine for i in kept])
    near = sparse_prior.group_features(flat.T @ flat + 1e-12 * np.eye(len(kept)), classes)
    return NamedFeatures(
        tuple(names[i] for i in kept),
        tuple(near.tolist()),
        tuple(scales[i] for i in kept),
        ((0,),) * len(kept),  # the one coordinate moves nothing
        0,
        dictionary.digest(),
        tuple(astuple(each) for each in described if each.name in {names[i] for i in kept}),
    )


@cache
def shipped_scales() -> dict[str, int]:
    """The features' spreads among answers of smollm2, in units of 2⁻¹², by name."""
    index = json.loads((BASES / "index.json").read_text(encoding="utf-8"))
    name = next(name for name, facts in index.items() if facts["preset"] == "default")
    with np.load(BASES / name, allow_pickle=False) as file:
        facts = json.loads(str(file["facts"]))["features"]
    if facts["dictionary"] != dictionary.digest():
        return {}
    return dict(zip(facts["names"], facts["scales"], strict=True))
