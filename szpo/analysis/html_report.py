"""One self-contained HTML page about a run: settings, curves, samples, votes, verification.

All of it is from the ledger. Generated texts and names are escaped; the page has no script, and
its content policy forbids any.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from szpo import __version__
from szpo.analysis import agreement, charts, improvement, taught_taste, vote_rows
from szpo.analysis.charts import Series, estimate_series, line_chart, standalone
from szpo.analysis.improvement import Improvement
from szpo.config.schema import Config
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_tables
from szpo.metrics import Share, mean
from szpo.policies import teachable
from szpo.replay.record_checks import Report
from szpo.runs import budget, guards, status
from szpo.runs.status import Run
from szpo.types import sides
from szpo.visible_text import visible
from szpo.voting import counting, withdrawals
from szpo.voting.applied_step import StepReport
from szpo.voting.panel_evaluator import Score

NOTES = {
    "kl measured": "measured on held-out prompts; its last point is the adapter's",
    "kl": "as each step measured it by sampling; the adapter's own KL is above",
    "kl estimate": "as each step recorded it: under regression estimated from the coordinates, "
    "right near the start, else measured; the adapter's own KL is above",
    "length": "tokens per answer, both sides",
    "norm": "length of the coordinates; in a score subspace ½|θ|² is the KL near the start",
    "identical": "pairs in which both sides gave the same answer",
}

SAMPLES = 6
"""Most samples on the page."""


def render(
    ledger: Ledger,
    *,
    score: Score | None = None,
    score_name: str = "reward",
    verification: Report | None = None,
    open_round: bool = True,
) -> str:
    """Render the page as text.

    ``score``: the hidden reward of a simulated panel, drawn as a further curve. ``verification``:
    None where the verifier did not run. ``open_round``: also votes of a round that is still open.
    """
    total, helped = status.read_results(ledger, open_round=open_round), improvement.read(ledger)
    facts, rows = total.table, ledger.spec.get("optimizer", {}).get("D", 1)
    lesson, found = taught_taste.read(ledger), taught_taste.last_findings(ledger)
    environment = Environment(
        loader=PackageLoader("szpo", "analysis/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["number"] = number
    page = environment.get_template("report.html").render(
        summary=total,
        begun=when(total.created_us),
        helped=helped,
        bar=Markup(charts.draw_share(helped.share)),
        texts=[tuple(map(visible, row)) for row in helped.before_after],
        gain=_gain(helped),
        rounds=improvement.rounds(ledger, score),
        cards=_cards(total),
        held_out=guards.read_held_out(ledger),
        lesson=None if lesson is None else visible(str(lesson)),
        mix=visible(taught_taste.describe_mix(ledger, found)),
        teachable=teachable.of_spec(ledger.spec),
        ruler=teachable.ruler(ledger.spec.get("space", {}).get("report", {})),
        rows=rows,
        sides=sides(rows),
        lesson_chart=Markup("" if lesson is None else charts.draw_lesson(lesson)),
        mix_chart=Markup("" if lesson is None else charts.draw_mix(lesson)),
        more=taught_taste.more_votes(ledger, lesson) if found is not None else "",
        figures=list(_figures(ledger, facts, helped, score, score_name)),
        samples=list(_samples(ledger, facts)),
        panelists=list(_panelists(ledger, live=open_round)),
        facts=facts,
        verification=verification,
        settings=_flatten_spec(ledger.spec),
        changed=_list_changes(recorded_tables(ledger.spec)),
        words_per_minute=budget.WORDS_PER_MINUTE,
        version=__version__,
    )
    return _with_contents(page)


def _with_contents(page: str) -> str:
    """Add a list of sections to the page, and an id to each section."""
    # No text from a run can look like a heading, since all are escaped.
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    numbers = itertools.count()
    page = re.sub(r"<h2>", lambda _: f'<h2 id="section-{next(numbers)}">', page)
    links = (f'<li><a href="#section-{i}">{title}</a></li>' for i, title in enumerate(titles))
    return page.replace("<!-- contents -->", "".join(links), 1)


def picture(ledger: Ledger, *, score: Score | None = None, score_name: str = "reward") -> str:
    """A run's main chart as an SVG file: the hidden reward if known, else its first curve."""
    facts, helped = status.read_results(ledger).table, improvement.read(ledger)
    if score is None:
        first = _gain(helped) or next(_figures(ledger, facts, helped, None, score_name))
        return standalone(first["svg"])
    series = [_rewards(ledger, facts, score, by_votes=True)]
    title = f"{score_name} of the answers shown, over the votes spent"
    return standalone(line_chart(title, series, x_label="votes", y_label=f"mean {score_name}"))


def number(value: float | None, digits: int = 3) -> str:
    """Format a number for people; a dash for None.

    >>> number(0.12345), number(None), number(12)
    ('0.123', '–', '12')
    """
    return "–" if value is None else f"{value:.{digits}g}"


def when(us: int) -> str:
    """Format a ledger's time as date and time, UTC."""
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _cards(total: Run) -> list[tuple[str, str]]:
    return [
        (f"votes{total.of_budget}", f"{total.votes:,}"),
        ("applied steps", str(total.steps)),
        ("answers read", f"{total.answers_read:,}"),
        ("minutes of reading", f"{total.person_minutes:,.0f}"),
        ("panelists", str(total.panelists)),
        ("skips", str(total.skips)),
        ("automatic ties", str(total.automatic_ties)),
        ("late votes", str(total.late)),
    ]


def _figures(
    ledger: Ledger,
    facts: Sequence[StepReport],
    helped: Improvement,
    score: Score | None,
    score_name: str,
) -> Iterator[dict[str, str]]:
    yield _figure(
        "Value difference Δ̂",
        "estimated from a step's votes, in units of the link, with its 95 % interval",
        [estimate_series((f.step, *f.estimate) for f in facts)],
        "units of the link",
        reference=0.0,
    )
    if score is not None:
        yield _figure(
            f"Hidden reward ({score_name})",
            "mean over all answers of a step, both sides, with its 95 % interval; the panel "
            "knows it, the run does not",
            [_rewards(ledger, facts, score)],
            "mean",
        )
    config = ledger.spec.get("config", {})
    measured = config.get("guards", {}).get("kl") is not None or "space" not in ledger.spec
    for key, title, unit in (
        ("kl", "KL to the base", "nats per completion"),
        ("length", "Mean answer length", "tokens"),
        ("norm", "|θ|", ""),
        ("identical", "Identical pairs", "share"),
    ):
        known = [(f.step, y) for f in facts if (y := getattr(f, key)) is not None]
        kind = f"{key} estimate" if key == "kl" and not measured else key
        if key == "kl" and helped.kl_measured and helped.kl is not None:
            along = [(p.steps, p.kl) for p in helped.points if p.steps and p.kl is not None]
            known, kind = [(0, 0.0), *along], "kl measured"
        if known:
            series = Series(title, [x for x, _ in known], [y for _, y in known])
            # From zero, since otherwise noise of a few per cent would look like a trend.
            top = 1.0 if key == "identical" else max(y for _, y in known)
            lowest = min(0.0, *(y for _, y in known))
            yield _figure(title, NOTES[kind], [series], unit, bounds=(lowest, top or 1.0))


def _gain(helped: Improvement) -> dict[str, str] | None:
    chart = charts.draw_gain(helped)
    note = (
        "held-out pairs that the tuned policy wins against the base, by the panel's reward, with "
        "95 % intervals; ½ is no gain"
    )
    return {"title": charts.GAIN, "note": note, "svg": Markup(chart)} if chart else None


def _figure(
    title: str,
    note: str,
    series: Sequence[Series],
    y_label: str,
    *,
    reference: float | None = None,
    bounds: tuple[float, float] | None = None,
) -> dict[str, str]:
    svg = line_chart(
        title, series, x_label="step", y_label=y_label, reference=reference, bounds=bounds
    )
    return {"title": title, "note": note, "svg": Markup(svg)}  # line_chart escapes every text


def _rewards(
    ledger: Ledger, facts: Sequence[StepReport], score: Score, *, by_votes: bool = False
) -> Series:
    """Mean reward per step; its interval is over prompts, each with its two answers' mean."""
    points, spent = [], 0
    for f in facts:
        spent += f.votes
        rows = [row for c in ledger.comparisons(f.step) for row in c.rows]
        values = [(score(row.prompt, row.plus) + score(row.prompt, row.minus)) / 2 for row in rows]
        found = mean(values)
        if (y := found.value) is not None:
            ends = (y if end is None else end for end in (found.low, found.high))
            points.append((spent if by_votes else f.step, y, *ends))
    return Series.of("reward", points)


def _samples(ledger: Ledger, facts: Sequence[StepReport]) -> Iterator[dict[str, Any]]:
    """Rows that were shown in up to `SAMPLES` steps, spread over the run."""
    answered = [f for f in facts if f.votes]
    if not answered:
        return
    stands = withdrawals.left(ledger)
    names = {"plus": "the first", "minus": "the second", "tie": "neither"}
    last = len(answered) - 1
    for i in sorted({round(j * last / (SAMPLES - 1)) for j in range(SAMPLES)}):
        step = answered[i].step
        votes = [v for v in counting.counted(ledger, step) if stands(v.panelist, step)]
        if not votes:
            continue
        voted = {vote.comparison for vote in votes}
        comparison = next(c for c in ledger.comparisons(step) if c.id in voted)
        row = next((row for row in comparison.rows if not row.identical), comparison.rows[0])
        tally = Counter(vote.verdict for vote in votes if vote.comparison == comparison.id)
        plus, minus = tally["plus"], tally["minus"]
        parts = [f"{n} for {names[side]}" for side, n in tally.items()]
        of = f"one of {len(comparison.rows)} rows; " if len(comparison.rows) > 1 else ""
        yield {
            "step": step,
            "prompt": visible(row.prompt.text),
            "plus": visible(row.plus.text),
            "minus": visible(row.minus.text),
            "won": None if plus == minus else "plus" if plus > minus else "minus",
            "votes": f"{of}votes: {', '.join(parts)}",
        }


def _panelists(ledger: Ledger, *, live: bool) -> Iterator[dict[str, str]]:
    """The panelists' figures as on the operator's page, with the weight of their next vote."""
    known = "rule" in ledger.spec.get("optimizer", {})
    weighed = {each.name: each for each in agreement.voters(ledger)} if known else {}
    for row in agreement.panelists(vote_rows.read_evidence(ledger, live=live)):
        voter = weighed.get(row["name"])
        yield {
            "name": visible(row["name"]),
            "kind": row["kind"],
            "votes": str(row["votes"]),
            "a_share": _percent(row["a_side"]),
            "ties": f"{row['ties'].hits:.0f}",
            "skips": f"{row['skips'].hits:.0f}",
            "late": str(row["late"]),
            "agreement": _percent(row["rest"]),
            "weight": f"{voter.in_use:.2f}" if voter else "–",
        }


def _percent(share: Share) -> str:
    return "–" if share.value is None else f"{share.value:.0%}"


def _flatten_spec(spec: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The spec as sections of texts; long values are cut."""
    recorded = [(name, value) for name, value in spec.items() if name != "config"]
    sections: dict[str, dict[str, str]] = {}
    for name, value in [*spec.get("config", {}).items(), *recorded]:
        if isinstance(value, Mapping):
            sections.setdefault(name, {}).update({k: _short(item) for k, item in value.items()})
        else:
            sections.setdefault("record", {})[name] = _short(value)
    return sections


def _list_changes(recorded: Mapping[str, Any]) -> list[dict[str, str]]:
    """The recorded settings that differ from their defaults, in the order of the settings file."""
    return [
        {"key": f"{section}.{key}", "value": _short(values[key]), "default": _short(default)}
        for section, defaults in Config().model_dump(mode="json").items()
        if isinstance(values := recorded.get(section), Mapping)
        for key, default in defaults.items()
        if key in values and values[key] != default
    ]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return visible(text if len(text) <= 400 else f"{text[:400]} …")
