"""A run's forecast for more votes, and why the recommended point goes no further, in words.

Every step of a run whose rule looks ahead records it (`szpo.optim.rules.look_ahead`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from szpo.analysis import cause, taught
from szpo.ledger.database import Ledger
from szpo.optim import vote_regression
from szpo.optim.named_features import describe_likelier
from szpo.optim.rules.look_ahead import Ahead, LookAhead

FIGURES: Final = {"logprob": "log-probability", "tokens": "length", "margin": "topic"}
"""Names for people of the figures of predicted guards."""
NEVER: Final = LookAhead((), -math.inf)


@dataclass(frozen=True, slots=True)
class Outlook:
    """The look-ahead of a run's last step, and its prior."""

    found: LookAhead
    votes: int
    """Counted votes of the run at that step."""
    prior: Mapping[str, Any] | None = None
    """The preference pairs that the run began with: file, number, and weight in votes then."""
    why: str = ""
    """Why the votes show no taste, if that was asked for. Where the coordinates are named
    features, `szpo.analysis.taught` says why."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Why the recommended point goes no further, with advice; empty where nothing stops it."""
        found, lines = self.found, []
        if self.why:
            lines.append(
                f"no taste shown yet (Bayes factor {math.exp(found.factor):.2g}, it takes "
                f"{vote_regression.BAYES_FACTOR_NEEDED:g}), so the recommended point "
                f"stays near the start: {self.why}"
            )
        names = _list(found.broken)
        if found.share == 0:
            lines.append(
                f"guards predicted from the base's answers ({names}) hold nowhere in the "
                "direction that the votes prefer, so the recommended point stays at the start: "
                "try other coordinates (subspace.dim, adapter.layers) or, to watch the guards "
                "yourself, optimizer.guarded=false in a new run"
            )
        elif found.share < 1:
            lines.append(
                f"guards predicted from the base's answers ({names}) hold the recommended point "
                f"at {100 * found.share:.0f} % of the way that the votes would take it"
            )
        if found.turned:
            lines.append(
                "the taste has turned: the last votes are better explained without the earlier "
                "ones; a new run that begins with this one's adapter (szpo export, model.adapter) "
                "leaves their votes out"
            )
        return tuple(lines)

    @property
    def prior_line(self) -> str:
        """How much the prior weighs, in one line; empty without one."""
        if self.prior is None:
            return ""
        if "full" in self.prior:
            return f"{self.prior['full']:,} votes of {self.prior['file']} count in full"
        began = f"{self.prior['pairs']:,} pairs from {self.prior['file']}"
        if "likelier" in self.prior:
            return f"{began} {describe_likelier(self.prior['likelier'])}"
        now = self.prior["votes"] if self.found.prior_votes is None else self.found.prior_votes
        return (
            f"{began} weigh as much as {now:.0f} votes now, beside {self.votes:,} that were cast; "
            f"they began with {self.prior['votes']:.0f}"
        )

    @property
    def note(self) -> str:
        """A few words for the line of a step; empty where there is nothing to say."""
        found, words = self.found, []
        if self.votes and not found.shown:
            words.append("no taste shown yet")
        if self.votes and (said := taught.words(found)):
            words.append(said if found.shown else f"perhaps {said}")
        if found.share < 1:
            words.append(
                f"predicted guards ({_list(found.broken)}) hold it at "
                + (f"{100 * found.share:.0f} % of the way" if found.share else "the start")
            )
        if found.turned:
            words.append("the taste has turned")
        return ", ".join(words)

    def as_dict(self) -> dict[str, Any]:
        """The values for ``--json``."""
        plain = self.found.to_json()
        factor = plain.pop("factor")
        return {
            **plain,
            "odds": math.exp(factor),
            "taste_shown": self.found.shown,
            "taste_turned": self.found.turned,
            "remarks": list(self.remarks),
            "prior": self.prior_line or None,
        }


def win_rate(ahead: Ahead) -> str:
    """The share of votes against the base with its interval, in percent."""
    value, low, high = (100 * each for each in ahead.win_rate)
    return f"{value:.0f} % [{min(low, value):.0f}, {max(high, value):.0f}]"


def nats(ahead: Ahead) -> str:
    """The KL to the base with its interval, widened to the mean, since draws may be skewed.

    >>> nats(Ahead(20, (0.5, 0.5, 0.6), (0.2, 0.1, 0.1), 0.1))
    '0.2 nats [0.1, 0.2]'
    """
    value, low, high = ahead.kl
    return f"{value:.1f} nats [{min(low, value):.1f}, {max(high, value):.1f}]"


def heads(ledger: Ledger) -> tuple[str, str, str, str]:
    """Column heads of `table`; the second says how many prompts a vote compares."""
    rows = ledger.spec.get("config", {}).get("optimizer", {}).get("rows", 1)
    each = f", of {rows} prompts each" if rows > 1 else ""
    return "forecast", f"votes won{each}", "KL to the base", "shows a taste"


def table(outlook: Outlook) -> Sequence[tuple[str, str, str, str]]:
    """Rows of the forecast: further votes, win rate, KL, and the probability that a taste shows.

    The present is no forecast and is left out: see `szpo.analysis.improvement`.
    """
    return [
        (f"{each.votes} more", win_rate(each), nats(each), f"{100 * each.evidence:.0f} %")
        for each in outlook.found.ahead
        if each.votes
    ]


def of_report(extra: Mapping[str, Any], votes: int) -> Outlook | None:
    """The outlook in a step's report, without the prior; None if the rule does not look ahead."""
    body = extra.get("outlook")
    return None if body is None else Outlook(LookAhead.from_json(body), votes)


def read(ledger: Ledger, *, why: bool = False) -> Outlook | None:
    """The outlook of a run as of its last step; None where no look-ahead and no prior is recorded.

    With ``why`` the votes are read again to explain why they show no taste.
    """
    prior = ledger.spec.get("prior")
    last = ledger.query("SELECT body FROM events WHERE kind = 'step' ORDER BY event DESC LIMIT 1")
    body = json.loads(last[0]["body"]) if last else {}
    ahead = (body.get("extra") or {}).get("outlook")
    if ahead is not None:
        found, votes = LookAhead.from_json(ahead), body["total_votes"]
        asked = why and votes and not found.shown and found.taught is None
        later = any(each.votes and each.evidence >= taught.LIKELY for each in found.ahead)
        said = cause.read(ledger, undecided=later, named=False)[0] if asked else ""
        return Outlook(found, votes, prior, said)
    return None if prior is None else Outlook(NEVER, 0, prior)


def _list(figures: Sequence[str]) -> str:
    return ", ".join(FIGURES.get(name, name) for name in figures)
