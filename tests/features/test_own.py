"""A user's own features: patterns in bounded time, keywords, functions, entries left out."""

import math
import re
import sys
import time
from dataclasses import asdict, astuple, replace
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szpo.analysis import taught
from szpo.errors import UsageError
from szpo.features import own
from szpo.features.dictionary import BY_NAME, ENTRIES, GROUPS, ratios, read_answer
from szpo.features.own import Description, again, build, can_recompute, choose
from szpo.features.patterns import LONGEST_MATCH, READS, compile_pattern
from tests.support.plugged import plug

PART = st.sampled_from(
    ["a", "b", " ", ".", r"\w", r"\d", r"\s", "[ab]", "[^a]", "(?:a|bc)", r"\b", "^", "$", "(a b)"]
)
PIECE = st.tuples(PART, st.sampled_from(["", "*", "+", "?", "{1,3}", "{2}"])).map(
    lambda pair: pair[0] + pair[1] * (pair[0] not in (r"\b", "^", "$"))
)


def value(spec: str, answer: str, prompt: str = "?") -> Fraction:
    entry, _ = build(spec)
    ((numerator, denominator),) = ratios(prompt, answer, [entry])
    return Fraction(numerator, denominator)


@given(st.lists(PIECE, min_size=1, max_size=5).map("".join), st.text("ab c1\n", max_size=20))
@settings(deadline=None, max_examples=300)
def test_a_pattern_is_found_where_pythons_longest_match_begins(pattern, text):
    # Alternatives of different length apart, the longest match is Python's greedy one only mostly,
    # so the claim is where there is any: counts are both zero or both not.
    other = any(found.group() for found in re.finditer(pattern, text))
    assert (compile_pattern(pattern).count(text) > 0) == other


@pytest.mark.parametrize(
    ("pattern", "text", "count"),
    [
        (r"(?i)\bsea(side)?\b", "Sea, seaside, SEAS", 2),
        (r"lovely|warm|bright", "warm and bright, warmly", 3),
        (r"^Once", "Once.\nOnce", 1),
        (r"(?m)^Once", "Once.\nOnce", 2),
        (r"a|ab", "abab", 2),
        (r"\w+ly\b", "wholly, friendly fly-by", 3),
        (r"[A-Z][a-z]{2,}", "Anna and Bo met Carl", 2),
        (r"[\d.]+", "3.14 and 7", 2),
        (r"[^a-z ]", "so, é!", 3),
        (r"x{2,3}", "xxxxx", 2),
        (r"a*", "baac", 1),
        (r"über", "Über", 0),
        (r"(?i)über", "Über", 1),
        (r"\.$", "One. Two.", 1),
    ],
)
def test_matches_by_hand(pattern, text, count):
    assert compile_pattern(pattern).count(text) == count


@pytest.mark.parametrize(
    "pattern", ["(a*)*b", "(x+x+)+y", ".*.*.*=", "(a|b)*a(a|b){12}c", "(a|a)*$"]
)
@pytest.mark.parametrize("text", ["a" * 100_000, "x" * 100_000, "ab" * 50_000])
def test_no_pattern_takes_long_on_a_long_text(pattern, text):
    begun = time.process_time()
    compile_pattern(pattern).count(text)
    assert time.process_time() - begun < 10  # backtracking would need longer than there is


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("regex:", "needs a pattern"),
        ("regex:(", 'not a regular expression (a ")" is missing'),
        ("regex:a)", 'a ")" without "("'),
        ("regex:[a", 'a "]" is missing'),
        ("regex:*a", "nothing to repeat"),
        ("regex:a**", "two repetitions in a row"),
        ("regex:a{3,2}", "from more to less"),
        ("regex:(?=a)", "looking around"),
        (r"regex:(a)\1", "is not to be had"),
        ("regex:" + "x" * 201, "1 to 200 characters, this has 201"),
        ("regex:((a{30}){30}){30}", "more than 400 states"),
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
    assert compile_pattern("a").count(" " * (READS - 1) + "aa") == 1
    assert compile_pattern("a+").count("a" * LONGEST_MATCH * 2) == 2
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
    entry, recorded = own.build(text)
    assert entry.count(read_answer("?", "Ride, rider, bride"))[0] == 2
    assert (entry.name, recorded.name, recorded.kind) == (text, text, "regex")
    assert (entry.more, taught.phrase(text, False)) == ("more of riding", "less of riding")
    fields = [astuple(recorded)]
    assert set(own.again(fields, [text])) == {text}
    assert own.again(fields) == {}, "the name makes no record compile a pattern"
    built = astuple(own.build("sea = keyword:sea+sun")[1])
    assert set(own.again([built])) == {"sea = keyword:sea+sun"}
    assert own.is_judged("friend = judge: sounds like one") and not own.is_judged(text)
    # An equals sign behind the form's colon belongs to the form.
    assert own.split("regex:x = y")[1] == "regex:x = y"
    with pytest.raises(UsageError, match="feature 'rides = regex:': needs a pattern"):
        own.build("rides = regex:")


def test_functions_give_exact_ratios(package):
    assert value("own_tastes:third", "four") == Fraction(4, 3)
    assert value("own_tastes:asked", "sea", prompt="the sea") == 1
    assert value("own_tastes:tenth", "") == Fraction(0.1) != Fraction(1, 10)
    for name, says in (("broken", "nan; it must give a number of at most"), ("failing", "'sea'")):
        with pytest.raises(UsageError, match=f"feature 'own_tastes:{name}': {says}"):
            value(f"own_tastes:{name}", "rain")
    for number in [10**400, 2**32 + 1, -1e30, math.inf, Fraction(2**40)]:
        with pytest.raises(UsageError, match="at most 2"):
            own.exact(number)  # its differences would not fit
    assert own.exact(-(2**32)) == (-(2**32), 1)


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
        ([], ["xyzzy"], "szpo features --list has them"),
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

    monkeypatch.setattr(own, "importlib", SimpleNamespace(import_module=refuse))
    monkeypatch.setattr(own, "compile_pattern", refuse)
    monkeypatch.setattr(own.plugins, "load", refuse)
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
