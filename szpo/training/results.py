"""Read a run's totals from its ledger, and one row per step, optionally with its counted votes.

Nothing is written. Votes are counted as everywhere: answers A, B or tie on training comparisons,
in the highest revision up to the step's close, with amendments applied. Skips, automatic ties and
late votes are counted separately.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from szpo.intervals import better_side
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import read_budget
from szpo.ledger.theta import recommended_digest
from szpo.training import budget
from szpo.training.status import round_status, run_state
from szpo.voting import lease
from szpo.voting.step_report import StepReport, read_steps


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
    table: tuple[StepReport, ...] = ()
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
    state = run_state_of(ledger)
    hidden = set() if open_round else {"open"}
    if state == "finished":  # prepared for after the end
        hidden |= {"planned", "generating"}
    table = tuple(row for row in read_steps(ledger) if row.state not in hidden)
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
        automatic_ties=sum(row.automatic_ties for row in table),
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


def separation(steps: Iterable[StepReport]) -> float | None:
    """The win rate of a direction's better side, without bias from choosing the side afterwards.

    Votes on different comparisons of one direction agree with probability a = p² + (1 − p)², so
    p = ½(1 + √(2a − 1)), and ½ where a < ½; None without such votes.
    """
    counts = [(step.pairs, step.agreeing) for step in steps]
    pairs, agreeing = sum(p for p, _ in counts), sum(a for _, a in counts)
    return round(better_side(2 * agreeing / pairs - 1), 12) if pairs else None


def run_state_of(ledger: Ledger) -> str:
    """Whether a run is finished, running, paused or stopped, in words."""
    control = lease.controller(ledger)
    driven = lease.is_driven(control["lease"], control["expires_us"], ledger.clock())
    found, detail = run_state(round_status(ledger), driven=driven)
    if found == "stopped" and any(row["state"] != "applied" for row in ledger.steps()):
        return "stopped within a step"
    return f"paused {detail}" if found == "paused" else found
