"""How much of a direction the dictionary says: all of it, a part, and nothing."""

import numpy as np

from szpo.analysis import in_words
from szpo.optim.named_features import NamedFeatures

NAMES = ("length", "questions", "commas", "digits", "i", "you")
NAMED = NamedFeatures(NAMES, tuple(range(6)), (1,) * 6, ((0,),) * 6, 0, "")


def test_what_named_features_make_of_a_direction_is_said_and_the_rest_is_not():
    rng = np.random.default_rng(5)
    x, other = rng.normal(size=(160, 6)), rng.normal(size=160)
    prompts = [f"prompt {i // 2}" for i in range(160)]
    planted = 2 * x[:, 0] - x[:, 2]
    every, half, none = (
        in_words.explain(x, apart, prompts, NAMED)
        for apart in (planted, planted + np.sqrt(5) * other, other)
    )
    assert every.share > 0.85 and every.words[:2] == ("longer", "fewer commas")
    assert 0.3 < half.share < 0.6 and len(half.words) <= in_words.MOST
    assert half.words[0] == "longer"
    assert none.share < 0.05 and in_words.explain(x, 0 * other, prompts, NAMED).words == ()


def test_a_prompt_that_comes_again_is_left_out_as_a_whole():
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(10, 40))
    x, apart = np.repeat(rows, 4, axis=0), np.repeat(rng.normal(size=10), 4)
    names = tuple(f"keyword:{i}" for i in range(40))
    named = NamedFeatures(names, tuple(range(40)), (1,) * 40, ((0,),) * 40, 0, "")
    again = [f"prompt {i // 4}" for i in range(40)]
    assert in_words.explain(x, apart, again, named).share < 0.2
    assert in_words.explain(x, apart, [f"prompt {i}" for i in range(40)], named).share > 0.4


def test_prompts_are_left_out_by_their_order_and_no_number_of_this_process():
    rng = np.random.default_rng(7)
    x, noise = rng.normal(size=(160, 6)), rng.normal(size=160)
    apart = x[:, 0] + noise
    shares = {
        in_words.explain(x, apart, [f"{begin}{i // 2:03}" for i in range(160)], NAMED).share
        for begin in ("prompt ", "asked ", "", "z")
    }
    assert len(shares) == 1
