"""Which policy stands on side A: plus or minus, balanced over a step's votes or drawn.

Final comparisons are balanced in `szpo.voting.finals`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

from szpo import seeds
from szpo.config import rule_plugins
from szpo.ledger.database import Ledger, Record
from szpo.voting.seats import LETTERS, Letter

Balance: TypeAlias = Literal["direction", "step"]
"""The comparisons over which plus is on side A in half of the counted votes."""


def planned_sides(
    root_seed: int, asked: Iterable[Record], m: int, balance: Balance = "direction"
) -> dict[str, tuple[Letter, ...]]:
    """The M planned sides of plus for each of a step's `comparisons_asked`, by comparison id."""
    found = {}
    for head, odd in _odd_sides(root_seed, asked, balance):
        found[head["comparison"]] = _arrange(root_seed, head["step"], head["k"], head["n"], m, odd)
    return found


def quotas(
    root_seed: int, asked: Iterable[Record], m: int, balance: Balance = "direction"
) -> dict[tuple[str, str], int]:
    """How many votes may count, by (comparison, side of plus), as planned in `planned_sides`."""
    found = {}
    for head, odd in _odd_sides(root_seed, asked, balance):
        for side in "AB":
            found[head["comparison"], side] = m // 2 + (m % 2 if side == odd else 0)
    return found


def balance_of(ledger: Ledger) -> Balance:
    """The run's `Balance`: sides are balanced within each direction, or over a whole step.

    A rule that asks about many directions once each can be balanced over a step only.
    """
    rule = rule_plugins.find(ledger.spec.get("optimizer", {}).get("rule", ""))
    return "step" if rule is not None and rule.two_points else "direction"


def less_used_side(used: Iterable[str], root_seed: int, comparison: str, panelist: str) -> Letter:
    """The side of plus that was used less often, where no plan balances sides; ties are drawn."""
    sides = list(used)
    a, b = sides.count("A"), sides.count("B")
    if a == b:
        key = seeds.derive(root_seed, "side", name=f"{comparison}/{panelist}")
        return LETTERS[seeds.integer(key, 0, 2)]
    return "A" if a < b else "B"


def side_in_step(root_seed: int, step: int, rank: int, k: int = 0) -> Letter:
    """The side of plus that gets one more vote where M is odd; sides alternate over the ranks.

    ``rank``: how many comparisons that are asked come before, in the step or in direction ``k``.
    """
    first = seeds.integer(seeds.derive(root_seed, "sides", step=step, k=k), 0, 2)
    return LETTERS[(first + rank) % 2]


def _odd_sides(
    root_seed: int, asked: Iterable[Record], balance: Balance
) -> Iterator[tuple[Record, str]]:
    """Yield each comparison with the side that gets one more where M is odd; sides alternate."""
    ranks: dict[int, int] = {}
    for head in asked:
        k = head["k"] if balance == "direction" else 0
        rank = ranks[k] = ranks.get(k, -1) + 1
        yield head, side_in_step(root_seed, head["step"], rank, k)


def _arrange(root_seed: int, step: int, k: int, n: int, m: int, odd: str) -> tuple[Letter, ...]:
    """The sides of M seats in a drawn order; ``odd`` has one more where M is odd."""
    pool = list("AB" * (m // 2)) + [odd] * (m % 2)
    order = seeds.permutation(seeds.derive(root_seed, "seats", step=step, k=k, name=str(n)), m)
    return tuple("A" if pool[i] == "A" else "B" for i in order)
