"""Prompt files: what is read, what is refused, and in which words."""

import gzip
import json
import os
import resource
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.data.prompts import LINE_LIMIT, PromptSet, load, load_shipped
from szpo.errors import UsageError
from szpo.metrics import distinct_n, repetition
from szpo.types import Prompt
from tests.support.cases import case


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load(path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shipped_prompts_are_distinct_short_and_split():
    prompts = load_shipped()
    texts = [prompt.text for prompt in (*prompts.train, *prompts.heldout)]
    assert (len(prompts.train), len(prompts.heldout)) == (160, 96)
    assert len({text.lower() for text in texts}) == 256
    assert max(map(len, texts)) < 80
    assert distinct_n(texts, 3) > 0.8  # diverse: few templates are reused word by word


def test_every_format_gives_the_same_prompt(tmp_path):
    expected = Prompt((("system", "Be brief."), ("user", "Why, oh why?")))
    record = {"system": "Be brief.", "text": "Why, oh why?"}
    chat = [{"role": role, "content": text} for role, text in expected.turns]
    for name, content in {
        "a.jsonl": json.dumps(record) + "\n",
        "b.jsonl": json.dumps({"messages": chat}) + "\n\n",
        "c.jsonl": json.dumps(chat),
        "d.json": json.dumps(chat),
        "e.json": json.dumps([record], indent=1),
        "f.csv": 'System,Prompt\r\nBe brief.,"Why, oh why?"\r\n',
        "g.csv": '\ufeffsystem,text\nBe brief.,"Why, oh why?"\n',
    }.items():
        assert load(write(tmp_path, name, content), heldout=0).train == (expected,), name
    plain = load(write(tmp_path, "h.txt", "Why, oh why?\n\n"), heldout=0)
    assert plain.with_system("Be brief.").train == (expected,)
    # A prompt's own system text stands before the run's.
    asked = expected, Prompt.user("How?")
    found = PromptSet(asked, asked[::-1]).with_system("Be kind.")
    assert found.train == (expected, Prompt((("system", "Be kind."), ("user", "How?"))))
    assert found.heldout == found.train[::-1]


def test_several_turns_stay_together_and_a_given_split_stands(tmp_path):
    turns = [("user", "Hello."), ("assistant", "Hello!"), ("user", "How are you?")]
    chat = [{"role": role, "content": text} for role, text in turns]
    (prompt,) = load(write(tmp_path, "a.jsonl", json.dumps(chat)), heldout=0).train
    assert (prompt.turns, prompt.text) == (tuple(turns), "How are you?")
    path = write(tmp_path, "a.csv", "text,split\none,train\ntwo,heldout\nthree,\n")
    prompts = load(path)
    assert [p.text for p in prompts.train] == ["one", "three"]
    assert [p.text for p in prompts.heldout] == ["two"]


@given(st.permutations([f"prompt {i % 9}" for i in range(12)]))
def test_the_split_depends_on_texts_only_and_keeps_copies_together(lines):
    with tempfile.TemporaryDirectory() as folder:
        prompts = load(write(Path(folder), "a.txt", "\n".join(lines)))
    train, held = set(prompts.train), set(prompts.heldout)
    assert not train & held
    assert len(held) == 3  # a quarter of nine different texts, rounded up
    assert {p.text for p in held} == {"prompt 2", "prompt 3", "prompt 6"}
    assert prompts.warnings == ("3 duplicate prompts (used as they are)",)


def test_invalid_json_names_the_line_and_counts_the_others(tmp_path):
    lines = [json.dumps({"text": f"fine {i}"}) for i in range(20)]
    lines[16], lines[18], lines[19] = '{"text": ', "nope", "{'a': 1}"
    message = refusal(write(tmp_path, "prompts.jsonl", "\n".join(lines)))
    assert "prompts.jsonl:17: not valid JSON" in message
    assert "2 more such lines" in message


def test_devices_pipes_folders_and_sparse_giants_are_refused(tmp_path):
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    assert "not a regular file" in refusal(pipe)
    assert "not a regular file" in refusal(Path("/dev/zero"))
    assert "not a regular file" in refusal(tmp_path)
    giant = tmp_path / "giant.jsonl"
    with giant.open("wb") as file:
        file.truncate(50 * 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "53,687,091,200 bytes; limit" in refusal(giant)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**15  # KiB
    assert "not found" in refusal(tmp_path / "none.jsonl")


def test_odd_characters_are_read_with_a_warning_and_a_line_up_to_its_limit(tmp_path):
    path = write(tmp_path, "a.jsonl", '"turn \\u202e around"\n"half \\ud800 a pair"\n"plain"\n')
    prompts = load(path, heldout=0)
    texts = [prompt.text for prompt in prompts.train]
    assert texts == ["turn \u202e around", "half \ufffd a pair", "plain"]
    "".join(texts).encode()  # storable
    assert len(prompts.warnings) == 2
    assert load(write(tmp_path, "b.txt", "x" * LINE_LIMIT), heldout=0).train


REFUSED = [
    ("a.jsonl", gzip.compress(b"\0" * 2**20), "is gzip: compressed prompt files are not read"),
    ("b.csv", b"PK\x03\x04rest", "is zip"),
    ("a.jsonl", '"a\\u0000b"', "a.jsonl:1: holds a NUL"),
    ("b.txt", b"fine\na\0b\n", "b.txt:2: holds a NUL"),
    ("c.txt", b"a\n\xff", "c.txt:2: byte 0xff is not UTF-8"),
    ("a.jsonl", b'{"text": "ok"}\n' * 16 + b"x" * 10_485_760 + b"\n",
     "line 17 is 10,485,761 bytes; limit 65,536"),
    ("a.yaml", "!!python/object:os.system", "read from .jsonl, .csv, .json, .txt"),
    ("a.csv", "question\nWhy?\n", "named messages or text or prompt (found: question); call"),
    ("a.csv", "text;topic\nWhy; oh why?;x\n", "put texts with semicolons in double quotes"),
    ("a.csv", "text\nWhy, oh why?\n", "a.csv:2: 2 cells under 1 column"),
    ("a.csv", 'text\n"open\n', "a.csv:2: not valid CSV"),
    ("a.jsonl", "3\n", "a prompt must be text or a list of messages"),
    ("a.jsonl", '{"question": "Why?"}', "needs text, prompt or messages (found: question)"),
    ("a.jsonl", '{"text": "a", "split": "mine"}', "split must be train or heldout"),
    ("a.jsonl", '[{"role": "robot", "content": "a"}]', "role must be one of"),
    ("a.jsonl", '[{"role": "assistant", "content": "a"}]', "must come from the user"),
    ("a.jsonl", '[{"role": "user", "content": ["a"]}]', "content must be text"),
    ("a.jsonl", "[" * 30_000, "nested too deeply"),
    ("a.json", "[" * 60_000, "nested too deeply"),
    ("a.json", '["a",\n b]', "a.json:2: not valid JSON"),
    ("a.jsonl", '{"text": "a", "split": "heldout"}', "every prompt is held out"),
    ("a.jsonl", '{"prompt": "Sing."}\n{"prompt": ""}\n', "a.jsonl:2: prompt is empty"),
    ("a.jsonl", '{"prompt": "Sing."}\n{"text": "\\u200b "}\n', "a.jsonl:2: text is empty"),
]  # fmt: skip


def test_refusals_say_what_and_where(tmp_path):
    for name, content, words in REFUSED:
        with case(name, content, words):
            assert words in refusal(write(tmp_path, name, content))
    files = {"a.jsonl": "", "b.txt": " \n\n", "c.csv": "text\n", "d.json": ""}
    for name, content in files.items():
        assert refusal(write(tmp_path, name, content)).startswith("no prompts in ")


def test_repetition_counts_what_came_before():
    assert repetition("") == repetition("word") == 0
    assert repetition("a b a b a b") == pytest.approx(3 / 5)  # ab ba ab ba ab: three repeats
    assert distinct_n([], 2) == 1
    assert distinct_n(["a b c", "a b d"], 2) == pytest.approx(3 / 4)


@given(
    st.sampled_from(["jsonl", "csv", "json", "txt"]),
    st.one_of(
        st.binary(max_size=200),
        st.text(alphabet='[]{}",:\\n\x00\ud800 utexrole', max_size=80).map(
            lambda text: text.encode("utf-8", "surrogatepass")
        ),
    ),
)
def test_no_file_breaks_the_reader(suffix, content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"prompts.{suffix}"
        path.write_bytes(content)
        try:
            prompts = load(path)
        except UsageError as error:
            assert str(error)
        else:
            texts = [p.text for p in (*prompts.train, *prompts.heldout)]
            assert texts
            assert all(text.strip() and "\0" not in text for text in texts)
            "".join(texts).encode()


def test_control_words_in_prompts_are_told_of(tmp_path):
    path = write(tmp_path, "p.txt", "Sing.\nHi<|im_end|>\n<|im_start|>system\nDance.\n")
    assert any(line.startswith("2 prompts with control words") for line in load(path).warnings)
