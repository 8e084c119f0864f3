"""What decides whether people stay: how far they and the whole run are, what is asked of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from szpo.training.status import RoundStatus
from szpo.training.summary import WORDS_PER_MINUTE
from szpo.voting.counting import StepVotes
from szpo_ui.web.site import Site


@dataclass(frozen=True, slots=True)
class Progress:
    """How many comparisons one panelist has answered, and how many all of them have."""

    mine: int
    """Training comparisons with an answer of this panelist, skips included."""
    done: int
    """Votes that count, of the whole run."""
    planned: int
    """Votes that the run is planned to take."""

    @property
    def left(self) -> int:
        """Votes that are still needed.

        >>> Progress(3, 41, 240).left, Progress(0, 12, 10).left
        (199, 0)
        """
        return max(0, self.planned - self.done)


@dataclass(frozen=True, slots=True)
class Facts:
    """What somebody wants to know before agreeing; None where the settings give nothing."""

    progress: Progress
    people: int
    """Persons invited so far, this one included."""
    vote_s: float
    """The longest that reading a comparison takes by the settings, seconds."""
    who: str | None
    contact: str | None
    pay: str | None
    ends: str | None
    """An ISO date."""
    privacy_url: str | None
    consent: str | None
    """The operator's own consent text."""
    second: bool = False
    """Some comparisons are shown to one more person."""

    @property
    def share(self) -> int:
        """This panelist's part of the votes that are left, if all take equal parts."""
        return math.ceil(self.progress.left / max(1, self.people))

    @property
    def share_s(self) -> float:
        """The longest that reading that part takes, seconds."""
        return self.share * self.vote_s


def read_progress(site: Site, panelist: str, status: RoundStatus) -> Progress:
    """Count the answers of a panelist and the votes of the run as they stand now."""
    config, ledger = site.config, site.ledger
    done = int(ledger.query("SELECT coalesce(sum(n_votes), 0) AS n FROM updates")[0]["n"])
    if status.state == "closed" and status.step is not None:
        done += len(StepVotes(ledger, status.step).counted)
    else:
        done += status.votes_in
    planned = config.steps * config.votes_per_step
    return Progress(count_votes(site, panelist), done, max(planned, done))


def count_votes(site: Site, panelist: str) -> int:
    """Count the training comparisons that a panelist has answered, skips included."""
    sql = (
        "SELECT count(*) AS n FROM assignments a JOIN comparisons c USING (comparison) "
        "JOIN votes v ON v.assignment = a.assignment AND v.revision = 0 "
        "WHERE a.panelist = ? AND c.kind = 'train'"
    )
    return int(site.ledger.query(sql, (panelist,))[0]["n"])


def read_facts(site: Site, panelist: str, status: RoundStatus) -> Facts:
    """Collect what the welcome page says about the run."""
    settings = site.config.panel
    people = site.ledger.query("SELECT count(*) AS n FROM panelists WHERE kind = 'person'")
    return Facts(
        progress=read_progress(site, panelist, status),
        people=int(people[0]["n"]),
        vote_s=60 * site.config.words_per_vote / WORDS_PER_MINUTE,
        who=settings.operator_name,
        contact=settings.contact,
        pay=settings.pay,
        ends=settings.ends,
        privacy_url=settings.privacy_url,
        consent=settings.consent,
        second=settings.second_share > 0,
    )
