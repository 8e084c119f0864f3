"""Rows of a round: pairs of answers, chosen for what a verdict on them says.

Each prompt gets a pool of answers of the policy as it is; no perturbation is needed, since votes
are fitted on the texts. Where the run's coordinates have names, every other row has a pool of each
perturbed policy instead, and shows an answer of either. Choice reads the votes of closed rounds
only. The round's event "generated" has digests of all candidates and the worth of each chosen
pair.

Once the run has adopted weights, half of a pool is of these and half of the start. A share of the
rows then checks them: the first answer of each to a prompt that no improvement learns from, drawn
and not chosen. The event names these rows; nobody who votes is told.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from szpo import seeds
from szpo.data.text_files import clean_answer, clean_prompt
from szpo.errors import RunError
from szpo.features import differences
from szpo.features.dictionary import Entry
from szpo.features.user_features import RatedEntry
from szpo.ledger.database import Ledger
from szpo.ledger.theta import read_adopted, starting_theta
from szpo.optim import all_votes, informative, named_features
from szpo.optim.named_features import NamedFeatures
from szpo.optim.rule import perturbations
from szpo.optim.settings import Settings
from szpo.optim.sparse_regression import SparseFit
from szpo.policies.protocol import draw_answers, moved
from szpo.runs import repeated_pairs
from szpo.runs.services import Position, Services
from szpo.types import FEATURE_GRID, Answer, Comparison, Floats, Prompt, Query, Row, Theta
from szpo.voting import counting
from szpo.voting.recorded_step import read_step, text_digest
from szpo.voting.seats import side_in_step

ANSWERS: Final = 8
"""Candidates for each row; half of them of either policy where two are compared."""
FEWER: Final = 4
"""Candidates for each row while no features are known, so that the first sheet is soon there."""
EVEN: Final = 0.15
"""Two answers are about equally long if their numbers of words differ by at most this share."""


def draw(
    run: Services, at: Position, step: int, prompts: Sequence[Prompt]
) -> tuple[tuple[Comparison, ...], dict[str, Any], list[tuple[Prompt, Answer]]]:
    """The rows of a step, one for each prompt; what the record keeps of their choice; candidates.

    The first candidates of all rows come first, then their second ones, and so on.
    """
    planned = read_step(run.ledger, step)
    settings = planned.settings(run.settings)
    named, query = settings.features, planned.query(settings)
    each, improved = FEWER if named is None else ANSWERS, read_adopted(run.ledger)
    earlier = (
        repeated_pairs.repeatable(run.ledger) if run.repeats and settings.section.M == 1 else []
    )
    earlier = [shown for shown in earlier if not settings.perturbs(shown["step"], shown["k"])]
    checks = set() if improved is None else _places_of_checks(run, settings, step)
    again = repeated_pairs.places(run, settings, earlier, step)
    again = {i: key for i, key in again.items() if i not in checks}
    new = [i for i in range(len(prompts)) if i not in again]
    prompts = [_prompt_aside(run, step, i) if i in checks else p for i, p in enumerate(prompts)]
    theta = None if improved is None else improved.theta
    pools = _sample(run, settings, query, prompts, each, new, theta)
    if not all(sum(map(len, pools[i])) == each for i in new):
        raise RunError(f"step {step}: the policy left prompts unanswered")
    pools = [tuple([clean_answer(a) for a in answers] for answers in pool) for pool in pools]
    joint = at.state.carried.fit
    found = None if joint is None else joint.named
    hidden, even = withdrawn(run.ledger), run.evens and not length_matters(named, found)
    rows: list[Comparison] = []
    noted: dict[str, list[Any]] = {"candidates": [], "worth": []}
    for i, (prompt, pool) in enumerate(zip(prompts, pools, strict=True)):
        k, n = divmod(i, settings.section.N)
        key = seeds.derive(settings.root_seed, "comparison", step=step, k=k, name=str(n))
        rank = sum(not row.identical for row in rows)
        side = side_in_step(settings.root_seed, step, rank)
        own = not settings.perturbs(step, k)
        if i in again:
            shown = repeated_pairs.draw(run, earlier, again[i], side)
            rows.append(Comparison(key.hex(), step, k, n, shown.rows, repeats=shown.id))
            noted["candidates"].append([])
            noted["worth"].append(None)
            continue
        fit = [[each for each in answers if each.text not in hidden] for answers in pool]
        if i in checks:
            fit = [answers[:1] for answers in fit]
        elif own:
            fit = [list(itertools.chain(*fit))]
        pairs = _pairs(fit if all(fit) else [pool[0][:1]], even=even and i not in checks)
        worths = np.zeros(len(pairs), dtype=np.int64)
        if named is not None:
            x = _differences(named, run.counted_features, prompt, pairs)
            apart = perturbations(settings, query, None).displacements(settings.distance)
            x[:, len(named.names) :] = named_features.along(named, apart)[k]
            worths = informative.worth(x, found, all_votes.named_prior(settings))
        known = named is not None
        chosen = informative.choose_pair(settings.root_seed, step, i, worths, known=known)
        as_drawn = not own or i in checks or seeds.integer(key, 0, 2)
        plus, minus = pairs[chosen] if as_drawn else pairs[chosen][::-1]
        rows.append(Comparison(key.hex(), step, k, n, (Row(prompt, plus, minus),)))
        texts = [each.text for answers in pool for each in answers]
        noted["candidates"].append([text_digest(text) for text in texts])
        noted["worth"].append(int(worths[chosen]))
    by = {}
    if improved is not None:
        by = {"policy": improved.sha256, "checks": [rows[i].id for i in sorted(checks)]}
    every = zip(*(itertools.chain(*pools[i]) for i in new), strict=True)
    drawn = [(prompts[i], answer) for one in every for i, answer in zip(new, one, strict=True)]
    return tuple(rows), {"pool": {**noted, "after": at.state.step, **by}}, drawn


def _places_of_checks(run: Services, settings: Settings, step: int) -> set[int]:
    """The rows of a step that check the adopted weights."""
    rate, o = run.checks / settings.own_share, settings.section  # of all rows
    own = (i for i in range(o.K * o.N) if not settings.perturbs(step, i // o.N))
    found = {i for i in own if seeds.uniform(_check_key(run, step, i), 1)[0] < rate}
    return found if run.aside else set()


def _prompt_aside(run: Services, step: int, row: int) -> Prompt:
    return clean_prompt(run.aside[seeds.integer(_check_key(run, step, row), 1, len(run.aside))])


def _check_key(run: Services, step: int, row: int) -> bytes:
    return seeds.derive(run.settings.root_seed, "check", step=step, k=row)


def _sample(
    run: Services, settings: Settings, query: Query, prompts: Sequence[Prompt], count: int,
    new: Sequence[int], improved: Theta | None,
) -> list[tuple[Sequence[Answer], ...]]:  # fmt: skip
    """Candidates for each ``new`` prompt: of the policy as it is, or of plus, then of minus."""
    if improved is None:
        return _sample_here(run, settings, query, prompts, count, new, count)
    half = count // 2
    with moved(run.policy, improved):
        pools = _sample_here(run, settings, query, prompts, count, new, half)
    own = [i for i in new if not settings.perturbs(query.step, i // settings.section.N)]
    key = seeds.derive(settings.root_seed, "start answers", step=query.step)
    with moved(run.policy, starting_theta(run.ledger)):
        asked = [prompts[i] for i in own]
        drawn = draw_answers(run.policy, asked, half, seed=seeds.as_seed(key)) if own else []
    for i, answers in zip(own, drawn, strict=True):
        pools[i] += (answers,)
    return pools


def _sample_here(
    run: Services, settings: Settings, query: Query, prompts: Sequence[Prompt], count: int,
    new: Sequence[int], own: int,
) -> list[tuple[Sequence[Answer], ...]]:  # fmt: skip
    """``own`` answers of the policy where it is, or ``count`` of two perturbed ones."""
    pools: list[tuple[Sequence[Answer], ...]] = [()] * len(prompts)
    key = seeds.derive(settings.root_seed, "rollout", step=query.step)
    if settings.own_share == 1:
        asked, seed = [prompts[i] for i in new], seeds.as_seed(key)
        places = None if len(new) == len(prompts) else new
        drawn = draw_answers(run.policy, asked, own, seed=seed, places=places) if new else []
        for i, pool in zip(new, drawn, strict=True):
            pools[i] = (pool,)
        return pools
    of = {k: [i for i in new if i // settings.section.N == k] for k in range(settings.section.K)}
    shifts = [s for pair in query.shifts for s in dict.fromkeys(pair) if of[s.k]]
    times = [own if len({*query.shifts[shift.k]}) == 1 else count // 2 for shift in shifts]
    lists = [
        [prompts[i] for i in of[shift.k]] * each for shift, each in zip(shifts, times, strict=True)
    ]
    batches = run.policy.rollout(lists, shifts, seed=seeds.as_seed(key))
    for shift, batch in zip(shifts, batches, strict=True):
        for at, i in enumerate(of[shift.k]):
            pools[i] += (batch[at :: len(of[shift.k])],)
    return pools


def withdrawn(ledger: Ledger) -> set[str]:
    """The texts of all rows that somebody reported as harmful."""
    found = ledger.query(
        "SELECT DISTINCT w.plus, w.minus FROM votes v JOIN assignments USING (assignment) "
        "JOIN answers w USING (comparison) WHERE v.skip_reason = ?",
        (counting.HARMFUL,),
    )
    return {row[side] for row in found for side in ("plus", "minus")}


def length_matters(named: NamedFeatures | None, found: SparseFit | None) -> bool:
    """Whether the votes so far are more likely than not about the number of words."""
    if named is None or found is None or "length" not in named.names:
        return False
    near = list(named_features.members(named, "length"))
    return bool(found.more[near].sum() + found.less[near].sum() > 0.5)


def _pairs(pool: Sequence[Sequence[Answer]], *, even: bool) -> list[tuple[Answer, Answer]]:
    """The pairs with different texts, within one pool or of an answer from each of two."""
    every = itertools.combinations(pool[0], 2) if len(pool) == 1 else itertools.product(*pool)
    pairs = [(a, b) for a, b in every if a.text != b.text]
    if even:
        sizes = [[max(1, len(each.text.split())) for each in pair] for pair in pairs]
        near = [max(size) <= (1 + EVEN) * min(size) for size in sizes]
        pairs = [pair for pair, is_near in zip(pairs, near, strict=True) if is_near] or pairs
    return pairs or [(pool[0][0], pool[-1][-1] if len(pool) == 1 else pool[0][0])]


def _differences(
    named: NamedFeatures,
    entries: Mapping[str, Entry],
    prompt: Prompt,
    pairs: Sequence[tuple[Answer, Answer]],
) -> Floats:
    """Regressors (pairs, p) of the texts; those that a judge rates, and other ones, stay 0."""
    counted = {n: each for n, each in entries.items() if not isinstance(each, RatedEntry)}
    at = [named.names.index(name) for name in counted]
    scales = np.array([named.scales[i] for i in at]) / FEATURE_GRID
    texts = list({answer.text for pair in pairs for answer in pair})
    found = differences.values(((prompt.text, text) for text in texts), list(counted.values()))
    values = dict(zip(texts, found / scales, strict=True))
    x = np.zeros((len(pairs), named.columns))
    x[:, at] = [values[a.text] - values[b.text] for a, b in pairs]
    return x
