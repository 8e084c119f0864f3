"""Label Studio's ranker: write its labelling page and tasks, read its rankings.

People order the answers to a prompt by dragging; an order of n answers gives n(n − 1)/2 pairs.
Tasks contain everything that reading them back needs, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from szpo import seeds
from szpo.data.pairs import Pair, Preferences, make_pairs, make_prompt, require_text
from szpo.data.prompts import conversation
from szpo.errors import UsageError
from szpo.types import Prompt

RANK, CHOICES = "rank", "response_choices"
"""Names of the ranker and its list in the template."""

TEMPLATE = f"""<View>
  <Style>
    .htx-ranker-item {{
      background-color: #f8f8f8;
      border-radius: 10px;
      box-shadow: 0 5px 15px rgba(0, 0, 0, .1);
      color: #333;
      padding: 20px;
      transition: transform .2s;
    }}
    .htx-ranker-item:hover {{ transform: scale(1.01); }}
  </Style>
  <Text name="prompt" value="$prompt"/>
  <List name="{CHOICES}" value="$items" title="Drag the best answer to the top"/>
  <Ranker name="{RANK}" toName="{CHOICES}"/>
</View>
"""
"""The labelling configuration for a project's settings."""


def make_task(prompt: Prompt, answers: Sequence[str], *, key: bytes) -> dict[str, Any]:
    """Make a task for import; answers are in an order drawn from ``key``, origins left out."""
    if len(set(answers)) < 2 or len(set(answers)) < len(answers):
        raise UsageError(
            f'"{prompt.text[:40]}": a ranking needs at least two answers, all different'
        )
    order = seeds.permutation(key, len(answers)).tolist()
    items = [
        {"id": str(place), "title": f"Answer {shown}", "body": answers[place]}
        for shown, place in enumerate(order, start=1)
    ]
    turns = [{"role": role, "content": words} for role, words in prompt.turns]
    shown = prompt.text  # the only turn; below, all turns with speakers
    if len(turns) > 1:
        shown = "\n\n".join(f"{role}: {words}" for role, words in prompt.turns)
    return {"data": {"prompt": shown, "items": items, "messages": turns}}


def read_pairs(record: dict[str, Any], where: str) -> Preferences:
    """Read the pairs of one exported task, from every ranking that was not cancelled."""
    data, annotations = record.get("data"), record.get("annotations")
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise UsageError(f"{where}: needs data and annotations; export the project as JSON")
    texts = _items(data, where)
    prompt = _prompt(data, where)
    pairs: list[Pair] = []
    ties = 0
    for number, annotation in enumerate(annotations, start=1):
        place = f"{where}: annotation {number}"
        if not isinstance(annotation, dict):
            raise UsageError(f"{place} must be an object")
        if annotation.get("was_cancelled"):
            continue
        order = _order(annotation, texts, place)
        one = make_pairs(prompt, [texts[name] for name in order], range(len(order)), "ranking")
        pairs += one.pairs
        ties += one.ties
    return Preferences(tuple(pairs), ties)


def _prompt(data: dict[str, Any], where: str) -> Prompt:
    """The turns that `make_task` wrote; a task of another tool has only the text."""
    if isinstance(data.get("messages"), list):
        return make_prompt(conversation(data["messages"], where))
    return make_prompt((("user", require_text(data.get("prompt"), f"{where}: prompt")),))


def _items(data: dict[str, Any], where: str) -> dict[str, str]:
    """The items' texts by id."""
    listed = data.get("items")
    if not isinstance(listed, list):
        raise UsageError(f"{where}: data needs items, a list of id, title and body")
    texts: dict[str, str] = {}
    for item in listed:
        if not isinstance(item, dict) or "id" not in item:
            raise UsageError(f"{where}: an item has no id")
        texts[str(item["id"])] = require_text(
            item.get("body"), f"{where}: item {item['id']}: body"
        )
    if len(texts) < len(listed):
        raise UsageError(f"{where}: two items have the same id")
    return texts


def _order(annotation: dict[str, Any], texts: dict[str, str], where: str) -> list[str]:
    """The ids of a ranking, best first; they are a list, or the only list in an object."""
    results = annotation.get("result")
    ranks = [
        part["value"]["ranker"]
        for part in (results if isinstance(results, list) else [])
        if isinstance(part, dict) and part.get("type") == "ranker"
        if isinstance(part.get("value"), dict) and "ranker" in part["value"]
    ]
    if len(ranks) != 1:
        raise UsageError(f"{where}: {len(ranks)} rankings; there must be one")
    rank = ranks[0]
    if isinstance(rank, dict):
        if len(rank) != 1:
            raise UsageError(f"{where}: sorted into {len(rank)} buckets; only a single order fits")
        (rank,) = rank.values()
    if not isinstance(rank, list):
        raise UsageError(f"{where}: a ranking must be a list of ids")
    order = [str(name) for name in rank]
    if sorted(order) != sorted(texts):
        raise UsageError(f"{where}: ranks {sorted(order)}, but the items are {sorted(texts)}")
    return order
