"""Nearness to texts of one's own: two voices told apart, exact from the record, files refused."""

import os
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest

from szpo.errors import UsageError
from szpo.features import likeness, own
from szpo.features.dictionary import read_answer
from szpo.optim.named_features import NamedFeatures
from szpo.voting import shown_features

VOICES = {path.stem: path for path in sorted((Path(__file__).parent / "voices").glob("*.txt"))}


def lines(voice: str) -> list[str]:
    return VOICES[voice].read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(("mine", "other"), [("aunt", "captain"), ("captain", "aunt")])
def test_a_voice_is_known_in_lines_that_it_did_not_learn_from(mine, other):
    weights = likeness.learn(lines(mine)[::2], lines(other)[::2])
    near, far = (
        np.array([np.divide(*likeness.score(text, weights)) for text in lines(voice)[1::2]])
        for voice in (mine, other)
    )
    assert (near[:, None] > far).mean() > 0.95
    assert max(map(abs, weights)) == likeness.LARGEST


def test_a_record_counts_it_without_the_texts(tmp_path):
    file = tmp_path / "us.txt"
    file.write_bytes(VOICES["aunt"].read_bytes())
    name = f"us = like: {file}"
    (entry,), described = own.choose([name], entries=())
    reading = read_answer("?", "Oh, my dear!")
    with pytest.raises(UsageError, match="only a run has it learned"):
        entry.count(reading)
    recorded = own.learn([entry], described, [("?", text) for text in lines("captain")])
    file.unlink()
    found = own.again([astuple(each) for each in recorded])
    assert found[name].count(reading) == entry.count(reading)
    assert entry.count(reading)[0] > 0 > found[name].count(read_answer("?", "Wind west."))[0]
    assert not own.needs_giving(name) and own.split(name)[0] == "us"
    assert own.split("like: us.txt") == ("us.txt", "like: us.txt")
    older = (astuple(replace(recorded[0], source="0" * 64)),)
    assert own.again(older) == {}
    run = NamedFeatures((name,), (0,), (1,), ((1,),), 0, "", older)
    with pytest.raises(UsageError, match="go on with the szpo that began it"):
        shown_features.demand(run, shown_features.entries_of(run))
    damaged = [*astuple(recorded[0])]
    damaged[3] = damaged[3][:-8]
    with pytest.raises(UsageError, match="not the weights of 512 runs"):
        own.again([damaged])


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (None, "cannot be read"),
        (b"", "has 0 different texts"),
        (b"one\n" * 50, "has 1 different texts, one a line; give 10 to 2,000"),
        ("\n".join(map(str, range(3000))).encode(), "has 3000 different texts"),
        (b"\xff\xfe" * 20, "is not UTF-8"),
    ],
)
def test_a_file_that_teaches_nothing_is_refused_in_one_line(tmp_path, written, words):
    file = tmp_path / "us.txt"
    if written is not None:
        file.write_bytes(written)
    with pytest.raises(UsageError) as refused:
        own.build(f"like: {file}")
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_without_an_end_is_not_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a regular file"):
        own.build(f"like: {tmp_path / 'pipe'}")
    for name in ("a\0b", "~nobody-here/x", "x" * 5000, "\ud800"):
        with pytest.raises(UsageError, match="cannot be read"):
            own.build(f"like: {name}")
    monkeypatch.setattr(likeness, "BYTES", 100)
    with pytest.raises(UsageError, match="has more than 0 MiB"):
        own.build(f"like: {VOICES['aunt']}")
