"""Write questions into files for people to fill in, and read the answers back.

.jsonl and .csv hold a line per question with an empty ``choice``, which people fill in. .json
holds Label Studio tasks (ranker of two items), and its export holds the answers.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from szpo.analysis.rounds import Question, Reply, prompt_of
from szpo.data import label_studio, preference_files, sheets, spreadsheets, text_files, trl
from szpo.errors import UsageError
from szpo.files import replace_whole

HEAD = ("id", "prompt", "a", "b", "choice", "by", "gain")
"""Columns of a sheet; `trl.MESSAGES` is added where a prompt has several turns."""


def write(questions: Sequence[Question], path: Path) -> None:
    """Write a round's questions; an older file is replaced only once the new one is complete."""
    kind = path.suffix.lower()
    if kind == ".jsonl":
        text = "".join(json.dumps(_row(q), ensure_ascii=False) + "\n" for q in questions)
    elif kind == ".csv":
        file = io.StringIO(newline="")
        rows = [_row(q) for q in questions]
        names = [*HEAD, *[trl.MESSAGES] * any(trl.MESSAGES in row for row in rows)]
        for row in rows:
            turns = row.get(trl.MESSAGES)
            row[trl.MESSAGES] = json.dumps(turns, ensure_ascii=False) if turns else ""
        spreadsheets.write(file, names, rows)
        text = file.getvalue()
    elif kind == ".json":
        text = json.dumps([_task(q) for q in questions], ensure_ascii=False, indent=1)
    else:
        raise UsageError(f"{path.name}: questions are written as .jsonl, .csv or .json")
    with replace_whole(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="")


def read(path: Path) -> Iterator[Reply]:
    """Read answers from a filled-in sheet or Label Studio's export; empty choices are skipped."""
    for where, record in preference_files.read_records(path):
        text_files.require_object(record, where, "an answer")
        if isinstance(record.get("data"), dict):
            yield from _read_rankings(record, where)
            continue
        if record.get("id") in (None, ""):
            raise UsageError(f"{where}: needs id, that of the question")
        if choice := sheets.read_choice(record):
            yield Reply(str(record["id"]), choice, str(record.get("by") or "").strip())


def _row(question: Question) -> dict[str, Any]:
    return {
        "id": question.id,
        "prompt": prompt_of(question).text,
        "a": question.a,
        "b": question.b,
        "choice": "",
        "by": "",
        "gain": round(question.gain, 6),
        **({trl.MESSAGES: _turns(question)} if len(question.prompt) > 1 else {}),
    }


def _turns(question: Question) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in question.prompt]


def _task(question: Question) -> dict[str, Any]:
    items = [
        {"id": side, "title": f"Answer {side.upper()}", "body": text}
        for side, text in (("a", question.a), ("b", question.b))
    ]
    data = {"pair": question.id, "prompt": prompt_of(question).text, "items": items}
    return {"data": {**data, "messages": _turns(question)}}


def _read_rankings(record: dict[str, Any], where: str) -> Iterator[Reply]:
    data, annotations = record["data"], record.get("annotations")
    if not isinstance(data.get("pair"), str):
        raise UsageError(f"{where}: data has no pair; is this an export of szpo select's tasks?")
    for number, annotation in enumerate(annotations if isinstance(annotations, list) else [], 1):
        if isinstance(annotation, dict) and annotation.get("result") == []:  # nobody answered
            continue
        found = label_studio.read_pairs({**record, "annotations": [annotation]}, where)
        by = str(annotation.get("completed_by", number))
        for pair in found.pairs:
            bodies = {str(item["id"]): item["body"] for item in data["items"]}
            yield Reply(data["pair"], "A" if pair.chosen.text == bodies.get("a") else "B", by)
