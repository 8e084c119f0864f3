"""Whether a run helped: by the blind comparison with its start, or by a panel's reward.

A simulated panel's reward comes first, on answers to held-out prompts, then the closed blind final
comparison (`szpo.voting.blind`). Without either, the sentence says that it is not known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from szpo import metrics
from szpo.analysis import taught_taste, vote_rows
from szpo.errors import UsageError
from szpo.ledger import orders, theta
from szpo.ledger.database import Ledger
from szpo.ledger.theta import recommended_digest
from szpo.metrics import Share
from szpo.policies import text_guards
from szpo.runs import status
from szpo.voting import blind, counting, withdrawals
from szpo.voting.blind import Blind
from szpo.voting.panel_evaluator import Score

MEASURED: Final = "measured"

STILL: Final = (
    "nothing has moved: this run learns what its votes like; once they show a taste, szpo improve "
    "moves the model by it"
)
NOT_YET: Final = (
    "nothing has moved: this run improves its model once its votes show a taste, and keeps what "
    "scores higher"
)
PLACE: Final = "on held-out prompts"
MANY_EVEN: Final = 0.25
"""From this share of ties on it is reported, since ties hold the win rate near one half."""
FEWEST: Final = 20
"""Blind votes below which no statement on improvement is made, whatever the interval."""


@dataclass(frozen=True)
class Point:
    """One measurement along a run."""

    steps: int
    votes: int
    wins: Share | None
    """Share of pairs of answers to one prompt that the tuned policy won against the base by the
    reward, a tie as half."""
    reward: float | None
    """Mean reward of the panel."""
    tokens: float
    """Mean answer length."""
    kl: float | None
    """KL to the start, nats per answer."""
    texts: tuple[tuple[str, str], ...]
    """Prompts and first answers."""
    even: float = 0.0
    """Share of the pairs that are ties."""


@dataclass(frozen=True)
class Improvement:
    """How the tuned policy compares with the base."""

    share: Share | None
    """Share of comparisons won by the tuned policy, 95 % interval; None where nobody compared."""
    pairs: str
    """The pairs that were compared, in words."""
    votes: int
    """Counted votes on which the run was tuned, at the last measurement."""
    kl: float | None
    """KL to the base, nats, of the point that would be exported."""
    points: tuple[Point, ...]
    """All measurements, from the base (no steps) to the last."""
    lack: str
    """Why there is no share; "" where there is one."""
    kl_measured: bool = True
    """``kl`` was measured on held-out prompts; else it is the last step's figure."""
    last: Blind | None = None
    """Blind verdicts on pairs, about what would be exported."""
    at_start: bool = False
    """The run is where it began, and ``lack`` says why."""

    @property
    def verdict(self) -> str:
        """better, worse, unclear, or unknown, by whether the interval contains one half."""
        if self.share is None or not self.share.of:
            return "unknown"
        if self.share.unsure():
            return "unclear"
        return "better" if self.share.low > 0.5 else "worse"

    @property
    def sentence(self) -> str:
        """A sentence for people on whether the run helped."""
        if self.at_start:
            return self.lack
        if self.share is None or self.share.value is None:
            at = f" ({self.nats})" if self.nats else ""
            return f"not known whether it is better than the base{at}: {self.lack}"
        words = {
            "better": f"better than the base {PLACE}",
            "worse": f"worse than the base {PLACE}",
            "unclear": f"not distinguishable from the base {PLACE}",
        }[self.verdict]
        nats = f", {self.nats}" if self.nats else ""
        return f"{words}: wins {self.short} of {self.pairs}; {self.votes:,} votes{nats}"

    @property
    def nats(self) -> str:
        """The KL, such as "2.4 nats"; empty where it is unknown."""
        about = "" if self.kl_measured else "≈ "
        return "" if self.kl is None else f"{about}{self.kl:.1f} nats"

    @property
    def short(self) -> str:
        """The share with its interval, such as "63 % [58, 68]"; a dash where there is none."""
        return "–" if self.share is None or self.share.value is None else self.share.percent

    @property
    def before_after(self) -> tuple[tuple[str, str, str], ...]:
        """(prompt, the base's answer, the tuned policy's), of the first and last measurement."""
        if len(self.points) < 2 or self.points[0].steps:
            return ()
        tuned = dict(self.points[-1].texts)
        return tuple((p, a, tuned[p]) for p, a in self.points[0].texts if p in tuned)

    def as_dict(self) -> dict[str, Any]:
        """The values for ``--json``."""
        s = self.share
        return {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "share": None if s is None else s.value,
            "interval": None if s is None else [s.low, s.high],
            "last_pairs": None if self.last is None else asdict(self.last),
            "points": [
                {"steps": p.steps, "votes": p.votes, "reward": p.reward,
                 "share": None if p.wins is None else p.wins.value,
                 "interval": None if p.wins is None else [p.wins.low, p.wins.high],
                 "tokens": p.tokens, "kl": p.kl}
                for p in self.points
            ],
        }  # fmt: skip


def read(ledger: Ledger) -> Improvement:
    """Read a run's measurements and its final comparison, and judge the improvement."""
    if (still := why_at_start(ledger)) is not None:
        return Improvement(None, "", 0, None, (), still, at_start=True)
    bodies, improved = measurements(ledger), theta.last_adopted(ledger)
    base = bodies.get(0, {}).get("rewards")
    points = tuple(_point(body, base) for _, body in sorted(bodies.items()))
    end = points[-1] if points and points[-1].steps else None
    if improved is not None and end is not None and end.steps < improved["steps"]:
        end = None  # of other weights
    measured = end is not None and end.kl is not None
    kl = end.kl if end is not None else None
    if end is None and improved is not None:
        kl = improved.get("nats")
    elif not measured:
        kl = status.kl_after(ledger, None if end is None else end.steps)
    compared = blind.read(ledger)
    moved = compared is not None and compared.sha256 not in (None, recommended_digest(ledger))
    last = compared if compared is not None and not moved and compared.rows == 1 else None
    found = partial(Improvement, kl=kl, points=points, kl_measured=measured, last=last)
    votes = end.votes if end is not None else 0
    if end is not None and end.wins is not None and (compared is None or moved or compared.by):
        what = f"pairs on {end.wins.of} prompt{'s' if end.wins.of > 1 else ''} by the reward"
        even = f" ({100 * end.even:.0f} % are even)" if end.even >= MANY_EVEN else ""
        return found(end.wins, f"{what} of the panel{even}", votes, lack="")
    if compared is not None and not moved:
        judged = f"{compared.preferred.of:.0f} blind pairs"
        if compared.preferred.of < FEWEST:
            return found(None, "", votes, lack=f"{judged} were judged; it takes {FEWEST}")
        trained = vote_rows.read_evidence(ledger).totals.steps().total()
        return found(compared.preferred, judged, trained, lack="")
    placed = orders.orders(ledger, "final")
    if any(order.closed_us is None and order.error is None for order in placed):
        lack = "the blind final comparison is open; its result appears once it is closed"
    elif compared is not None:
        lack = f"it was compared after step {compared.after}, and it has moved since"
    elif end is None:
        what = "a step" if improved is None else "it was improved"
        lack = f"it was not measured on held-out prompts after {what}"
    else:
        lack = "nobody has compared them yet"
    return found(None, "", votes, lack=lack)


def measurements(ledger: Ledger) -> dict[int, dict[str, Any]]:
    """Measurements by the number of steps, of repeated ones the last; 0 is the base's.

    Those of weights that improved ones have replaced since are left out.
    """
    improved = [(event["event"], event["body"]["steps"]) for event in ledger.events(theta.ADOPTED)]
    return {
        event["body"]["steps"]: event["body"]
        for event in ledger.events(MEASURED)
        if not any(
            event["event"] < at and steps <= event["body"]["steps"] for at, steps in improved
        )
    }


@dataclass(frozen=True, slots=True)
class Round:
    """A policy that the run adopted, by the taste that it was moved on and by what came after."""

    votes: int
    """On which the taste rests."""
    liked: str
    before: float
    """The start's score on this taste; `score`: the policy's, on the same prompts."""
    score: float
    nats: float
    guards: str
    """What came of them, in words."""
    checks: Blind
    """Verdicts on its check rows."""
    gained: float | None
    """How much more its answers score on these by the panel's reward; None: none is known."""


def rounds(ledger: Ledger, score: Score | None = None) -> tuple[Round, ...]:
    """Every policy that the run adopted, in order; ``score``: a simulated panel's reward."""
    told: dict[str, list[str]] = {}
    gains: dict[str, list[float]] = {}
    stands = withdrawals.left(ledger)
    for event in ledger.events("generated"):
        pool, step = event["body"].get("pool") or {}, event["body"]["step"]
        if not (ids := pool.get("checks")):
            continue
        told.setdefault(pool["policy"], []).extend(
            vote.verdict
            for vote in counting.counted(ledger, step)
            if vote.comparison in ids and stands(vote.panelist, step)
        )
        shown = (each for each in ledger.comparisons(step) if each.id in ids)
        gains.setdefault(pool["policy"], []).extend(
            score(row.prompt, row.plus) - score(row.prompt, row.minus)
            for each in shown for row in each.rows
            if score is not None
        )  # fmt: skip
    found = []
    for event in ledger.events(theta.ADOPTED):
        body, liked = event["body"], taught_taste.recorded_taste(ledger, event["body"])
        cast, more = Counter(told.get(body["theta_sha256"])), gains.get(body["theta_sha256"])
        found.append(Round(
            liked.verdicts, liked.words, body["score_before"], body["score"], body["nats"],
            text_guards.describe_adopted(body["guards"]),
            Blind(cast["plus"], cast["minus"], cast["tie"]),
            float(np.mean(more)) if more else None,
        ))  # fmt: skip
    return tuple(found)


def why_at_start(ledger: Ledger) -> str | None:
    """Why the run recommends the weights that it began with; None where it does not."""
    if not theta.is_still(ledger):
        return blind.why_back(ledger)
    improves = ledger.spec.get("config", {}).get("improve", {}).get("nats")
    still = NOT_YET if improves else STILL
    for kept in ledger.events(theta.KEPT):
        still = f"nothing has moved: improving found nothing to adopt ({kept['body']['stopped']})"
    return blind.why_back(ledger) or still


def require_moving(ledger: Ledger) -> None:
    """Refuse to write weights of a run that is where it began."""
    if (still := why_at_start(ledger)) is not None:
        raise UsageError(f"{ledger.path.stem}: {still}")


def _point(body: Mapping[str, Any], base: Any) -> Point:
    tuned, outcomes = body["rewards"], None
    if body["steps"] and tuned is not None and base is not None and len(tuned) == len(base):
        outcomes = metrics.versus(tuned, base)
    return Point(
        steps=body["steps"],
        votes=body["votes"],
        wins=None if outcomes is None else metrics.win_rate(outcomes),
        even=0.0 if outcomes is None else float(np.mean(outcomes == 0.5)),
        reward=mean_reward(body["rewards"]),
        tokens=body["tokens"],
        kl=body["kl"],
        texts=tuple((prompt, answer) for prompt, answer in body["texts"]),
    )


def mean_reward(rewards: Sequence[Sequence[float]] | None) -> float | None:
    """The mean over all answers; None where no reward is known."""
    if rewards is None:
        return None
    values = [float(value) for row in rewards for value in row]
    return sum(values) / len(values)
