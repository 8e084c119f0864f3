"""Prompts and preferences as other projects write them: read as meant, or refused by line."""

import csv
import io
import json
import logging
import time
import unicodedata

import numpy as np
import pytest

from szpo.data import messages, preference_files, prompts
from szpo.errors import UsageError
from szpo.types import Prompt
from szpo.visible_text import is_blank, visible
from tests.support.cases import case

ASKED = {"role": "user", "content": "It's raining?"}
YES, NO = ({"role": "assistant", "content": text} for text in ("Yes.", "No."))
RAIN, ANSWERS = Prompt.user("It's raining?"), [("Yes.", "No.")]


def jsonl(folder, *records):
    path = folder / "other.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def table(folder, record):
    path, text = folder / "other.csv", io.StringIO(newline="")
    rows = csv.DictWriter(text, list(record))
    rows.writeheader()
    rows.writerow(record)
    path.write_text(text.getvalue(), "utf-8")
    return path


def refusal(read, path):
    with pytest.raises(UsageError) as caught:
        read(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    return str(caught.value)


def read_texts(path):
    found = preference_files.read(path)
    return found.pairs[0].prompt, [(pair.chosen.text, pair.rejected.text) for pair in found.pairs]


def test_cells_that_hold_messages_as_json_are_read_as_messages(tmp_path):
    cells = {
        n: json.dumps(v) for n, v in (("prompt", [ASKED]), ("chosen", [YES]), ("rejected", NO))
    }
    for path in (table(tmp_path, cells), jsonl(tmp_path, cells)):
        assert read_texts(path) == (RAIN, ANSWERS)
    answers = {"id": "1", "prompt": cells["prompt"], "choice": "B"}
    sheet = table(tmp_path, {**answers, "a": cells["rejected"], "b": cells["chosen"]})
    assert read_texts(sheet) == (RAIN, ANSWERS)
    for name in ("prompt", "messages", "text"):
        asked = {name: json.dumps([ASKED])}
        for path in (table(tmp_path, asked), jsonl(tmp_path, asked)):
            assert prompts.load(path).train == (RAIN,)
    plain = {"prompt": '[1, 2] and {"from": "Rome"}', "chosen": '{"role": 1}', "rejected": "[]"}
    found = Prompt.user(plain["prompt"]), [(plain["chosen"], plain["rejected"])]
    assert read_texts(table(tmp_path, plain)) == found


@pytest.mark.parametrize(
    "printed",
    [
        lambda messages: str(messages),
        lambda messages: str(np.array(messages, dtype=object)),
        lambda messages: repr(np.array(messages, dtype=object)),
        lambda messages: str(messages[-1]),
    ],
)
def test_messages_as_python_prints_them_are_refused_by_their_line(tmp_path, printed):
    words = "holds messages as Python prints them"
    asked = {"prompt": printed([ASKED, YES, ASKED])}
    assert words in refusal(prompts.load, table(tmp_path, asked))
    answers = {"prompt": "Rain?", "chosen": printed([YES]), "rejected": printed([NO])}
    assert words in refusal(preference_files.read, table(tmp_path, answers))
    sheet = {"prompt": "Rain?", "a": printed([YES]), "b": "No.", "choice": "A"}
    assert words in refusal(preference_files.read, table(tmp_path, sheet))
    rated = [{"response": printed([YES]), "score": 2}, {"response": "No.", "score": 1}]
    path = jsonl(tmp_path, {"prompt": "Rain?", "completions": rated})
    assert words in refusal(lambda p: preference_files.read(p, "ultrafeedback"), path)


@pytest.mark.parametrize("text", ["{'role': }" * 9000 + "x", "[{'" * 9000 + "}]", "[" * 30_000])
def test_no_text_takes_long_to_be_told_from_messages(text):
    began = time.process_time()
    assert messages.unpack(text, "line 1") == text
    assert time.process_time() - began < 1


def test_parts_of_a_message_that_are_not_read_are_refused_never_dropped(tmp_path):
    parts = {
        "reasoning_content": "Sun?", "reasoning": "Sun?", "thinking": "Sun?",
        "tool_calls": [{"function": {"name": "look"}}], "function_call": {"name": "look"},
    }  # fmt: skip
    for key, part in parts.items():
        with case(key):
            record = {"prompt": [ASKED], "chosen": [{**YES, key: part}], "rejected": [NO]}
            words = refusal(preference_files.read, jsonl(tmp_path, record))
            assert f":1: chosen: {key} is not read" in words or f"chosen: {key} is" in words
            turns = [ASKED, {**YES, key: part}, ASKED]
            path = jsonl(tmp_path, {"messages": turns})
            assert f"message 2: {key} is not read" in refusal(prompts.load, path)
    harmless = {**YES, "tool_calls": None, "reasoning_content": "", "weight": 1}
    record = {"prompt": [ASKED], "chosen": [harmless], "rejected": [NO]}
    assert read_texts(jsonl(tmp_path, record)) == (RAIN, ANSWERS)


def sharegpt(message):
    names = {"user": "human", "assistant": "gpt"}
    return {"from": names[message["role"]], "value": message["content"]}


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": [{**ASKED, "role": "User"}], "chosen": [{**YES, "role": "Assistant"}],
         "rejected": [NO]},
        {"prompt": [{**ASKED, "role": "Human"}], "chosen": [YES], "rejected": [NO]},
        {"prompt": [{**ASKED, "content": parts("It's ", "raining?")}],
         "chosen": [{**YES, "content": parts("Yes.")}], "rejected": [NO]},
        {"conversations": [sharegpt(ASKED)], "chosen": sharegpt(YES), "rejected": sharegpt(NO)},
        {"instruction": ASKED["content"], "input": "", "chosen": "Yes.", "rejected": "No."},
        {"question": ASKED["content"], "system": "", "chosen": "Yes.", "rejected": "No."},
        {"prompt": "\n\nHuman: It's raining?\n\nAssistant:", "chosen": "Yes.", "rejected": "No."},
    ],
)  # fmt: skip
def test_forms_of_public_preference_files_are_read(tmp_path, record):
    assert read_texts(jsonl(tmp_path, record)) == (RAIN, ANSWERS)


def test_what_is_missing_or_no_text_is_named(tmp_path):
    record = {"query": "Rain?", "chosen": "Yes.", "rejected": "No."}
    words = refusal(preference_files.read, jsonl(tmp_path, record))
    assert "no prompt" in words and "(found: query, chosen, rejected)" in words
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    assert "list of parts that are text" in refusal(
        prompts.load, jsonl(tmp_path, {"prompt": picture})
    )


def test_a_prompt_in_the_marks_of_hh_is_read_as_turns_and_a_templates_marks_are_told(
    tmp_path, caplog
):
    spoken = "\n\nHuman: Hello?\n\nAssistant: Hi.\n\nHuman: It's raining?\n\nAssistant: "
    turns = (("user", "Hello?"), ("assistant", "Hi."), *RAIN.turns)
    assert prompts.load(jsonl(tmp_path, {"prompt": spoken})).train == (Prompt(turns),)
    assert prompts.load(jsonl(tmp_path, {"prompt": "Human: Hi"})).train == (
        Prompt.user("Human: Hi"),
    )
    baked = "<|im_start|>user\nIt's raining?<|im_end|>\n<|im_start|>assistant\n"
    records = [{"prompt": baked, "chosen": "Yes.", "rejected": "No."}] * 2
    with caplog.at_level(logging.WARNING, "szpo"):
        preference_files.read(jsonl(tmp_path, *records))
    assert "2 prompts with control words of chat models" in caplog.text


def test_answers_that_repeat_the_dialogue_are_read_as_what_comes_after_it(tmp_path):
    asked = "\n\nHuman: It's raining?\n\nAssistant:"
    record = {"prompt": asked, "chosen": f"{asked} Yes.", "rejected": f"{asked[2:]} No."}
    assert read_texts(jsonl(tmp_path, record)) == (RAIN, ANSWERS)
    other = {**record, "chosen": "\n\nHuman: Why?\n\nAssistant: Yes."}
    words = refusal(preference_files.read, jsonl(tmp_path, other))
    assert "chosen: the turns before the answer are not the record's prompt" in words
    spoken = {"prompt": "It's raining?", "chosen": "Human: Yes.", "rejected": "No."}
    assert read_texts(jsonl(tmp_path, spoken)) == (RAIN, [("Human: Yes.", "No.")])


def test_whole_texts_and_a_templates_marks_in_answers_are_told_with_a_count(tmp_path, caplog):
    asked = "It's raining?"
    whole = {"prompt": asked, "chosen": f"{asked} Yes.", "rejected": f"{asked} No."}
    baked = {"prompt": asked, "chosen": "Yes.</s>", "rejected": "No.<|eot_id|>"}
    plain = {"prompt": asked, "chosen": f"{asked} Yes.", "rejected": "No."}
    with caplog.at_level(logging.WARNING, "szpo"):
        preference_files.read(jsonl(tmp_path, whole, whole, baked, plain))
    told = "\n".join(record.message for record in caplog.records)
    assert "2 pairs whose answers both begin with the prompt" in told
    assert "1 pairs with such words in an answer" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("### Human: Sing.### Assistant: La", True),
        ("Below is a task.\n\n### Instruction:\nSing.\n\n### Response:\nLa", True),
        ("Human: Sing.\nAssistant: La", True),
        ("### Instruction:\nSing.\n\n### Response:", False),
        ("Write a talk of a teacher and an assistant: be short.", False),
    ],
)
def test_prompts_that_hold_an_answer_are_told(text, told, tmp_path):
    found = prompts.load(jsonl(tmp_path, {"text": text}, {"text": "Why?"}))
    assert any("hold an answer too" in each for each in found.warnings) == told


def test_a_blank_system_prompt_is_none(tmp_path):
    for said in ("", " ", None):
        turns = [{"role": "system", "content": said}, ASKED]
        assert prompts.load(jsonl(tmp_path, {"messages": turns})).train == (RAIN,)
        record = {"prompt": turns, "chosen": [*turns, YES], "rejected": [NO]}
        assert read_texts(jsonl(tmp_path, record)) == (RAIN, ANSWERS)


@pytest.mark.parametrize("name", ["validation", "val", "dev", "Eval", "test"])
def test_other_names_of_held_out_prompts_are_known(name, tmp_path):
    rows = {"text": "Why?", "split": "train"}, {"text": "Who?", "split": name}
    assert prompts.load(jsonl(tmp_path, *rows)).heldout == (Prompt.user("Who?"),)


@pytest.mark.parametrize("label", [False, 0, "-1", -1, "false"])
def test_what_is_labelled_bad_is_no_example(label, tmp_path):
    record = {"prompt": "It's raining?", "completion": "No.", "label": label}
    assert "is no good one" in refusal(preference_files.read_examples, jsonl(tmp_path, record))
    good = jsonl(tmp_path, {**record, "label": True})
    assert preference_files.read_examples(good)[0][1].text == "No."


def test_a_held_out_prompt_that_is_trained_on_is_not_held_out(tmp_path):
    rows = [("Why?", "train"), ("Why?", "heldout"), ("Who?", "heldout"), ("What?", "train")]
    found = prompts.load(jsonl(tmp_path, *({"text": t, "split": s} for t, s in rows)))
    assert found.heldout == (Prompt.user("Who?"),) and len(found.train) == 2
    assert found.warnings == ("1 held-out prompts stand in training too (not held out)",)
    alone = prompts.load(jsonl(tmp_path, *({"text": t, "split": s} for t, s in rows[:2])))
    assert not alone.heldout and "nothing is measured" in alone.warnings[-1]


def test_a_split_that_holds_nothing_out_is_told_unless_nothing_should_be(tmp_path):
    path = jsonl(tmp_path, *({"text": text, "split": "train"} for text in ("Why?", "Who?")))
    assert "no prompt is held out, so nothing is measured" in prompts.load(path).warnings[0]
    assert prompts.load(path, heldout=0).warnings == ()


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [
        ({"score_chosen": 5, "score_rejected": 3}, "pair"),
        ({"score_chosen": 3, "score_rejected": 3}, "tie"),
        ({"score_chosen": 3, "score_rejected": 5}, "prefer the rejected"),
        ({"chosen-rating": "1.5", "rejected-rating": "2"}, "prefer the rejected"),
        ({"reward_chosen": -2.0, "reward_rejected": -1.0}, "prefer the rejected"),
        ({"margin": -2}, "prefer the rejected"),
        ({"margin": 0}, "tie"),
        ({"margin": 0.5, "label": 1}, "pair"),
        ({"label": 0}, "label 0"),
        ({"label": False}, "label False"),
        ({"chosen_tokens": 3, "rejected_tokens": 9, "score_chosen": None}, "pair"),
    ],
)
def test_a_pairs_own_scores_are_heeded(tmp_path, scores, wanted):
    record = {"prompt": "It's raining?", "chosen": "Yes.", "rejected": "No.", **scores}
    path = jsonl(tmp_path, record)
    if wanted in ("pair", "tie"):
        found = preference_files.read(path)
        assert (len(found.pairs), found.ties) == ((1, 0) if wanted == "pair" else (0, 1))
    else:
        assert wanted in refusal(preference_files.read, path)


def test_two_columns_that_may_hold_the_prompt_are_not_chosen_between(tmp_path):
    both = {"text": "### It's raining? ### Yes.", "prompt": "It's raining?"}
    for path in (table(tmp_path, both), jsonl(tmp_path, both)):
        words = refusal(prompts.load, path)
        assert "has text and prompt; leave one of them out" in words
    assert prompts.load(table(tmp_path, {**both, "text": ""})).train == (RAIN,)


SEEN = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
"""Format characters that are drawn, as frames of a number."""


def test_no_character_that_is_drawn_as_nothing_passes_for_a_text():
    unseen = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) == "Cf"]
    unseen = [c for c in unseen if c not in SEEN] + ["\U0001d159", "\U00016fe4", "\u3164"]
    assert [hex(ord(c)) for c in unseen if not is_blank(c)] == []
    assert visible("a\U0001bca0b\U0001d159") == "a⟨1BCA0⟩b⟨1D159⟩"
