"""Answers of a run's policy after any of its steps, and the operators' orders for them.

The weights are recomputed from the ledger's updates, never stored. "base" is this ledger's θ₀;
"current" is the policy after all applied steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from szpo import seeds
from szpo.data.text_files import clean_answer, clean_prompt
from szpo.errors import LeaseError, UsageError
from szpo.ledger import adopted, orders
from szpo.ledger.database import Ledger
from szpo.ledger.orders import Order
from szpo.ledger.theta import recommended_digest, theta_digest, updated_digests
from szpo.policies.protocol import Policy, Speaker, draw_answers, moved
from szpo.replay import replay
from szpo.runs.assemble import RunParts
from szpo.seeds import as_seed
from szpo.types import Answer, Comparison, Prompt, Row

PROMPTS = 6
"""Default number of prompts of an order."""
COMPARISONS = 20
"""Default number of comparisons of a final order."""


def sample_answers(
    ledger: Ledger,
    parts: RunParts,
    prompts: Sequence[Prompt],
    *,
    until: int | None,
    seed: int,
) -> tuple[tuple[Answer, ...], str]:
    """One answer to each prompt with the weights after the steps < ``until``, and their digest.

    ``until`` None: after all steps. The same seed gives the same random numbers with any weights.
    """
    asked = [clean_prompt(prompt) for prompt in prompts]
    with policy_at(ledger, parts, until) as policy:
        drawn = draw_answers(policy, asked, 1, seed=seed)
        return tuple(clean_answer(row[0]) for row in drawn), policy.digest()


def typical_answers(
    ledger: Ledger, parts: RunParts, prompts: Sequence[Prompt], *, until: int | None, seed: int
) -> tuple[tuple[Answer, ...], str]:
    """As `sample_answers`, but the likeliest answers of a language model, whole for readers."""
    asked = [clean_prompt(prompt) for prompt in prompts]
    with policy_at(ledger, parts, until) as policy:
        if isinstance(policy, Speaker):
            found = policy.likeliest(asked)
            return tuple(map(clean_answer, found)), policy.digest()
    return sample_answers(ledger, parts, prompts, until=until, seed=seed)


def fulfil(ledger: Ledger, order: Order, parts: RunParts) -> None:
    """Sample the base, the policy after the order's step, and the current one on the same prompts.

    The result has "prompts" (texts) and "columns": each a "name" (base, step k or current), the
    last step applied ("step", None for the base), "theta_sha256" and "answers" ([text, end]).
    """
    asked = (parts.prompts.heldout or parts.prompts.train)[: order.body.get("prompts", PROMPTS)]
    seed = as_seed(seeds.derive(ledger.root_seed, "samples"))
    step, last = order.body.get("step"), ledger.last_applied()
    wanted: list[tuple[str, int | None, int | None]] = [("base", None, 0)]
    if step is not None:
        wanted.append((f"step {step}", step, step + 1))
    wanted.append(("current", last, None))
    columns = []
    for name, at, until in wanted:
        given, digest = typical_answers(ledger, parts, asked, until=until, seed=seed)
        column: dict[str, Any] = {"name": name, "step": at, "theta_sha256": digest}
        columns.append({**column, "answers": [[answer.text, answer.end] for answer in given]})
    body = {"prompts": [clean_prompt(prompt).text for prompt in asked], "columns": columns}
    orders.settle(ledger, order, body)


def fulfil_final(ledger: Ledger, order: Order, parts: RunParts) -> None:
    """Draw a blind final comparison's answers; store it and settle its order in one transaction.

    Plus is the tuned policy and minus the base. Unlike in a step,
    the two sides draw independent random numbers: the figure says how often an answer of one is
    preferred to an answer of the other, each drawn as a user would get it.
    """
    if adopted.is_still(ledger):
        raise UsageError("final comparison: nothing moves in this run; the two sides are the same")
    last = ledger.last_applied()
    if last is None:
        raise UsageError("final comparison: no step is applied yet; the two sides are the same")
    if not parts.prompts.heldout:
        raise UsageError(
            "final comparison: this run has no held-out prompts; mark some with split = heldout"
        )
    place = [o.id for o in orders.orders(ledger, "final")].index(order.id)
    count = order.body.get("comparisons", COMPARISONS)
    rows = min(parts.settings.section.D, len(parts.prompts.heldout))
    pairs, tuned_sha256, base_sha256 = draw_pairs(ledger, parts, "final", place, count * rows)
    made = cut(ledger, "final", pairs, rows, place)
    notes = {
        "rows": rows,
        "after": last,
        "tuned_sha256": tuned_sha256,
        "base_sha256": base_sha256,
    }
    orders.settle(ledger, order, notes, made)


def draw_pairs(
    ledger: Ledger, parts: RunParts, name: str, place: int, count: int
) -> tuple[list[Row], str, str]:
    """Pairs of the policy as it is (plus) and the start, on held-out prompts; both digests."""
    asked = draw_prompts(ledger, f"{name} prompts", place, parts.prompts.heldout, count)
    sides = []
    for side, until in (("tuned", None), ("base", 0)):
        seed = as_seed(seeds.derive(ledger.root_seed, name, k=place, name=side))
        sides.append(sample_answers(ledger, parts, asked, until=until, seed=seed))
    (tuned, tuned_sha256), (base, base_sha256) = sides
    pairs = [Row(*each) for each in zip(asked, tuned, base, strict=True)]
    return pairs, tuned_sha256, base_sha256


def cut(
    ledger: Ledger, kind: Literal["final", "aa"], pairs: Sequence[Row], rows: int,
    place: int | None = None,
) -> list[Comparison]:  # fmt: skip
    """Cut pairs into comparisons of ``rows`` rows; ``place`` is that of their order, if any."""
    return [
        Comparison(
            seeds.derive(ledger.root_seed, kind, k=place, name=str(n)).hex(),
            -1, place or 0, n, tuple(pairs[n * rows : (n + 1) * rows]), kind=kind,
        )
        for n in range(len(pairs) // rows)
    ]  # fmt: skip


def draw_prompts(
    ledger: Ledger, name: str, place: int, pool: Sequence[Prompt], count: int
) -> list[Prompt]:
    """Draw prompts in an order that ``name`` seeds; when all are used, in a new order."""
    root, size = ledger.root_seed, len(pool)
    order = seeds.endless_order(
        size, count, lambda lap: seeds.derive(root, name, step=lap * size, k=place)
    )
    return [clean_prompt(pool[i]) for i in order]


@contextmanager
def policy_at(ledger: Ledger, parts: RunParts, until: int | None) -> Iterator[Policy]:
    """Yield the policy with the weights after the steps < ``until``; move it back afterwards.

    They are the weights recommended then; ``until`` None: after all steps.
    """
    policy: Any = parts.policy
    points = [theta_digest(ledger), updated_digests(ledger)[-1]]
    points += [body["theta_sha256"] for body in adopted.bodies(ledger)]
    if until is None and policy.digest() not in points:
        # Its answers would be taken for those of the new weights.
        raise LeaseError(
            f"{ledger.path.name}: another controller has moved this run on; this one stops"
        )
    if until is None and policy.digest() == recommended_digest(ledger):
        yield policy
    elif hasattr(policy, "move_to"):
        with moved(policy, replay.fold(ledger, until)):
            yield policy
    elif parts.maker is not None:
        replay.fold(ledger, until)  # raises if there is no such step
        other = parts.maker(root_seed=parts.settings.root_seed)
        replay.apply_recorded(ledger, parts.settings, other, until)
        yield other
    else:
        raise UsageError("this policy cannot be put at other weights; it has no `move_to`")
