"""A run's ledger summed up for people: totals, and one line per step.

Reads only. Votes are counted as everywhere: answers A, B or tie on training comparisons, the
highest revision up to the step's close, amendments applied; skips, automatic ties and late votes
have their own numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from szpo.aggregation.win_rates import better_side
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_config
from szpo.ledger.theta import recommended_digest
from szpo.training import step_rows
from szpo.types import Vote
from szpo.voting import second_seats
from szpo.voting.counting import StepVotes
from szpo.voting.pauses import describe_pause

WORDS_PER_MINUTE = 238
"""How fast adults read English prose silently; person-minutes are computed with it."""


@dataclass(frozen=True)
class Facts:
    """One step: what was asked, what came back, what it did."""

    step: int
    state: str
    votes: int = 0
    plus: int = 0
    minus: int = 0
    ties: int = 0
    skips: int = 0
    identical: int = 0
    """Comparisons that were tied without asking."""
    answers_read: int = 0
    words_read: int = 0
    pairs: int = 0
    """Pairs of votes for a side on different comparisons of one direction."""
    agreeing: int = 0
    """Those of them that chose the same side."""
    estimate: float | None = None
    """Δ̂ in link units, mean over the directions."""
    stderr: float | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    """What else the controller recorded: KL, mean length, |θ|."""

    @property
    def win_rate(self) -> float | None:
        """Share of votes for plus, a tie counting half; None without a vote."""
        return (self.plus + self.ties / 2) / self.votes if self.votes else None

    @property
    def turned_by(self) -> float | None:
        """Smallest share of voters who, voting against throughout, would have turned the step."""
        return self.info.get("flip_share")


@dataclass(frozen=True)
class Summary:
    """A run in numbers."""

    path: str
    run: str
    name: str
    state: str
    seed: int
    model: str
    panel: str
    rule: str
    created_us: int
    steps: int
    """Applied steps."""
    votes: int
    budget: int | None
    skips: int
    automatic_ties: int
    late: int
    answers_read: int
    person_minutes: float
    panelists: int
    win_rate: float | None
    """Share of votes for plus; no quality: which side plus is, is drawn anew in every step."""
    head: str
    """Hash of the last event, which covers all before it; ``szpo verify --head`` takes it."""
    theta_sha256: str
    """Digest of the weights after the last applied step."""
    beta: float | None = None
    """Sharpness of a simulated panel, and how often two of its members agree on base answers."""
    agreement: float | None = None

    @property
    def fit(self) -> str:
        """The panel's sharpness for people to read; nothing where there is none."""
        agreed = "" if self.agreement is None else f", agreement {self.agreement:.3f}"
        return "" if self.beta is None else f", beta {self.beta:.6g}{agreed}"

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def steps(ledger: Ledger) -> list[Facts]:
    """One line per step that was planned, in order."""
    rows = step_rows.read(ledger)
    counted: dict[int, Counter[str]] = {row.step: Counter() for row in rows}
    for step, tally in counted.items():
        votes = StepVotes(ledger, step)
        answered, skipped = votes.counted, _find_skips(votes)
        tally["votes"], tally["skips"] = len(answered), len(skipped)
        tally["pairs"], tally["agreeing"] = agreement(answered)
        for vote in answered:
            tally[{"tie": "ties"}.get(vote.verdict, vote.verdict)] += 1
        tally["answers_read"], tally["words_read"] = _read(ledger, votes)
    notes = _notes(ledger)
    return [
        Facts(
            row.step,
            row.state,
            identical=row.identical_comparisons,
            **counted[row.step],
            estimate=row.estimate,
            stderr=row.stderr,
            info=notes.get(row.step, {}),
        )
        for row in rows
    ]


def summary(ledger: Ledger, facts: list[Facts] | None = None) -> Summary:
    """Totals of a run; give ``facts`` where they are at hand."""
    facts = steps(ledger) if facts is None else facts
    config = ledger.spec.get("config", {})
    run, panel = config.get("run", {}), config.get("panel", {})
    late = ledger.query(
        "SELECT count(*) AS n FROM votes WHERE late = 1 "
        f"AND assignment NOT IN {second_seats.SEATS}"
    )[0]["n"]
    people = ledger.query("SELECT count(*) AS n FROM panelists")[0]["n"]
    total = sum(f.votes for f in facts)
    wins = sum((f.win_rate or 0) * f.votes for f in facts)
    voters, asked = panel.get("kind", "–"), ledger.spec.get("panel") or {}
    if voters == "judge":
        voters = f"judge ({config.get('judge', {}).get('model')})"
    elif voters == "function":  # it has no reward, whatever the setting says
        voters = f"function {asked.get('function')}"
    elif voters not in {"people", "–"}:
        voters = f"{voters} ({panel.get('reward')})"
    fitted = asked.get("calibration") or {}
    return Summary(
        path=str(ledger.path),
        run=ledger.run,
        name=str(run.get("name") or Path(ledger.path).stem),
        state=_state(ledger, total),
        seed=ledger.root_seed,
        model=str(config.get("model", {}).get("name", "–")),
        panel=voters,
        rule=str(ledger.spec.get("optimizer", {}).get("rule", "–")),
        created_us=ledger.row["created_us"],
        steps=sum(f.state == "applied" for f in facts),
        votes=total,
        budget=run.get("votes"),
        skips=sum(f.skips for f in facts),
        automatic_ties=sum(f.identical for f in facts),
        late=late,
        answers_read=sum(f.answers_read for f in facts),
        person_minutes=sum(f.words_read for f in facts) / WORDS_PER_MINUTE,
        panelists=people,
        win_rate=wins / total if total else None,
        head=_head(ledger),
        theta_sha256=recommended_digest(ledger),
        beta=fitted.get("beta", panel.get("beta")),
        agreement=fitted.get("agreement"),
    )


def words_read(ledger: Ledger, step: int) -> int:
    """Count the words read for a step's votes, skips included."""
    return _read(ledger, StepVotes(ledger, step))[1]


def separation(pairs: int, agreeing: int) -> float | None:
    """The win rate of a direction's better side, without bias from choosing the side afterwards.

    For votes of different comparisons of one direction the agreement is a = p² + (1 − p)², so
    p = ½(1 + √(2a − 1)), ½ where chance agrees more often.

    >>> separation(100, 58), separation(100, 40), separation(0, 0)
    (0.7, 0.5, None)
    """
    if not pairs:
        return None
    return round(better_side(2 * agreeing / pairs - 1), 12)


def agreement(answered: Iterable[Vote]) -> tuple[int, int]:
    """Pairs of votes for a side on different comparisons of a direction, and those that agree.

    By counts: all pairs of a direction less those within one comparison.
    """
    sided = [vote for vote in answered if vote.verdict != "tie"]
    pairs = _two(v.k for v in sided) - _two((v.k, v.n) for v in sided)
    agreeing = _two((v.k, v.verdict) for v in sided) - _two((v.k, v.n, v.verdict) for v in sided)
    return pairs, agreeing


def _two(groups: Iterable[Hashable]) -> int:
    """Pairs within the same group."""
    return sum(count * (count - 1) // 2 for count in Counter(groups).values())


def _head(ledger: Ledger) -> str:
    last = ledger.last_event()
    return "" if last is None else str(last["row_sha256"])


def _state(ledger: Ledger, votes_so_far: int) -> str:
    control = ledger.query("SELECT * FROM controller LIMIT 1")[0]
    if control["paused_by"]:
        return f"paused by {describe_pause(control['paused_by'], control['pause_reason'])}"
    states = {row["state"] for row in ledger.steps()}
    # With lag the next step is made while people vote on the last one, and then left. Who holds a
    # finished run stands by for its pages.
    if not states & {"open", "closed"} and _spent(ledger, votes_so_far):
        return "finished"
    if control["lease"] and control["expires_us"] > ledger.clock():
        return "running"
    return "stopped" if states <= {"applied", "void"} else "stopped within a step"


def _spent(ledger: Ledger, votes_so_far: int) -> bool:
    """Another step would pass the run's own limits."""
    config = recorded_config(ledger)
    if config is None:
        return False
    last = ledger.last_applied()
    steps = 0 if last is None else last + 1
    by_steps = config.run.steps is not None and steps >= config.run.steps
    by_votes = (
        config.run.votes is not None and votes_so_far + config.votes_per_step > config.run.votes
    )
    return by_steps or by_votes


def _find_skips(votes: StepVotes) -> list[Vote]:
    return [vote for vote in votes.standing if vote.verdict == "skip"]


def _read(ledger: Ledger, votes: StepVotes) -> tuple[int, int]:
    """Count the answers and words read for a step's votes, in rows that were shown."""
    shown: dict[str, tuple[int, int]] = {}
    for row in ledger.query(
        "SELECT comparison, a.plus, a.minus FROM comparisons c JOIN answers a USING (comparison) "
        "WHERE c.run = ? AND c.step = ? AND c.kind = 'train' AND a.plus <> a.minus",
        (ledger.run, votes.step),
    ):
        answers, words = shown.get(row["comparison"], (0, 0))
        words += len(row["plus"].split()) + len(row["minus"].split())
        shown[row["comparison"]] = answers + 2, words
    read = [shown.get(vote.comparison, (0, 0)) for vote in (*votes.counted, *_find_skips(votes))]
    return sum(answers for answers, _ in read), sum(words for _, words in read)


def _notes(ledger: Ledger) -> dict[int, dict[str, Any]]:
    """The numbers that events of any kind note of each step."""
    kinds = ledger.query("SELECT kind FROM events WHERE kind <> 'rows' GROUP BY kind")
    return {
        step: {k: v for k, v in body.items() if isinstance(v, int | float) and k != "step"}
        for step, body in step_rows.read_figures(ledger, [row["kind"] for row in kinds]).items()
    }
