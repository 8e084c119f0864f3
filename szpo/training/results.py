"""Read a run's totals from its ledger, and one row per step, optionally with its counted votes.

Nothing is written. Votes are counted as everywhere: answers A, B or tie on training comparisons,
in the highest revision up to the step's close, with amendments applied. Skips, automatic ties and
late votes are counted separately.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from szpo.intervals import better_side
from szpo.ledger.database import Ledger, Record
from szpo.ledger.run_spec import read_budget
from szpo.ledger.theta import recommended_digest
from szpo.training import budget
from szpo.training.status import round_status, run_state
from szpo.types import Vote
from szpo.voting import lease
from szpo.voting.counting import StepVotes


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step: its plan, its times, its figures."""

    step: int
    state: str
    pairing: str
    mu: float
    k: int
    n: int
    m: int
    d: int
    asked: int
    """Number of comparisons that were shown."""
    identical_comparisons: int
    """Number of comparisons that were tied without asking."""
    opened_us: int | None = None
    closed_us: int | None = None
    closed_by: str | None = None
    applied_us: int | None = None
    generation_s: float | None = None
    estimate: float | None = None
    """Δ̂ as recorded, mean over directions."""
    stderr: float | None = None
    headings: tuple[float, ...] = ()
    """Per direction, the cosine of v with the path of the last ten steps; empty if unknown."""
    kl: float | None = None
    length: float | None = None
    length_plus: float | None = None
    length_minus: float | None = None
    norm: float | None = None
    identical: float | None = None
    repetition: float | None = None
    distinct: float | None = None
    """Share of different word pairs among all of the answers; see `szpo.analysis.evidence`."""
    not_finite: tuple[str, ...] = ()
    """Watched figures that were not finite; their fields above are None."""
    theta_sha256: str | None = None
    info: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Everything that the run recorded of the step."""
    # `read` fills the fields below by counting votes; `read_steps` leaves their defaults.
    votes: int = 0
    plus: int = 0
    minus: int = 0
    ties: int = 0
    skips: int = 0
    answers_read: int = 0
    words_read: int = 0
    pairs: int = 0
    """Pairs of votes for a side on different comparisons of one direction."""
    agreeing: int = 0
    """How many of these pairs chose the same side."""
    turned_by: float | None = None
    """Smallest share of voters that would have reversed the step by always voting against it."""

    @property
    def perturbed(self) -> bool:
        """Each direction has two policies, so that votes on its comparisons are alike."""
        return self.pairing not in ("pool", "mixed")

    @property
    def win_rate(self) -> float | None:
        """Share of votes for plus, with a tie as half a vote; None without votes."""
        return (self.plus + self.ties / 2) / self.votes if self.votes else None


OF_PLAN: Final = (
    "step", "state", "pairing", "mu", "k", "n", "m", "d", "opened_us", "closed_us", "closed_by",
)  # fmt: skip
NOTED: Final = (
    "kl", "length", "length_plus", "length_minus", "norm", "identical", "repetition",
)  # fmt: skip
"""Fields that have the same name in the table of steps and in its events."""


def read_steps(ledger: Ledger) -> tuple[StepRow, ...]:
    """One row per planned step, in order, without headings and ``distinct``."""
    generated, applied = (_figures(ledger, kind) for kind in ("generated", "step"))
    updates: dict[int, list[Record]] = defaultdict(list)
    for update in ledger.update_rows():
        updates[update["step"]].append(update)
    shown = {
        row["step"]: (row["shown"], row["same"])
        for row in ledger.query(
            "SELECT step, sum(identical = 0) AS shown, sum(identical) AS same FROM comparisons "
            "WHERE kind = 'train' GROUP BY step"
        )
    }
    rows = []
    for row in ledger.steps():
        step = row["step"]
        asked, same = shown.get(step, (0, 0))
        figures, own = generated[step] | applied[step], updates[step]
        numbers: dict[str, Any] = {name: _number(figures.get(name)) for name in NOTED}
        estimates = [u["estimate"] for u in own if u["estimate"] is not None]
        errors = [u["stderr"] for u in own if u["stderr"] is not None]
        rows.append(
            StepRow(
                **{name: row[name] for name in OF_PLAN}, asked=asked, identical_comparisons=same,
                applied_us=own[-1]["applied_us"] if own else None,
                # An applied step records a time of the same name that includes waiting.
                generation_s=_number(generated[step].get("generation_s")),
                estimate=sum(estimates) / len(estimates) if estimates else None,
                stderr=sum(e * e for e in errors) ** 0.5 / len(errors) if errors else None,
                not_finite=tuple(figures.get("not_finite", ())),
                theta_sha256=own[0]["theta_sha256"] if own else None,
                turned_by=_number(figures.get("flip_share")), info=figures, **numbers,
            )
        )  # fmt: skip
    return tuple(rows)


def _figures(ledger: Ledger, kind: str) -> defaultdict[int, dict[str, Any]]:
    """The figures that events of this kind record of each step."""
    found: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    for event in ledger.events(kind):
        body = event["body"]
        if isinstance(body.get("step"), int):
            noted = {name: value for name, value in body.items() if value is not None}
            found[body["step"]] |= noted
    return found


def kl_after(ledger: Ledger, steps: int | None = None) -> float | None:
    """KL to the start, nats, as recorded after ``steps`` steps, or after the last step."""
    found = ledger.query(
        "SELECT json_extract(body, '$.kl') AS kl FROM events WHERE kind = 'step' "
        "AND coalesce(json_extract(body, '$.step') = ?, 1) ORDER BY event DESC LIMIT 1",
        (None if steps is None else steps - 1,),
    )
    return _number(found[0]["kl"]) if found else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


# ---- votes counted ----


@dataclass(frozen=True)
class Run:
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
    """Votes at which the run ends, including added ones."""
    added: int
    """How many of these were added to the run's first budget."""
    skips: int
    automatic_ties: int
    late: int
    answers_read: int
    person_minutes: float
    panelists: int
    win_rate: float | None
    """Share of votes for plus; says nothing of quality: every step draws which side is plus."""
    head: str
    """Hash of the last event, which covers all before it; ``szpo verify --head`` takes it."""
    theta_sha256: str
    """Digest of the weights after the last applied step."""
    beta: float | None = None
    """Sharpness of a simulated panel."""
    agreement: float | None = None
    """How often two of its members agree on base answers."""
    table: tuple[StepRow, ...] = ()
    """Every planned step, in order; of a finished run, only steps that are over."""

    @property
    def fit(self) -> str:
        """The panel's sharpness in words; "" without one."""
        agreed = "" if self.agreement is None else f", agreement {self.agreement:.3f}"
        return "" if self.beta is None else f", beta {self.beta:.6g}{agreed}"

    @property
    def of_budget(self) -> str:
        """The budget in words, to print after the number of votes; "" without a budget."""
        added = f" ({self.added:,} of them added)" if self.added else ""
        return f" of {self.budget:,}{added}" if self.budget else ""

    def as_dict(self) -> dict[str, Any]:
        """The totals, for ``--json``; ``added`` is included only if votes were added."""
        left_out = {"table"} if self.added else {"table", "added"}
        return {name: value for name, value in vars(self).items() if name not in left_out}


def read(ledger: Ledger, *, open_round: bool = True) -> Run:
    """The totals of a run and its table of steps, without its open round unless ``open_round``."""
    state = _state(ledger)
    hidden = set() if open_round else {"open"}
    if state == "finished":  # prepared for after the end
        hidden |= {"planned", "generating"}
    table = tuple(row for row in _count(ledger) if row.state not in hidden)
    config = ledger.spec.get("config", {})
    run, panel = config.get("run", {}), config.get("panel", {})
    most = read_budget(ledger).get("votes", run.get("votes"))
    late = ledger.query("SELECT count(*) AS n FROM votes WHERE late = 1")[0]["n"]
    people = ledger.query("SELECT count(*) AS n FROM panelists")[0]["n"]
    last, total = ledger.last_event(), sum(row.votes for row in table)
    wins = sum((row.win_rate or 0) * row.votes for row in table)
    voters, asked = panel.get("kind", "–"), ledger.spec.get("panel") or {}
    if voters == "judge":
        voters = f"judge ({config.get('judge', {}).get('model')})"
    elif voters == "function":  # it has no reward, whatever the setting says
        voters = f"function {asked.get('function')}"
    elif voters not in {"people", "–"}:
        voters = f"{voters} ({panel.get('reward')})"
    fitted = asked.get("calibration") or {}
    return Run(
        path=str(ledger.path),
        run=ledger.run,
        name=str(run.get("name") or Path(ledger.path).stem),
        state=state,
        seed=ledger.root_seed,
        model=str(config.get("model", {}).get("name", "–")),
        panel=voters,
        rule=str(ledger.spec.get("optimizer", {}).get("rule", "–")),
        created_us=ledger.row["created_us"],
        steps=sum(row.state == "applied" for row in table),
        votes=total,
        budget=most,
        added=(most or 0) - (run.get("votes") or 0),
        skips=sum(row.skips for row in table),
        automatic_ties=sum(row.identical_comparisons for row in table),
        late=late,
        answers_read=sum(row.answers_read for row in table),
        person_minutes=sum(row.words_read for row in table) / budget.WORDS_PER_MINUTE,
        panelists=people,
        win_rate=wins / total if total else None,
        head="" if last is None else str(last["row_sha256"]),
        theta_sha256=recommended_digest(ledger),
        beta=fitted.get("beta", panel.get("beta")),
        agreement=fitted.get("agreement"),
        table=table,
    )


def _count(ledger: Ledger) -> Iterator[StepRow]:
    """Every step, with its votes counted."""
    for row in read_steps(ledger):
        votes = StepVotes(ledger, row.step)
        verdicts = Counter(vote.verdict for vote in votes.counted)
        answers, words = budget.count_read(ledger, votes)
        pairs, agreeing = agreement(votes.counted) if row.perturbed else (0, 0)
        yield replace(
            row, votes=len(votes.counted), plus=verdicts["plus"], minus=verdicts["minus"],
            ties=verdicts["tie"], skips=sum(vote.verdict == "skip" for vote in votes.standing),
            answers_read=answers, words_read=words, pairs=pairs, agreeing=agreeing,
        )  # fmt: skip


def separation(steps: Iterable[StepRow]) -> float | None:
    """The win rate of a direction's better side, without bias from choosing the side afterwards.

    Votes on different comparisons of one direction agree with probability a = p² + (1 − p)², so
    p = ½(1 + √(2a − 1)), and ½ where a < ½; None without such votes.
    """
    counts = [(step.pairs, step.agreeing) for step in steps]
    pairs, agreeing = sum(p for p, _ in counts), sum(a for _, a in counts)
    return round(better_side(2 * agreeing / pairs - 1), 12) if pairs else None


def agreement(answered: Iterable[Vote]) -> tuple[int, int]:
    """Pairs of votes for a side on different comparisons of a direction, and those that agree.

    Computed as all pairs of a direction minus those within one comparison.
    """
    sided = [vote for vote in answered if vote.verdict != "tie"]
    pairs = _two(v.k for v in sided) - _two((v.k, v.n) for v in sided)
    agreeing = _two((v.k, v.verdict) for v in sided) - _two((v.k, v.n, v.verdict) for v in sided)
    return pairs, agreeing


def _two(groups: Iterable[Hashable]) -> int:
    """Number of pairs within the same group."""
    return sum(count * (count - 1) // 2 for count in Counter(groups).values())


def _state(ledger: Ledger) -> str:
    control = lease.controller(ledger)
    driven = lease.is_driven(control["lease"], control["expires_us"], ledger.clock())
    state, detail = run_state(round_status(ledger), driven=driven)
    if state == "stopped" and any(row["state"] != "applied" for row in ledger.steps()):
        return "stopped within a step"
    return f"paused {detail}" if state == "paused" else state
