"""Votes as data: what each format's records become, and what is refused in which words."""

import csv
import gzip
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo import seeds
from szpo.analysis import question_rounds
from szpo.data import (
    csv_tables,
    label_studio,
    messages,
    preference_files,
    preference_formats,
    prompts,
)
from szpo.data.preference_formats import Pair, order_by_rank
from szpo.errors import StorageError, UsageError
from szpo.types import Answer, Prompt
from szpo.visible_text import is_blank
from tests.support.cases import case

CHAT = "\n\nHuman: Hello?\n\nAssistant: Hi.\n\nHuman: A joke?\n\nAssistant:"
TURNS = (("user", "Hello?"), ("assistant", "Hi."), ("user", "A joke?"))
OTHER = "\n\nHuman: x\n\nAssistant:"


def file(tmp_path, records, name="votes.jsonl"):
    path = tmp_path / name
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in records)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def refusal(*arguments, **options):
    with pytest.raises(UsageError) as caught:
        preference_files.read(*arguments, **options)
    return str(caught.value)


def texts(found):
    return [(pair.chosen.text, pair.rejected.text) for pair in found.pairs]


def test_rankings_of_n_answers_give_n_choose_2_pairs():
    # The notebook's ranks: the second answer is the best, the first the worst.
    assert order_by_rank([3, 1, 2]) == ((1, 0), (2, 0), (1, 2))
    assert len(order_by_rank([2, 4, 1, 3])) == 6
    assert order_by_rank([1, 1, 2]) == ((0, 2), (1, 2))  # a tie is no pair


def test_hh_records_become_pairs_from_the_last_assistant_on(tmp_path):
    head = "\n\nHuman: a\n\nAssistant:"
    assert preference_formats.split_transcript(f"{head} b") == (head, " b")
    prompt, answer = preference_formats.split_transcript(CHAT + " No.\n\nReally: no.")
    assert (prompt, answer) == (CHAT, " No.\n\nReally: no.")
    assert messages.parse_turns(prompt) == TURNS
    record = {"chosen": CHAT + " Knock, knock.", "rejected": CHAT + " No."}
    for name in ("train.jsonl", "train.jsonl.gz"):
        found = preference_files.read(file(tmp_path, [record, "\n", record], name), "hh")
        assert found.records == 2
        pair = Pair(Prompt(TURNS), Answer("Knock, knock."), Answer("No."), "file")
        assert found.pairs == (pair, pair)
    same = {"chosen": CHAT + " No.", "rejected": CHAT + " No. "}
    found = preference_files.read(file(tmp_path, [same]), "hh")
    assert (found.pairs, found.ties) == ((), 1)
    odd = "\n\nHuman: One.\n\nHuman: Two.\n\nAssistant:\n\nHuman: Three.\n\nAssistant:"
    assert messages.parse_turns(odd) == (("user", "One.\n\nTwo.\n\nThree."),)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"chosen": "Hello", "rejected": CHAT}, 'v.jsonl:2: chosen has no "Assistant:"'),
        ({"chosen": CHAT + " a", "rejected": "Bye"}, 'v.jsonl:2: rejected has no "Assistant:"'),
        ({"chosen": CHAT + " a"}, "v.jsonl:2: needs rejected (found: chosen)"),
        ({"chosen": CHAT, "rejected": 3}, "v.jsonl:2: rejected must be text (got int)"),
        ({"chosen": CHAT + " a", "rejected": f"{OTHER} b"}, "2: chosen and rejected do not"),
        ({"chosen": "\n\nAssistant: a", "rejected": "\n\nAssistant: b"}, "2: the last turn"),
        ({"chosen": "S\n\nAssistant: a", "rejected": "S\n\nAssistant: b"}, "2 begins before"),
        ({"chosen": CHAT + "\0", "rejected": CHAT}, "v.jsonl:2: chosen holds a NUL"),
    ],
)
def test_hh_refusals_name_the_line(tmp_path, record, words):
    good = {"chosen": CHAT + " a", "rejected": CHAT + " b"}
    path = file(tmp_path, [good, record, good], "v.jsonl")
    assert words in refusal(path, "hh")
    found = preference_files.read(path, "hh", skip_bad=True)
    assert (len(found.pairs), found.records) == (2, 3)
    assert words in found.bad[0]


@pytest.mark.full
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
             .filter(lambda text: not is_blank(text)), min_size=1, max_size=5),
    st.sampled_from(["pair", "batch", "note", "ranking", "file", "judge"]),
    st.integers(1, 9),
    st.tuples(*[st.sampled_from(["stop", "length"])] * 2),
)  # fmt: skip
def test_what_is_written_for_trl_reads_the_same(words, source, votes, ends):
    roles = ("user", "assistant")
    words = words if len(words) % 2 else words[1:]
    dialogue = [(roles[i % 2], text) for i, text in enumerate(words)]
    prompt = Prompt((("system", "Be brief."), *(dialogue or [("user", "Hello?")])))
    answers = Answer(words[0], ends[0]), Answer(words[0] + "!", ends[1])
    pair = Pair(prompt, *answers, source, votes)
    record = json.loads(json.dumps(preference_formats.to_trl(pair)))
    assert preference_formats.read_trl(record, "here").pairs == (pair,)


def test_an_answer_of_a_file_that_tells_no_end_ended_itself():
    plain = {"prompt": "?", "chosen": "Yes.", "rejected": "No.", "rejected_end": "a friend's"}
    (pair,) = preference_formats.read_trl(plain, "here").pairs
    assert (pair.chosen.end, pair.rejected.end) == ("stop", "stop")
    ours = {"prompt": "?", "chosen": "", "chosen_end": "stop", "rejected": "b"}  # a model's own
    assert texts(preference_formats.read_trl(ours, "here")) == [("", "b")]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Hello?", "chosen": "Hi.", "rejected": "No."},
        {"prompt": "Hello?", "chosen": ["u", "a"], "rejected": ["u", "b"]},  # binarised
        {"chosen": ["u", "a"], "rejected": ["u", "b"]},  # implicit prompt
        {"prompt": ["u"], "chosen": ["a"], "rejected": ["b"], "source": "flan", "votes": 0},
    ],
)
def test_all_forms_of_the_preference_format_mean_the_same(record):
    says = {"u": ("user", "Hello?"), "a": ("assistant", "Hi."), "b": ("assistant", "No.")}
    full = {
        key: [dict(zip(("role", "content"), says[item], strict=True)) for item in value]
        if isinstance(value, list)
        else value
        for key, value in record.items()
    }
    wanted = Pair(Prompt.user("Hello?"), Answer("Hi."), Answer("No."), "file")
    assert preference_formats.read_trl(full, "here").pairs == (wanted,)


def test_rated_completions_become_all_pairs_that_differ():
    rated = [
        {"response": "Red.", "annotations": {"help": {"Rating": "4"}, "truth": {"Rating": "5"}}},
        {"response": "No.", "annotations": {"help": {"Rating": "1"}, "truth": {"Rating": "N/A"}}},
        {"response": "Blue.", "score": 4.5, "overall_score": 10},
        {"response": "Grey.", "annotations": {"help": {"Rating": 5}, "truth": {"Rating": "N/A"}}},
    ]
    found = preference_formats.read_ultrafeedback(
        {"instruction": "A colour.", "completions": rated}, "here"
    )
    assert texts(found) == [  # 4.5, 1, 4.5 and 5: an aspect without a number counts nothing
        ("Red.", "No."), ("Grey.", "Red."), ("Blue.", "No."), ("Grey.", "No."), ("Grey.", "Blue."),
    ]  # fmt: skip
    assert found.ties == 1
    assert {pair.source for pair in found.pairs} == {"ranking"}


def export_of(task, order, **more):
    result = {"type": "ranker", "from_name": "rank", "value": {"ranker": order}}
    return {**task, "annotations": [{"result": [result], **more}]}


@given(st.permutations(range(3)), st.integers(0, 9), st.booleans())
def test_a_ranking_comes_back_as_its_pairs(best_first, seed, named):
    answers = ["Knock, knock.", "No.", "Why?"]
    task = label_studio.make_task(Prompt(TURNS), answers, key=seeds.derive(seed, "order"))
    assert all(set(item) == {"id", "title", "body"} for item in task["data"]["items"])
    # People see "Answer 1", … in the order drawn, which says nothing of where an answer is from.
    titles = [item["title"] for item in task["data"]["items"]]
    assert titles == ["Answer 1", "Answer 2", "Answer 3"]
    by_text = {item["body"]: item["id"] for item in task["data"]["items"]}
    order = [by_text[answers[place]] for place in best_first]
    record = json.loads(json.dumps(export_of(task, {"rank": order} if named else order)))
    found = label_studio.read_pairs(record, "here")
    a, b, c = (answers[place] for place in best_first)
    assert texts(found) == [(a, b), (a, c), (b, c)]
    assert {pair.prompt for pair in found.pairs} == {Prompt(TURNS)}
    assert {pair.source for pair in found.pairs} == {"ranking"}


def test_each_annotator_counts_and_a_cancelled_one_does_not(tmp_path, caplog):
    task = label_studio.make_task(Prompt.user("Which?"), ["x", "y"], key=bytes(16))
    record = export_of(task, ["0", "1"])
    record["annotations"] += export_of(task, ["1", "0"])["annotations"]
    record["annotations"] += export_of(task, ["0"], was_cancelled=True)["annotations"]
    path = file(tmp_path, [json.dumps([record, export_of(task, ["0", "1"])])], "export.json")
    for first, more in ((1, []), (None, [("x", "y")])):
        found = preference_files.read(path, "label-studio", first=first)
        assert texts(found) == [("x", "y"), ("y", "x"), *more]
    told = f"{path}: 1 annotations left out, which their annotators cancelled"
    assert caplog.messages == [told] * 2


TWO = label_studio.make_task(Prompt.user("Which?"), ["x", "y"], key=bytes(16))
RATED = {"response": "a", "score": 1}


def asked(question):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": "b"}]


ASKED = "\n\nHuman: Hello?\n\nAssistant:"
HH = {"chosen": f"{ASKED} Hi.", "rejected": f"{ASKED} No."}
TRL = {"prompt": "Hello?", "chosen": "Hi.", "rejected": "No."}
SYSTEM = (("system", "Be brief."), ("user", "Hello?"))
BRIEF = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
TEXTS = {"chosen": "Hi.", "rejected": "No."}


def picked(side):
    return {"result": [{"type": "pairwise", "from_name": "pw", "value": {"selected": side}}]}


REFUSED = [
    *(("trl", record, words) for record, words in [
        ({"prompt": "a", "chosen": "b"}, "needs rejected (found: prompt, chosen)"),
        ({"chosen": "b", "rejected": "c"}, "no prompt; give one"),
        ({"prompt": " ", "chosen": "b", "rejected": "c"}, "prompt is empty"),
        ({"prompt": 1, "chosen": "b", "rejected": "c"}, "prompt must be text or a list"),
        ({"prompt": "a", "chosen": [], "rejected": "c"}, "must come from the assistant"),
        ({"prompt": "a", "rejected": "c", "chosen": asked("z")},
         "chosen: the messages before the answer are not the record's prompt"),
        ({"chosen": asked("y"), "rejected": asked("z")}, "do not share the prompt"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "source": "batch", "votes": 0},
         "votes must be a whole number of at least 1 (got 0)"),
        *(({"prompt": "Hello?", **TEXTS, **more}, words) for more, words in [
            ({"system": 3}, "system must be text"),
            ({"system": "Be long.", "prompt": BRIEF}, "not the system prompt of the messages"),
            ({"history": [["a", "b"]]}, "history is not read; write all turns into the prompt"),
            ({"input": "2 + 2"}, "input is not read"),
            ({"chosen": ""}, "chosen is empty"),
            ({"rejected": " \n "}, "rejected is empty"),
            ({"rejected": "\u200b \u2060\u3164"}, "rejected is empty"),
        ]),
    ]),
    *(("hh", HH | more, words) for more, words in [
        ({"chosen": ASKED + " "}, "is empty"),
        *(({key: HH[key] + "\n\nHuman: ok"}, f"{key} goes on with Human's turn") for key in HH),
    ]),
    ("sheet", {"prompt": "?", "a": "\t", "b": "b", "choice": "A"}, "is empty"),
    *(("ultrafeedback", {"prompt": "Which?", "completions": given}, words) for given, words in [
        ([RATED], "completions must be a list of at least two"),
        ([RATED, {"response": "b"}], "completion 2 has no rating"),
        ([{"response": "a", "score": "nan"}, {"response": "b"}], "completion 1 has no rating"),
        ([{"score": 1}, {"response": "b"}], "completion 1 needs its text"),
        ([3, 4], "completion 1 needs its text"),
        ([{"text": "", "score": 1}, RATED], "is empty"),
    ]),
    *(("label-studio", export_of(TWO, order), f"annotation 1: {words}") for order, words in [
        (["0"], "ranks ['0'], but the items are ['0', '1']"),
        (["0", "0"], "ranks ['0', '0']"),
        ({"good": ["0"], "bad": ["1"]}, "sorted into 2 buckets"),
        ("0", "a ranking must be a list of ids"),
    ]),
    ("label-studio", TWO, "export the project as JSON"),
    ("label-studio", {"data": {"prompt": "?", "a": "", "b": "b"}, "annotations": [picked("left")]},
     "is empty"),
    ("label-studio", {"data": {"prompt": "?", "z": 1}, "annotations": [picked("left")]},
     "annotation 1: needs answer1 and "),
]  # fmt: skip


def test_records_that_hold_no_preference_are_refused_with_their_place():
    for kind, record, words in REFUSED:
        with case(kind, record), pytest.raises(UsageError, match=f"^v:7: .*{re.escape(words)}"):
            preference_files.FORMATS[kind](record, "v:7")
    with pytest.raises(UsageError, match="at least two answers, all different"):
        label_studio.make_task(Prompt.user("Which?"), ["x", "x"], key=bytes(16))


def test_refusals_name_the_first_bad_line_and_where_the_others_are(tmp_path):
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    path = file(tmp_path, [good, "{\n", good, "[1]\n", "7\n"])
    message = refusal(path)
    assert message.startswith(f"{path}:2: not valid JSON")
    assert "; 2 more such records (at 4, 5); --skip-bad" in message
    assert len(preference_files.read(path, first=1).pairs) == 1
    found = preference_files.read(path, skip_bad=True)
    assert (len(found.pairs), len(found.bad)) == (2, 3)
    assert "5: a record must be an object (got int)" in found.bad[2]


def test_files_that_cannot_be_read_say_why(tmp_path, monkeypatch):
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    assert "not found" in refusal(tmp_path / "none.jsonl")
    assert "not a regular file" in refusal(tmp_path)
    assert "are read from .jsonl" in refusal(file(tmp_path, [good], "a.parquet"))
    assert "holds no records" in refusal(file(tmp_path, ["\n"]))
    assert "a.json:1: needs chosen" in refusal(file(tmp_path, ["{}"], "a.json"))
    assert "not valid JSON" in refusal(file(tmp_path, ["[1,"], "a.json"))
    assert "none of trl, hh" in refusal(file(tmp_path, [good]), "csv")
    assert "first must be at least 1" in refusal(file(tmp_path, [good]), first=0)
    packed = file(tmp_path, [good] * 50, "cut.jsonl.gz")
    packed.write_bytes(packed.read_bytes()[:-20])
    assert "cannot be unpacked" in refusal(packed)
    monkeypatch.setattr(preference_files, "FILE_LIMIT", 200)
    assert "over 200 bytes at line 5" in refusal(file(tmp_path, [good] * 50, "a.jsonl.gz"))
    monkeypatch.setattr(preference_files, "LINE_LIMIT", 40)
    assert "line 1 is" in refusal(file(tmp_path, [good]))


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=4),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["prompt", "chosen", "rejected", "role",
                        "content", "completions", "data", "annotations", "items", "result"]),
                        inner, max_size=4), max_leaves=8))  # fmt: skip
def test_no_record_breaks_a_format(value):
    for parse in preference_files.FORMATS.values():
        try:
            found = parse(value if isinstance(value, dict) else {"prompt": value}, "here")
        except UsageError as error:
            assert str(error).startswith("here")
        else:
            assert all(pair.prompt.turns for pair in found.pairs)


def test_pairs_are_written_whole_and_nothing_is_overwritten(tmp_path):
    pairs = [Pair(Prompt(TURNS), Answer("é\nb"), Answer("c"), "batch", 3)] * 2
    path = tmp_path / "pairs.jsonl"
    assert preference_files.write(path, pairs) == 2
    assert preference_files.read(path).pairs == tuple(pairs)
    with pytest.raises(StorageError, match="exists"):
        preference_files.write(path, pairs)
    with pytest.raises(UsageError, match=r"written as \.jsonl"):
        preference_files.write(tmp_path / "pairs.csv", pairs)
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.jsonl"]


RATINGS = {"response": "Hi.", "overall_score": 9}, {"response": "No.", "overall_score": 2}
ULTRA = {"instruction": "Hello?", "completions": [*RATINGS]}


@pytest.mark.parametrize(
    ("record", "kind"), [(HH, "hh"), (TRL, "trl"), (ULTRA, "ultrafeedback")], ids=str
)
def test_the_format_of_a_preference_file_is_found(tmp_path, record, kind):
    path = file(tmp_path, [record])
    assert preference_files.find_format(path) == kind
    (pair,) = preference_files.read(path, kind).pairs
    assert (pair.prompt.text, pair.chosen.text, pair.rejected.text) == ("Hello?", "Hi.", "No.")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.csv", "a,b\n1,2\n", "its format is none of hh"),
        ("p.jsonl", '{"a": 1}\n', r"p\.jsonl:1: .* none of hh, trl, ultrafeedback, label-studio"),
        ("p.jsonl", "\n", "holds no records"),
    ],
)
def test_a_file_of_no_known_format_is_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=words) as caught:
        preference_files.find_format(tmp_path / name)
    assert "\n" not in str(caught.value)


CONTROL = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
RUN = ["=1+1", "+1", "-1", "@sum", "＝1", "  =1", "\ufeff=1", "\u200b@x", "'quoted", "\xa0-2"]


def test_what_a_spreadsheet_would_run_is_text_whatever_it_hides_behind_and_nothing_else():
    for text in [*RUN, *CONTROL, *(f"{first}=1+1" for first in CONTROL)]:
        with case(text):
            assert csv_tables.guard(text) == f"'{text}"
    for sign in "=+-@＝＋－＠﹢﹣﹦﹫−⁼₌⁺":
        with case(sign):
            for before in ("", *UNSEEN, UNSEEN):
                assert csv_tables.guard(f"{before}{sign}1+1") == f"'{before}{sign}1+1"
                assert csv_tables.guard(f"{before}1{sign}1") == f"{before}1{sign}1"
    for text in ["", "a", "Tea.", " two words", "3", "ß", "(=1)", "{}"]:
        with case(text):
            assert csv_tables.guard(text) == text


UNSEEN = (
    "\xad\u034f\u061c\u115f\u1160\u180e\u2066\u2069\u206a\u3164\ufe0f\uffa0\ufff9\u2028\U000e0020"
)


@given(st.text(alphabet=st.sampled_from("'=+-@ \t\r\n\x00\x0b\x1b\ufeffa7−\u3164\ufe0f")))
def test_the_guard_is_undone_exactly(text):
    assert csv_tables.unguard(csv_tables.guard(text)) == text


@given(st.lists(st.text(alphabet=st.sampled_from("'=\t\r\n\x00\",a")), min_size=1, max_size=4))
def test_a_table_comes_back_cell_by_cell(texts):
    file = io.StringIO(newline="")
    cells = ({"text": t, "number": -1} for t in texts)
    count = csv_tables.write_table(file, ("text", "number"), cells)
    assert count == len(texts)
    rows = list(csv.DictReader(io.StringIO(file.getvalue(), newline="")))
    assert [csv_tables.unguard(row["text"]) for row in rows] == texts
    assert {row["number"] for row in rows} == {"-1"}  # a number is no text


SAYS = [[*BRIEF, {"role": "assistant", "content": text}] for text in ("Hi.", "No.")]
ITEMS = [{"id": "0", "title": "1", "body": "Hi."}, {"id": "1", "title": "2", "body": "No."}]
BESIDE = {"system": "Be brief.", "prompt": "Hello?"}


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        ("trl", BESIDE | TEXTS),
        ("trl", {"system_prompt": "Be brief.", "prompt": "Hello?", **TEXTS}),
        ("trl", {"system": "Be brief.", "prompt": BRIEF, **TEXTS}),
        ("trl", {"prompt": "Hello?", "chosen": SAYS[0], "rejected": SAYS[1]}),
        ("ultrafeedback", {"system": "Be brief.", **ULTRA}),
        ("hh", {"system": "Be brief.", **HH}),
        ("sheet", BESIDE | {"a": "No.", "b": "Hi.", "choice": "b"}),
        ("sheet", {"messages": json.dumps(BRIEF), "prompt": "Hello?", "a": "Hi.", "b": "No.",
                   "choice": "A"}),
        ("label-studio", export_of({"data": BESIDE | {"items": ITEMS}}, ["0", "1"])),
    ],
    ids=str,
)  # fmt: skip
def test_a_system_prompt_stays_whatever_it_stands_in(kind, record):
    (pair,) = preference_files.FORMATS[kind](record, "here").pairs
    assert (pair.prompt.turns, pair.chosen.text, pair.rejected.text) == (SYSTEM, "Hi.", "No.")


def test_other_readers_keep_a_system_prompt_as_well(tmp_path):
    ends = TEXTS, {"completions": ["Hi.", "No."]}, {"completion": "Hi."}, {"a": "Hi.", "b": "No."}
    records = [BESIDE | rest for rest in ends]
    groups = list(preference_files.read_groups(file(tmp_path, records[:2], "g.jsonl")))
    assert groups == [(Prompt(SYSTEM), ("Hi.", "No."))] * 2
    assert preference_files.read_examples(file(tmp_path, records[2:3], "e.jsonl")) == (
        (Prompt(SYSTEM), Answer("Hi.")),
    )
    (asked,) = question_rounds.read_pool(file(tmp_path, records[3:], "p.jsonl"))
    assert asked.prompt.turns == SYSTEM
    question = question_rounds.Question("q", "k", 1, SYSTEM, "Hi.", "No.", (), 0.0)
    plain = question_rounds.Question("r", "l", 1, (("user", "Hello?"),), "Hi.", "No.", (), 0.0)
    for name in ("s.csv", "s.jsonl"):
        question_rounds.write_sheet([question, plain], tmp_path / name)
        for turns, (where, record) in zip(
            (SYSTEM, SYSTEM[1:]), preference_files.read_records(tmp_path / name), strict=True
        ):
            (pair,) = preference_formats.read_sheet(record | {"choice": "A"}, where).pairs
            assert pair.prompt.turns == turns


def test_label_studios_own_templates_and_exports_are_read(tmp_path):
    two = {"prompt": "Which?", "answer1": "x", "answer2": "y"}
    found = label_studio.read_pairs(
        {"data": two, "annotations": [picked("right"), picked("left")]}, "here"
    )
    assert texts(found) == [("y", "x"), ("x", "y")]
    least = {"id": 1, **two, "pw": [{"selected": "right"}], "annotator": 1, "lead_time": 2.5}
    ranked = {"id": 2, **TWO["data"], "rank": [{"ranker": {"response_choices": ["1", "0"]}}]}
    path = file(tmp_path, [json.dumps([least, ranked])], "min.json")
    assert texts(preference_files.read(path, "label-studio")) == [("y", "x"), ("y", "x")]


def test_a_format_that_must_be_named_is_told(tmp_path):
    export = export_of(TWO, ["0", "1"])
    for kind, record in (("hh", HH), ("ultrafeedback", ULTRA), ("label-studio", export)):
        assert refusal(file(tmp_path, [record])).endswith(f"of the format {kind}: --from {kind}")
    assert "--from" not in refusal(file(tmp_path, [{"x": 1}]))
    assert "--from" not in refusal(file(tmp_path, [HH]), "trl")


def test_one_empty_annotation_loses_only_itself(tmp_path):
    record = export_of(TWO, ["0", "1"])
    record["annotations"] += [{"result": []}, {"was_cancelled": True}, *record["annotations"]]
    path = file(tmp_path, [json.dumps([record])], "export.json")
    assert "record 1: annotation 2: 0 rankings or choices" in refusal(path, "label-studio")
    found = preference_files.read(path, "label-studio", skip_bad=True)
    assert texts(found) == [("x", "y")] * 2
    assert len(found.bad) == 1 and "annotation 2" in found.bad[0]


GOOD = [{"prompt": f"Say {n}.", "chosen": "Hi.", "rejected": "No."} for n in range(3)]
JSON_FORMS = {
    "lines": "\n".join(map(json.dumps, GOOD)),
    "lines, a list each at no place": "\n\n".join(map(json.dumps, GOOD)) + "\n",
    "list on a line": json.dumps(GOOD),
    "list over lines": json.dumps(GOOD, indent=2),
    "list of a line each": "[\n" + ",\n".join(map(json.dumps, GOOD)) + "\n]",
    "objects over lines": "\n".join(json.dumps(each, indent=2) for each in GOOD),
}


@pytest.mark.parametrize("form", JSON_FORMS)
@pytest.mark.parametrize("name", ["v.json", "v.jsonl", "v.jsonl.gz", "v.json.gz"])
@pytest.mark.parametrize("encode", ["utf-8", "utf-8-sig", "utf-16", "CR"])
def test_json_is_read_in_every_form_under_either_name(tmp_path, form, name, encode):
    text = JSON_FORMS[form].replace("\n", "\r") if encode == "CR" else JSON_FORMS[form]
    body = text.encode("utf-8" if encode == "CR" else encode)
    (tmp_path / name).write_bytes(gzip.compress(body) if name.endswith("gz") else body)
    found = preference_files.read(tmp_path / name)
    assert [pair.prompt.text for pair in found.pairs] == ["Say 0.", "Say 1.", "Say 2."]
    if not name.endswith("gz"):
        assert len(prompts.load(tmp_path / name, heldout=0).train) == 3


def test_one_object_and_a_broken_first_line_are_what_they_are(tmp_path, monkeypatch):
    one = file(tmp_path, [json.dumps(GOOD[0], indent=1)])
    assert len(preference_files.read(one).pairs) == 1
    bad = file(tmp_path, ['{"prompt": \n', *GOOD], "bad.jsonl")
    assert refusal(bad).startswith(f"{bad}:1: not valid JSON")
    assert len(preference_files.read(bad, skip_bad=True).pairs) == 3
    monkeypatch.setattr(preference_files, "ARRAY_LIMIT", 100)
    spread = file(tmp_path, [json.dumps(GOOD, indent=1)], "v.json")
    assert "not one record on each line" in refusal(spread)


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_are_read_whatever_separates_them(tmp_path, mark, end, encoding):
    rows = [
        ["ID", " Prompt ", "A", "B", "Choice", "By"],
        ["1", "Größe, bitte;", "x", "y\nz", "b", ""],
    ]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=mark, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    body = text.getvalue().replace("\n", end) if end == "\r" else text.getvalue()
    path = tmp_path / "t.csv"
    path.write_bytes(body.encode(encoding))
    (pair,) = preference_files.read(path).pairs
    found = pair.prompt.text, pair.chosen.text, pair.rejected.text
    assert found == ("Größe, bitte;", "y\nz", "x")
    (asked,) = question_rounds.read_pool(path)
    assert (asked.id, asked.a, asked.b) == ("1", "x", "y\nz")
    (reply,) = question_rounds.read_sheet(path)
    assert (reply.id, reply.choice) == ("1", "B")
    assert [each.text for each in prompts.load(path, heldout=0).train] == ["Größe, bitte;"]


def test_tables_that_cannot_be_read_say_which_columns_they_have(tmp_path):
    def refused(content, read=preference_files.read):
        (tmp_path / "t.csv").write_text(content, encoding="utf-8")
        with pytest.raises(UsageError) as caught:
            read(tmp_path / "t.csv")
        return str(caught.value)

    assert "needs chosen (found: Frage, Antwort)" in refused("Frage;Antwort\na;b\n")
    said = refused("prompt;Prompt;a;b;choice\n1;2;3;4;A\n")
    assert "t.csv:1: two columns are named prompt" in said
    assert "t.csv:2: 3 cells under 5 column" in refused(
        "id,prompt,a,b,choice\n1,2,3\n", lambda path: list(question_rounds.read_pool(path))
    )
    assert "t.csv:2: 6 cells under 5 column" in refused("id,prompt,a,b,choice\n1,2,3,4,A,6\n")
