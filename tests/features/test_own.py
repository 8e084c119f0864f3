"""A user's own features: patterns in bounded time, keywords, functions, entries left out."""

import math
import sys
import time
from dataclasses import asdict, astuple, replace
from fractions import Fraction
from types import SimpleNamespace

import pytest

from szpo.analysis import taught_taste
from szpo.errors import UsageError
from szpo.features import user_features
from szpo.features.dictionary import BY_NAME, ENTRIES, GROUPS, ratios, read_answer
from szpo.features.user_features import Description, again, build, can_recompute, choose
from tests.support.plugged import plug


def value(spec: str, answer: str, prompt: str = "?") -> Fraction:
    entry, _ = build(spec)
    ((numerator, denominator),) = ratios(prompt, answer, [entry])
    return Fraction(numerator, denominator)


@pytest.mark.parametrize(
    ("pattern", "text", "count"),
    [
        (r"(?i)\bsea(side)?\b", "Sea, seaside, SEAS", 2),
        (r"^Once", "Once.\nOnce", 1),
        (r"(?m)^Once", "Once.\nOnce", 2),
        (r"[A-Z][a-z]{2,}", "Anna and Bo met Carl", 2),
        (r"a*", "baac", 1),
        (r"(?i)über", "Über", 1),
        (r"(\w)\1(?=,)", "see, bee; too,", 2),
    ],
)
def test_matches_by_hand_an_empty_one_is_none(pattern, text, count):
    assert value(f"regex:{pattern}", text) == count


def test_a_pattern_that_takes_long_is_stopped(monkeypatch):
    monkeypatch.setattr(user_features, "SECONDS", 0.05)
    begun = time.process_time()
    with pytest.raises(UsageError, match=r"'regex:\(a\+\)\+\$': it took more than .* on 'aaa"):
        value("regex:(a+)+$", "a" * 3_000 + "b")
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("regex:", "needs a pattern"),
        ("regex:(", "not a regular expression (missing ) at position 1)"),
        ("regex:[a", "not a regular expression ("),
        ("regex:*a", "nothing to repeat"),
        ("keyword:", "needs whole words"),
        ("keyword:deep sea", "needs whole words"),
        ("no.such.package:function", "cannot be imported"),
        ("math:pi", "is no function"),
        ("math:nothing", "cannot be imported"),
        ("charm", "it is none of regex:PATTERN, keyword:sea+sun"),
    ],
)
def test_a_bad_text_is_one_line_that_names_it(spec, says):
    with pytest.raises(UsageError) as caught:
        build(spec)
    line = str(caught.value)
    assert says in line and line.startswith(f"feature {spec!r}: ") and "\n" not in line


def test_keywords_patterns_and_plug_ins_are_exact_and_read_so_far(monkeypatch):
    assert value("keyword:sea+sun+fog", "The SEA, and seaside fog") == Fraction(2, 3)
    assert value("regex:a", "banana") == 3
    assert value("regex:a", " " * (user_features.READS - 1) + "aa") == 1
    plug(monkeypatch, features=("loudness", lambda t: lambda _, a: len(a.text) * float(t or 1)))
    assert value("loudness:2", "abc") == 6
    assert build("loudness")[1].kind == "plug-in"


@pytest.fixture
def package(tmp_path, monkeypatch):
    file = tmp_path / "own_tastes.py"
    file.write_text(
        "from fractions import Fraction\n"
        "def third(prompt, answer): return Fraction(len(answer), 3)\n"
        "def asked(prompt, answer): return answer in prompt\n"
        "def tenth(prompt, answer): return 0.1\n"
        "def broken(prompt, answer): return float('nan')\n"
        "def failing(prompt, answer): raise KeyError('sea')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_tastes", raising=False)
    return file


def test_a_name_before_the_form_is_what_a_run_says_and_the_form_is_what_counts():
    text = r"riding = regex:(?i)\bride"
    entry, recorded = user_features.build(text)
    assert entry.count(read_answer("?", "Ride, rider, bride"))[0] == 2
    assert (entry.name, recorded.name, recorded.kind) == (text, text, "regex")
    assert (entry.more, taught_taste.phrase(text, False)) == ("more of riding", "less of riding")
    fields = [astuple(recorded)]
    assert set(user_features.again(fields, [text])) == {text}
    assert user_features.again(fields) == {}, "the name makes no record compile a pattern"
    built = astuple(user_features.build("sea = keyword:sea+sun")[1])
    assert set(user_features.again([built])) == {"sea = keyword:sea+sun"}
    assert user_features.is_judged(
        "friend = judge: sounds like one"
    ) and not user_features.is_judged(text)
    # An equals sign behind the form's colon belongs to the form.
    assert user_features.split("regex:x = y")[1] == "regex:x = y"
    with pytest.raises(UsageError, match="feature 'rides = regex:': needs a pattern"):
        user_features.build("rides = regex:")


def test_functions_give_exact_ratios(package):
    assert value("own_tastes:third", "four") == Fraction(4, 3)
    assert value("own_tastes:asked", "sea", prompt="the sea") == 1
    assert value("own_tastes:tenth", "") == Fraction(0.1) != Fraction(1, 10)
    for name, says in (("broken", "nan; it must give a number of at most"), ("failing", "'sea'")):
        with pytest.raises(UsageError, match=f"feature 'own_tastes:{name}': {says}"):
            value(f"own_tastes:{name}", "rain")
    for number in [10**400, 2**32 + 1, -1e30, math.inf, Fraction(2**40)]:
        with pytest.raises(UsageError, match="at most 2"):
            user_features.exact(number)  # its differences would not fit
    assert user_features.exact(-(2**32)) == (-(2**32), 1)


def test_a_description_changes_with_its_source_and_is_data(package):
    _, before = build("own_tastes:third")
    assert can_recompute(before, before) and len(before.source) == 64
    for changed in (replace(before, source="0" * 64), replace(before, version="2")):
        assert not can_recompute(before, changed)
    assert not can_recompute(replace(before, source=""), replace(before, source=""))
    assert all(isinstance(part, str) for part in asdict(before).values())
    _, pattern = build("regex:a")
    assert can_recompute(replace(pattern), pattern)
    assert not can_recompute(Description("regex:a", "regex"), pattern)


def test_entries_and_groups_can_be_left_out_and_own_ones_stand_last():
    found, recorded = choose(["keyword:sea", "regex:^Once"], ["group:tone", "commas"])
    names = [entry.name for entry in found]
    assert len(found) == len(ENTRIES) + 2 - GROUPS["tone"] - 1
    assert names[-2:] == ["keyword:sea", "regex:^Once"] and "commas" not in names
    assert [each.kind for each in recorded] == ["keyword", "regex"]
    assert choose() == (ENTRIES, ())


@pytest.mark.parametrize(
    ("add", "drop", "says"),
    [
        ([], ["group:tones"], 'did you mean "group:tone"'),
        ([], ["xyzzy"], "szpo taste --list has them"),
        (["keyword:a", "keyword:a"], [], "features.add: 'keyword:a' is there twice"),
        ([], [*BY_NAME], "no feature is left"),
    ],
)
def test_what_cannot_be_chosen_is_one_line(add, drop, says):
    with pytest.raises(UsageError) as caught:
        choose(add, drop)
    assert says in str(caught.value)


def test_a_record_makes_nothing_of_code_that_the_user_did_not_write_here(monkeypatch):
    pattern, words = (astuple(build(text)[1]) for text in ("regex:^Once", "keyword:sea+sun"))
    assert [*again([pattern, words])] == ["keyword:sea+sun"]
    assert [*again([pattern, words], ["regex:^Once"])] == ["regex:^Once", "keyword:sea+sun"]

    def refuse(*_):
        raise AssertionError("a record was run")

    monkeypatch.setattr(user_features, "importlib", SimpleNamespace(import_module=refuse))
    monkeypatch.setattr(user_features, "matches", refuse)
    monkeypatch.setattr(user_features.plugins, "load", refuse)
    for name in ("os:system", "regex:a", "some-plugin"):
        assert again([(name, "keyword", "", "", "0" * 64), pattern]) == {}


def test_a_feature_whose_code_has_changed_is_refused():
    old = (*astuple(build("regex:^Once")[1])[:-1], "0" * 64)
    with pytest.raises(UsageError, match="its code, version or judge is not the recorded one"):
        again([old], ["regex:^Once"])
    changed = (*astuple(build("keyword:sea")[1])[:-1], "0" * 64)
    assert again([changed]) == {}  # recorded, not recomputed
    nowhere = build("math:gcd")[1]  # of no source: the user's word is all there is
    assert not nowhere.source and [*again([astuple(nowhere)], ["math:gcd"])] == ["math:gcd"]
