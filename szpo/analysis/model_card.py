"""The card of an exported adapter: its origin, how to load and verify it, its limits."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

from szpo import __version__
from szpo.analysis import improvement, taught_taste
from szpo.analysis.exported_weights import LAST, Weights, find_doubt
from szpo.analysis.html_report import when
from szpo.analysis.improvement import Improvement
from szpo.ledger.database import Ledger
from szpo.ledger.theta import ADOPTED
from szpo.models.lora import HUB_NAMES, hub_name
from szpo.policies import subspaces
from szpo.runs import budget, status
from szpo.runs.status import Run
from szpo.types import sides
from szpo.visible_text import visible

FETCHED = ("smollm2", "tiny")
"""Base models that szpo itself makes in its cache."""
_TEMPLATE: Final = resources.files("szpo") / "analysis/templates/model_card.md.jinja"
_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")


def _base_id(ledger: Ledger) -> str | None:
    """The name of a run's base model on the hub; None for a folder or a model made by szpo."""
    base = ledger.spec["base"]["name"]
    known = HUB_NAMES.get(base) or hub_name(base)
    if known is not None:
        return known
    is_id = _HUB_ID.fullmatch(base) and not base.startswith(".") and not Path(base).exists()
    return base if is_id else None


def model_card(ledger: Ledger, weights: Weights = LAST) -> str:
    """The README of an exported adapter: data, votes, guards, result, how to load and verify it.

    It is made from the record alone: the same ledger gives the same text.
    """
    from huggingface_hub import ModelCard, ModelCardData

    total, group = status.read_results(ledger), weights.group
    folded = [f for f in total.table if f.state == "applied"]
    minutes = sum(f.words_read for f in folded) / budget.WORDS_PER_MINUTE
    config, known = ledger.spec.get("config", {}), _base_id(ledger)
    found, digest = taught_taste.last_findings(ledger), weights.digest(ledger)
    tells = group is None and found is not None and found.shown and found.mix
    improved = _improved(ledger, digest)
    held, won = weights.measured(ledger, digest), improvement.read(ledger)
    whole = group is None and weights.scale == 1
    share, ends = won.share, [point.steps for point in won.points][-1:]
    interval = ""
    if whole and share and share.value is not None and ends in ([], [len(folded)]):
        interval = f"{share.low:.3f} to {share.high:.3f}"
    fetched = total.model in FETCHED
    front = ModelCardData(
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["szpo", "lora", "preference"],
        base_model=known,
        base_model_relation=known and "adapter",
        **_results(won, total.name, interval),
    )
    card = ModelCard.from_template(
        front,
        template_str=_TEMPLATE.read_text("utf-8"),
        total=total,
        folded=folded,
        weights=weights,
        group=group,
        known=known,
        # A published card must not show a local path.
        base=visible(total.model if fetched else known or Path(total.model).name),
        fetched=fetched,
        place=json.dumps(known if known and not fetched else "path/to/base"),
        voters=describe_voters(ledger, total),
        read=budget.describe_read(sum(f.answers_read for f in folded), minutes),
        begun=when(total.created_us),
        taught=visible(taught_taste.words(found)) if found is not None and tells else "",
        liked=improved and taught_taste.recorded_taste(ledger, improved),
        again=improved is None or bool(improved.get("mix")),
        mix=improved is not None and bool(improved.get("mix")),
        doubt=find_doubt(ledger, won, weights),
        row=ledger.row,
        digest=digest,
        version=__version__,
        prompts=ledger.spec.get("prompts", {}),
        asked=ledger.spec.get("optimizer", {}),
        generation=config.get("generation", {}),
        kl=_kl(ledger, weights, won, len(folded), total),
        begins=visible(Path(config.get("model", {}).get("adapter") or "").name),
        mixed=_mixed(ledger, weights),
        won=won if interval else None,
        interval=interval,
        held=held if held is not None and held.guards else None,
        options=_options(weights),
        visible=visible,
        sides=sides,
    )
    return f"{card}\n"


def _improved(ledger: Ledger, digest: str) -> dict[str, Any] | None:
    """How weights of this digest were improved; None where they were not."""
    bodies = (event["body"] for event in ledger.events(ADOPTED))
    return next((body for body in bodies if body["theta_sha256"] == digest), None)


def _results(won: Improvement, name: str, interval: str) -> dict[str, Any]:
    """The result on held-out prompts as metadata for the hub; empty without an interval."""
    from huggingface_hub import EvalResult

    if not interval or won.share is None:
        return {}
    said = f"{won.pairs} won against the base, 95 % interval {interval}"
    result = EvalResult(
        task_type="text-generation",
        dataset_type="held-out-prompts",
        dataset_name="the run's held-out prompts",
        metric_type="win_rate",
        metric_name=said,
        metric_value=round(won.share.value or 0.0, 4),
    )
    return {"model_name": name, "eval_results": [result]}


def count_voters(ledger: Ledger) -> tuple[int, int]:
    """How many people voted, and how many programs: a run for people takes votes of both."""
    rows = ledger.query(
        "SELECT DISTINCT panelist, kind FROM votes JOIN assignments USING (assignment) "
        "JOIN panelists USING (panelist)"
    )
    people = sum(row["kind"] == "person" for row in rows)
    return people, len(rows) - people


def describe_voters(ledger: Ledger, total: Run) -> str:
    """Describe who voted, as part of a sentence."""
    kind = ledger.spec.get("config", {}).get("panel", {}).get("kind")
    if kind == "people":
        people, programs = count_voters(ledger)
        made = f"{programs} program{'s' * (programs != 1)}"
        if programs and not people:
            return f"{made}; no person judged these answers"
        cast = "1 person" if people == 1 else f"{people} people"
        return f"{cast} and {made}" if programs else cast
    if "raters" in (ledger.spec.get("panel") or {}):
        return f"a simulated panel ({total.panel}); no person judged these answers"
    if kind == "judge":
        return f"a language model as a {total.panel}; no person judged these answers"
    if kind == "function":
        return f"the {total.panel}, a program; no person judged these answers"
    return f"{total.panelists} panelists of the evaluator {total.panel}"


def _kl(ledger: Ledger, weights: Weights, helped: Improvement, steps: int, total: Run) -> str:
    if weights.kl is not None:
        return f"{weights.kl:.2f} nats, measured at this export"
    if helped.kl_measured and [point.steps for point in helped.points][-1:] == [steps]:
        return f"{helped.nats}, measured on held-out prompts"
    kl = status.kl_after(ledger, steps) if helped.kl_measured else helped.kl
    return "" if kl is None else f"≈ {kl:.1f} nats, as the run noted it"


def _mixed(ledger: Ledger, weights: Weights) -> list[tuple[str, ...]]:
    """Of each adapter that this mixes: name, weight, source, licence and digest."""
    sources = ledger.spec.get("space", {}).get("sources", ())
    if not sources:
        return []
    blocks, theta = subspaces.read_recorded(ledger).blocks, weights.theta(ledger)
    mixed = blocks.weights(theta["z"]).tolist() if blocks and "z" in theta else None
    given = ["improved further"] * len(sources) if mixed is None else [f"{w:+.3g}" for w in mixed]
    return [
        (
            visible(each["name"]),
            weight,
            _source(each),
            visible(each.get("license") or "not named"),
            each["sha256"][:16],
        )
        for each, weight in zip(sources, given, strict=True)
    ]


def _source(facts: Mapping[str, Any]) -> str:
    """Where an adapter is from; of a folder only the last part, since a card may be published."""
    place = str(facts["source"])
    return visible(place if facts.get("revision") else Path(place).name)


def _options(weights: Weights) -> str:
    """Options of `szpo export` that make these weights; "" if `szpo verify` does."""
    scale = "" if weights.scale == 1 else f" --scale {weights.scale:g}"
    if (group := weights.group) is None:
        return scale
    return f" --cluster {group.number} --features {shlex.quote(group.features)}{scale}"
