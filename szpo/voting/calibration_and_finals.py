"""Votes that no update counts: calibration of panelists, and blind final comparisons.

Calibration measures how reliable panelists are. *Gold* shows a batch of stored answers beside a
spoiled copy of it, so the better side is known. *A/A* shows two samples of one policy, which
`szpo.runs.driver` draws and `store_comparisons` stores. `choose_calibration` picks a comparison
for a panelist, and makes gold. `gold_results` counts the answers to gold.

Final comparisons are of the tuned policy with the base. An operator orders them
(`szpo.ledger.orders`), and `szpo.runs.samples` draws the answers. Each panelist may answer each
comparison of an open order once; those who did not vote in training come first. Comparisons with
the fewest answers are shown first: none gets a second before all have one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

from szpo import seeds
from szpo.ledger import orders
from szpo.ledger.database import Ledger, Record
from szpo.ledger.orders import Order
from szpo.metrics import Share, share
from szpo.types import Answer, Comparison, Row
from szpo.voting import counting, seats
from szpo.voting.seats import LETTERS, Letter, less_used_side

Kind = Literal["gold", "aa"]
KINDS: Final[tuple[Kind, ...]] = ("gold", "aa")
"""Kinds of calibration; an earlier kind is chosen where a panelist answered equally many."""
GOLD_ROWS: Final = 4
"""The most rows in a gold comparison, to keep it short."""
SOURCES: Final = 200
"""Gold is made from at most this many comparisons: the latest ones of finished steps."""
FEW_WORDS: Final = 4
"""In a text of fewer words, the letters are shuffled instead of the words."""


def store_comparisons(ledger: Ledger, comparisons: Sequence[Comparison]) -> bool:
    """Store a run's A/A comparisons; if it has some, store nothing and return False."""
    with ledger.transaction("controller"):
        if has_aa(ledger):
            return False
        for comparison in comparisons:
            ledger.append_comparison(comparison)
    return True


def has_aa(ledger: Ledger) -> bool:
    """Whether the run has A/A comparisons."""
    return bool(ledger.query("SELECT 1 FROM comparisons WHERE kind = 'aa' LIMIT 1"))


def choose_calibration(ledger: Ledger, panelist: str) -> tuple[str, Letter] | None:
    """Choose a comparison for a waiting panelist, and the side of plus; None while there is none.

    The kind that the panelist has answered least often comes first. No comparison is shown to a
    panelist twice. Gold is stored when it is first shown, so call this inside a transaction.
    """
    mine = _read_seats(ledger, panelist)
    answered = [seat["kind"] for seat in mine if seat["choice"] is not None]
    for kind in sorted(KINDS, key=answered.count):
        find = _choose_gold if kind == "gold" else _choose_aa
        found = find(ledger, panelist, mine)
        if found is not None:
            return found
    return None


def gold_results(ledger: Ledger, step: int) -> dict[str, tuple[float, float]]:
    """For each panelist, right answers and all answers to gold, up to the close of a step.

    Only last answers count. A tie is half right, a skip is no answer. Empty while a step is open.
    """
    row = ledger.step(step)
    if row is None or row["last_vote"] is None:
        return {}
    gold = ledger.query("SELECT comparison, expected FROM comparisons WHERE kind = 'gold'")
    expected = {head["comparison"]: head["expected"] for head in gold}
    until = {"last_vote": row["last_vote"], "last_amendment": row["last_amendment"]}
    found: dict[str, tuple[float, float]] = {}
    for vote in counting.standing_votes(ledger, "gold", **until):
        if vote.verdict != "skip":
            right, count = found.get(vote.panelist, (0.0, 0.0))
            hit = (
                0.5 if vote.verdict == "tie" else float(vote.verdict == expected[vote.comparison])
            )
            found[vote.panelist] = right + hit, count + 1
    return found


def make_gold(root_seed: int, source: Comparison) -> Comparison | None:
    """Make a gold comparison from a stored one: a batch of answers against a spoiled copy of it.

    The seed draws whose answers are plus. In minus these answers are moved to other prompts, or
    their words are shuffled. None where the two sides would be equal.
    """
    key = seeds.derive(root_seed, "gold", name=source.id)
    side = ("plus", "minus")[seeds.integer(key, 0, 2)]
    rows = [(row.prompt, getattr(row, side)) for row in source.rows]
    rows = [(prompt, answer) for prompt, answer in rows if len(answer.text.split()) > 1]
    rows = rows[:GOLD_ROWS]
    texts = [answer.text for _, answer in rows]
    moved = [*texts[1:], *texts[:1]]
    if seeds.integer(key, 1, 2) or any(a == b for a, b in zip(texts, moved, strict=True)):
        moved = [
            shuffle(text, seeds.derive(root_seed, "shuffle", k=i, name=source.id))
            for i, text in enumerate(texts)
        ]
    pairs = [
        Row(prompt, answer, Answer(text, answer.end))
        for (prompt, answer), text in zip(rows, moved, strict=True)
        if text != answer.text
    ]
    if not pairs:
        return None
    return Comparison(
        key.hex(), -1, 0, 0, tuple(pairs), kind="gold", repeats=source.id, expected="plus"
    )


def shuffle(text: str, key: bytes) -> str:
    """Shuffle the words of a text, or its letters if it has few words, in the key's order.

    >>> shuffle("one two three four five", bytes(16))
    'one three two five four'
    """
    words = text.split()
    parts: Sequence[str] = words if len(words) >= FEW_WORDS else text
    order = seeds.permutation(key, len(parts))
    return (" " if parts is words else "").join(parts[int(i)] for i in order)


def find_tuners(ledger: Ledger) -> set[str]:
    """Find the panelists who answered a training comparison; a skip is no answer."""
    rows = ledger.query(
        "SELECT DISTINCT a.panelist FROM comparisons c JOIN assignments a USING (comparison) "
        "JOIN votes v USING (assignment) WHERE c.kind = 'train' AND v.choice <> 'skip'"
    )
    return {row["panelist"] for row in rows}


# ---- choosing ----


def _read_seats(ledger: Ledger, panelist: str) -> list[Record]:
    """Every seat of a panelist: answered ones in the order of first answers, then the others."""
    return ledger.query(
        "SELECT a.comparison, a.plus_side, c.kind, c.step, c.k, c.n, f.vote, f.late, l.choice "
        "FROM assignments a JOIN comparisons c USING (comparison) "
        "LEFT JOIN votes f ON f.assignment = a.assignment AND f.revision = 0 "
        "LEFT JOIN votes l ON l.assignment = a.assignment AND l.revision = "
        "(SELECT max(revision) FROM votes WHERE assignment = a.assignment) "
        "WHERE a.panelist = ? ORDER BY f.vote IS NULL, f.vote",
        (panelist,),
    )


def _choose_gold(ledger: Ledger, panelist: str, mine: list[Record]) -> tuple[str, Letter] | None:
    shown = {seat["comparison"] for seat in mine}
    root = ledger.root_seed
    sources = ledger.query(
        "SELECT c.comparison FROM steps s JOIN comparisons c USING (run, step) "
        "WHERE s.run = ? AND s.state IN ('closed', 'applied') AND c.kind = 'train' "
        "AND c.identical = 0 ORDER BY c.step DESC, c.k, c.n LIMIT ?",
        (ledger.run, SOURCES),
    )
    # All panelists get gold in the same drawn order, so that most answer the same comparisons.
    ids = [row["comparison"] for row in sources]
    keys = {each: seeds.derive(root, "gold", name=each).hex() for each in ids}
    for each in sorted(ids, key=lambda each: (each in shown, keys[each])):
        if keys[each] in shown:
            continue
        source = ledger.comparison(each)
        made = None if source is None else make_gold(root, source)
        if made is not None:
            _store(ledger, made)
            return made.id, _balance_side(ledger, panelist, mine, "gold", made.id)
    return None


def _choose_aa(ledger: Ledger, panelist: str, mine: list[Record]) -> tuple[str, Letter] | None:
    shown = {seat["comparison"] for seat in mine}
    for row in ledger.query(
        "SELECT comparison FROM comparisons WHERE run = ? AND kind = 'aa' AND identical = 0 "
        "ORDER BY rowid",
        (ledger.run,),
    ):
        if row["comparison"] not in shown:
            chosen = row["comparison"]
            return chosen, _balance_side(ledger, panelist, mine, "aa", chosen)
    return None


def _store(ledger: Ledger, comparison: Comparison) -> None:
    if not ledger.query("SELECT 1 FROM comparisons WHERE comparison = ?", (comparison.id,)):
        ledger.append_comparison(comparison)


def _balance_side(
    ledger: Ledger, panelist: str, mine: list[Record], kind: Kind, comparison: str
) -> Letter:
    """The side on which this panelist saw plus less often, in comparisons of this kind."""
    used = (seat["plus_side"] for seat in mine if seat["kind"] == kind)
    return less_used_side(used, ledger.root_seed, comparison, panelist)


PAIRS: Final = 64
"""Pairs on which a run's last line rests, where verdicts are on pairs."""


_SeatsAt: TypeAlias = tuple[str, list[str], set[str]]
"""A comparison, the sides of plus at its answered or held seats, and who was shown it."""


class FinalVote(Protocol):
    """A standing vote on a final comparison."""

    @property
    def k(self) -> int | None:
        """The index of the comparison's order among the final orders."""

    @property
    def panelist(self) -> str:
        """Who cast the vote."""

    @property
    def verdict(self) -> str:
        """Plus (tuned), minus (base), tie or skip."""


@dataclass(frozen=True, slots=True)
class FinalCount:
    """The votes on an order. Ties are in neither share; votes are taken as independent."""

    order: int
    """The order's index among the final orders."""
    tuned: Share
    """Votes for the tuned policy, of those for either."""
    untuned: Share
    """The same of panelists who did not vote in training."""
    ties: int


def is_open(ledger: Ledger, comparison: str) -> bool:
    """Whether a final comparison takes votes, as it does until its order is closed."""
    order = orders.of_comparison(ledger, comparison)
    return order is None or order.closed_us is None


def choose_final(ledger: Ledger, panelist: str, now: int) -> tuple[str, Letter] | None:
    """Choose a final comparison that the panelist has not been shown, and the side of plus.

    None where none is left. None too for a panelist who voted in training, while somebody who
    did not is present and has comparisons left.
    """
    found = _find_left(ledger, panelist, now)
    if not found:
        return None
    order, places, left = found[0]
    name = f"final {order.id}/{panelist}"
    walk = seats.panelist_order(ledger.root_seed, None, name, len(places))
    rank, (comparison, sides, _) = min(left, key=lambda at: (len(at[1][1]), walk[at[0]]))
    a, b = sides.count("A"), sides.count("B")
    if a == b:
        seat, size = len(sides), len(places)
        return comparison, planned_sides(ledger.root_seed, order.id, size, seat)[rank]
    # A seat that was given up leaves its side to the next.
    return comparison, "A" if a < b else "B"


def count_left(ledger: Ledger, panelist: str, now: int) -> int:
    """How many final comparisons are left for a panelist; 0 where `choose_final` returns None."""
    return sum(len(left) for _, _, left in _find_left(ledger, panelist, now))


def _find_left(
    ledger: Ledger, panelist: str, now: int
) -> list[tuple[Order, list[_SeatsAt], list[tuple[int, _SeatsAt]]]]:
    """Open orders, each with all its comparisons and with those that the panelist was not shown.

    Only orders in which some are left; empty for a panelist who has to wait for others.
    """
    found = []
    for order in orders.results(ledger, "final"):
        if order.closed_us is None:
            places = _read_seats_at(ledger, order, now)
            if left := [(i, at) for i, at in enumerate(places) if panelist not in at[2]]:
                found.append((order, places, left))
    waits = found and _must_wait(ledger, found[0][0], panelist, found[0][1], now)
    return [] if waits else found


def final_results(
    votes: Sequence[FinalVote], tuners: Collection[str], weights: Sequence[str | None] = ()
) -> FinalCount | None:
    """Count the standing votes on the latest order.

    ``votes``: on the comparisons of any orders. ``tuners``: panelists who voted in training.
    ``weights``: the digest of the weights that each order compared; orders of the same weights
    are counted together. None without a vote.
    """
    if not votes:
        return None
    last = max(vote.k or 0 for vote in votes)
    alike = {k for k, digest in enumerate(weights) if digest == weights[last]} | {last}
    counted = [vote for vote in votes if vote.k in alike]
    others = [vote for vote in counted if vote.panelist not in tuners]
    ties = sum(vote.verdict == "tie" for vote in counted)
    return FinalCount(last, _share_of_tuned(counted), _share_of_tuned(others), ties)


def _share_of_tuned(votes: Sequence[FinalVote]) -> Share:
    wins, losses = (sum(v.verdict == side for v in votes) for side in ("plus", "minus"))
    return share(wins, wins + losses)


def planned_sides(root_seed: int, order: int, size: int, seat: int) -> list[Letter]:
    """The side of plus for the ``seat``-th seat at each of an order's ``size`` comparisons.

    Half of the sides are A, in a drawn order, so that no side can be inferred from the others.
    Every second seat swaps all sides, so that each comparison is balanced as well.

    >>> planned_sides(0, 7, 4, 0), planned_sides(0, 7, 4, 1)
    (['A', 'A', 'B', 'B'], ['B', 'B', 'A', 'A'])
    """
    key = seeds.derive(root_seed, "final sides", step=seat // 2, name=str(order))
    first = seeds.integer(key, size, 2)  # a random word beyond those of the permutation
    return [LETTERS[(first + int(place) + seat) % 2] for place in seeds.permutation(key, size)]


def _read_seats_at(ledger: Ledger, order: Order, now: int) -> list[_SeatsAt]:
    """The comparisons of an order that differ in some row, as stored, with their seats."""
    found: dict[str, _SeatsAt] = {}
    wanted = set(orders.comparisons(order))
    for row in ledger.query(
        "SELECT c.comparison, a.panelist, a.plus_side, a.expires_us, l.choice "
        "FROM comparisons c LEFT JOIN assignments a USING (comparison) "
        "LEFT JOIN votes l ON l.assignment = a.assignment AND l.revision = "
        "(SELECT max(revision) FROM votes WHERE assignment = a.assignment) "
        "WHERE c.run = ? AND c.kind = 'final' AND c.identical = 0 ORDER BY c.rowid",
        (ledger.run,),
    ):
        if row["comparison"] not in wanted:
            continue
        _, sides, shown = found.setdefault(row["comparison"], (row["comparison"], [], set()))
        if row["panelist"] is None:
            continue
        shown.add(row["panelist"])
        held = row["choice"] is None and row["expires_us"] > now
        if held or row["choice"] not in (None, "skip"):
            sides.append(row["plus_side"])
    return list(found.values())


def _must_wait(
    ledger: Ledger, order: Order, panelist: str, places: list[_SeatsAt], now: int
) -> bool:
    """Whether a panelist who tuned waits for one who did not, is present, and has some left.

    A panelist who has a page open and answers nothing is waited for only while the order is new.
    """
    tuners = find_tuners(ledger)
    if panelist not in tuners:
        return False
    is_new = (order.done_us or 0) > now - seats.PRESENT_US
    others = seats.find_present(ledger, now, sessions=is_new) - tuners
    return any(other not in shown for other in others for _, _, shown in places)
