"""Rows of a round: pairs of the policy's own answers, chosen for what a verdict on them says.

Each prompt gets a pool of answers of the policy as it is; no perturbation is needed, since votes
are fitted on the texts. Choice reads the votes of closed rounds only. The round's event
"generated" has digests of all candidates and the worth of each chosen pair.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from szpo import seeds
from szpo.data.text_files import clean_answer
from szpo.errors import RunError
from szpo.features.dictionary import Entry, ratios
from szpo.features.own import Judged
from szpo.ledger.database import Ledger
from szpo.optim import named_features, pair_choice
from szpo.optim.named_features import NamedFeatures
from szpo.optim.sparse_regression import SparseFit
from szpo.policies.protocol import draw_answers
from szpo.training.position import Position
from szpo.training.services import Services
from szpo.types import FEATURE_GRID, Answer, Comparison, Floats, Prompt, Row
from szpo.voting import counting, step_inputs
from szpo.voting.sides import side_in_step

ANSWERS: Final = 8
"""Candidates for each row."""
EVEN: Final = 0.15
"""Two answers are about equally long if their numbers of words differ by at most this share."""


def draw(
    run: Services, at: Position, step: int, prompts: Sequence[Prompt]
) -> tuple[tuple[Comparison, ...], dict[str, Any]]:
    """The rows of a step, one for each prompt, and what the record keeps of their choice."""
    settings, named = run.settings, run.settings.features
    assert named is not None
    key = seeds.derive(settings.root_seed, "rollout", step=step)
    pools = draw_answers(run.policy, prompts, ANSWERS, seed=seeds.as_seed(key))
    if [len(pool) for pool in pools] != [ANSWERS] * len(prompts):
        raise RunError(f"step {step}: the policy left prompts unanswered")
    prior, found = named_features.prior_of(named, settings.D), at.state.carried.named
    hidden, even = withdrawn(run.ledger), run.evens and not length_matters(named, found)
    earlier = repeatable(run.ledger) if run.repeats and settings.M == 1 else []
    rows: list[Comparison] = []
    noted: dict[str, list[Any]] = {"candidates": [], "worth": []}
    for i, (prompt, answers) in enumerate(zip(prompts, pools, strict=True)):
        k, n = divmod(i, settings.N)
        key = seeds.derive(settings.root_seed, "comparison", step=step, k=k, name=str(n))
        rank = sum(not row.identical for row in rows)
        side = side_in_step(settings.root_seed, step, rank)
        again = _draw_repeat(run, earlier, step, i, side)
        if again is not None:
            rows.append(Comparison(key.hex(), step, k, n, again.rows, repeats=again.id))
            noted["candidates"].append([])
            noted["worth"].append(None)
            continue
        pool = [clean_answer(each) for each in answers]
        fit = [each for each in pool if each.text not in hidden]
        pairs = _pairs(fit or pool[:1], even=even)  # two equal answers are shown to nobody
        x = _differences(named, run.counted_features, prompt, pairs)
        worths = pair_choice.worth(x, found, prior)
        chosen = pair_choice.choose(settings.root_seed, step, i, worths)
        plus, minus = pairs[chosen] if seeds.integer(key, 0, 2) else pairs[chosen][::-1]
        rows.append(Comparison(key.hex(), step, k, n, (Row(prompt, plus, minus),)))
        noted["candidates"].append([step_inputs.text_digest(each.text) for each in pool])
        noted["worth"].append(int(worths[chosen]))
    return tuple(rows), {"pool": {**noted, "after": at.state.step}}


def repeatable(ledger: Ledger) -> list[tuple[str, str]]:
    """Rows of finished rounds that nobody was shown again: comparison and side of plus, in order.

    Each has a verdict, is no repeat itself, and nobody reported it as harmful.
    """
    found = ledger.query(
        "SELECT c.comparison, a.plus_side FROM steps s JOIN comparisons c USING (run, step) "
        "JOIN assignments a USING (comparison) JOIN votes v ON v.assignment = a.assignment "
        "WHERE s.run = ? AND s.state = 'applied' AND c.kind = 'train' AND c.repeats IS NULL "
        "AND c.comparison NOT IN (SELECT repeats FROM comparisons WHERE repeats IS NOT NULL) "
        "AND v.vote <= s.last_vote GROUP BY c.comparison "
        "HAVING sum(v.choice <> 'skip') AND NOT sum(v.skip_reason IS ?) ORDER BY c.step, c.k, c.n",
        (ledger.run, counting.HARMFUL),
    )
    return [(row["comparison"], row["plus_side"]) for row in found]


def _draw_repeat(
    run: Services, earlier: list[tuple[str, str]], step: int, row: int, side: str
) -> Comparison | None:
    """An earlier row to show again, with sides swapped, removed from ``earlier``; often None."""
    key = seeds.derive(run.settings.root_seed, "repeat", step=step, k=row)
    swapped = [each for each in earlier if each[1] != side]
    if not swapped or float(seeds.uniform(key, 1)[0]) >= run.repeats:
        return None
    chosen = swapped[seeds.integer(key, 1, len(swapped))]
    earlier.remove(chosen)
    return run.ledger.comparison(chosen[0])


def withdrawn(ledger: Ledger) -> set[str]:
    """The texts of all rows that somebody reported as harmful."""
    found = ledger.query(
        "SELECT DISTINCT w.plus, w.minus FROM votes v JOIN assignments USING (assignment) "
        "JOIN answers w USING (comparison) WHERE v.skip_reason = ?",
        (counting.HARMFUL,),
    )
    return {row[side] for row in found for side in ("plus", "minus")}


def length_matters(named: NamedFeatures, found: SparseFit | None) -> bool:
    """Whether the votes so far are more likely than not about the number of words."""
    if found is None or "length" not in named.names:
        return False
    near = list(named_features.members(named, "length"))
    return bool(found.more[near].sum() + found.less[near].sum() > 0.5)


def _pairs(pool: Sequence[Answer], *, even: bool) -> list[tuple[Answer, Answer]]:
    """The pairs with different texts; with ``even`` only those about equally long, if any are."""
    pairs = [pair for pair in itertools.combinations(pool, 2) if pair[0].text != pair[1].text]
    if even:
        sizes = [[max(1, len(each.text.split())) for each in pair] for pair in pairs]
        near = [max(size) <= (1 + EVEN) * min(size) for size in sizes]
        pairs = [pair for pair, is_near in zip(pairs, near, strict=True) if is_near] or pairs
    return pairs or [(pool[0], pool[-1])]


def _differences(
    named: NamedFeatures,
    entries: Mapping[str, Entry],
    prompt: Prompt,
    pairs: Sequence[tuple[Answer, Answer]],
) -> Floats:
    """Regressors (pairs, p) of each pair; those that a judge rates, and scores, stay 0."""
    counted = {n: each for n, each in entries.items() if not isinstance(each, Judged)}
    at = [named.names.index(name) for name in counted]
    scales = np.array([named.scales[i] for i in at]) / FEATURE_GRID
    values: dict[str, Floats] = {}
    for each in {answer.text for pair in pairs for answer in pair}:
        found = ratios(prompt.text, each, list(counted.values()))
        values[each] = np.array([a / b for a, b in found]) / scales
    x = np.zeros((len(pairs), named.columns))
    x[:, at] = [values[a.text] - values[b.text] for a, b in pairs]
    return x
