"""Label Studio's page and tasks: people order the answers to a prompt by dragging.

An order of n answers gives n(n − 1)/2 pairs. Tasks contain everything that reading them back
needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from szpo import seeds
from szpo.data import text_files
from szpo.data.preference_formats import Preferences, make_pairs, read_prompt, require_text
from szpo.errors import UsageError
from szpo.types import Prompt

RANK, LISTED = "rank", "response_choices"
"""Names of the ranker and its list in the template."""
PAIRWISE: Final = (("answer1", "answer2"), ("text1", "text2"), ("a", "b"), ("left", "right"))
"""Names under which tasks for Label Studio's own pairwise templates have their two texts."""
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
  <List name="{LISTED}" value="$items" title="Drag the best answer to the top"/>
  <Ranker name="{RANK}" toName="{LISTED}"/>
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
    """Read the pairs of one exported task, from every annotation that was not cancelled.

    An annotation ranks the items, or selects one of two texts (the pairwise template). The task is
    one of a JSON export, or of JSON_MIN, where it is an annotation itself. An unreadable
    annotation beside readable ones is named in `Preferences.bad`.
    """
    whole = "data" in record
    data = record["data"] if whole else record
    annotations = record.get("annotations") if whole else [record]
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise UsageError(f"{where}: needs data and annotations; export the project as JSON")
    prompt = read_prompt(data, where)
    orders: list[list[str]] = []
    bad: list[str] = []
    for number, annotation in enumerate(annotations, start=1):
        place = f"{where}: annotation {number}" if whole else where
        if isinstance(annotation, dict) and annotation.get("was_cancelled"):
            continue
        try:
            orders.append(_ordered_texts(annotation, data, place))
        except UsageError as error:
            bad.append(str(error))
    if bad and not orders:
        raise UsageError(bad[0])
    rankings = [make_pairs(prompt, texts, range(len(texts)), "ranking") for texts in orders]
    pairs = tuple(pair for each in rankings for pair in each.pairs)
    return Preferences(pairs, sum(each.ties for each in rankings), bad=tuple(bad))


def count_cancelled(record: Any) -> int:
    """How many annotations of a record, if it has any, `read_pairs` leaves out."""
    annotations = record.get("annotations", [record]) if isinstance(record, dict) else ()
    listed = annotations if isinstance(annotations, list) else ()
    return sum(isinstance(each, dict) and bool(each.get("was_cancelled")) for each in listed)


def _ordered_texts(annotation: Any, data: dict[str, Any], where: str) -> list[str]:
    """The answers of an annotated task, best first."""
    if not isinstance(annotation, dict):
        raise UsageError(f"{where} must be an object")
    results = annotation.get("result", list(annotation.values()))  # of JSON_MIN: under tags' names
    flat = [part for value in _listed(results) for part in _listed(value)]
    values = [part.get("value", part) for part in flat if isinstance(part, dict)]
    verdicts = [v for v in values if isinstance(v, dict) and ("ranker" in v or "selected" in v)]
    if len(verdicts) != 1:
        raise UsageError(f"{where}: {len(verdicts)} rankings or choices; there must be one")
    if "ranker" in verdicts[0]:
        texts = _items(data, where)
        return [texts[name] for name in _order(verdicts[0]["ranker"], texts, where)]
    two = _two_texts(data, where)
    side = verdicts[0]["selected"]
    if side not in ("left", "right"):
        raise UsageError(f"{where}: selected is {side!r}; it must be left or right")
    return two if side == "left" else two[::-1]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _two_texts(data: dict[str, Any], where: str) -> list[str]:
    """The left and the right text of a task for the pairwise template."""
    for names in PAIRWISE:
        if all(name in data for name in names):
            return [require_text(data[name], f"{where}: {name}") for name in names]
    wanted = " or ".join(" and ".join(names) for names in PAIRWISE)
    raise UsageError(f"{where}: needs {wanted} (found: {text_files.list_keys(data)})")


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
            item.get("body"), f"{where}: item {item['id']}: body", blank=True
        )
    if len(texts) < len(listed):
        raise UsageError(f"{where}: two items have the same id")
    return texts


def _order(rank: Any, texts: dict[str, str], where: str) -> list[str]:
    """The ids of a ranking, best first; they are a list, or the only list in an object."""
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
