"""Templates, tokenizers and heads of other people's models, as transformers reads them."""

import json
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from tokenizers import processors

from szpo.data.prompts import PromptSet
from szpo.errors import UsageError
from szpo.models import loading
from szpo.models.loading import Reader
from szpo.models.local_engines import FlatEngine, GenerateEngine
from szpo.models.sampling import Sampling
from szpo.types import Prompt
from tests.support import folder_run, tiny_models
from tests.support.cases import case
from tests.support.tiny_models import TEMPLATE, tokenizer

ASKED = Prompt.user("w7 w8")
DATED = "{{ strftime_now('%d') }} " + TEMPLATE
SYSTEM = Prompt((("system", "w9"), *ASKED.turns))


def templates(folder, named):
    """The folder with a tokenizer of these named templates."""
    tokenizer(chat=False).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    listed = [{"name": name, "template": text} for name, text in named.items()]
    document = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**document, "chat_template": listed}), "utf-8")
    return folder


def test_of_named_templates_the_one_named_default_is_taken(tmp_path):
    for number, default in enumerate((TEMPLATE, DATED)):
        named = {"default": default, "tool_use": "tools"}
        words = loading.load_tokenizer(templates(tmp_path / str(number), named))
        assert loading.encode(words, ASKED)[-4:] == (3, 7, 8, 4)
        assert loading.writes_date(words) == (default == DATED)
    alone = templates(tmp_path / "none", {"rag": TEMPLATE, "tool_use": TEMPLATE})
    with pytest.raises(UsageError, match=r"no default specified.*'rag', 'tool_use'"):
        loading.load_tokenizer(alone)


@pytest.mark.parametrize(
    "asks",
    [
        "{{ strftime_now('%d %b') }}",
        "{{ strftime_now ('%d %b') }}",
        "{{ strftime_now(format='%d %b') }}",
        "{{ strftime_now('%d' + ' %b') }}",
        "{% set f = '%d %b' %}{{ strftime_now(f) }}",
        "{% if strftime_now is defined %}{% set d = strftime_now('%-d %b') %}{% endif %}{{ d }}",
    ],
)
def test_a_template_writes_the_runs_date_however_it_asks_for_it(asks):
    words = tokenizer()
    words.chat_template = asks + TEMPLATE
    words.add_tokens(["30", "27", "Nov", "'", "+"])
    for day, number in ((date(2031, 11, 30), "30"), (date(2031, 11, 27), "27")):
        words.szpo_day = day
        assert loading.writes_date(words)
        read = words.decode(loading.encode(words, ASKED)).split()
        assert read == [number, "Nov", "<user>", "w7", "w8", "<assistant>"]


def test_a_template_that_opens_a_thought_is_told_before_anybody_reads_thoughts():
    words = tokenizer()
    asked = PromptSet((ASKED,), ())
    for opened, told in (("<think>", True), ("[THINK] ", True), ("<think></think>", False)):
        words.chat_template = TEMPLATE.replace("<assistant> ", f"<assistant> {opened}")
        words.add_tokens(["<think>", "[THINK]", "</think>"])
        found = loading.fit_prompts(asked, Reader("mine", words, None), 8)
        assert any("opens a thought" in each for each in found.warnings) == told, opened


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokenizer.json", {"model": {"type": "Newer"}}),
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1\n"),
        ("tokenizer_config.json", []),
    ],
)
def test_tokenizer_files_of_another_kind_are_refused_in_one_line(file, text, tmp_path):
    tokenizer().save_pretrained(tmp_path)
    path = tmp_path / file
    if isinstance(text, dict):
        text = {**json.loads(path.read_text("utf-8")), **text}
    path.write_text(text if isinstance(text, str) else json.dumps(text), "utf-8")
    with pytest.raises(UsageError, match=r"transformers cannot load it: .*\(its tokenizer\)$"):
        loading.load_tokenizer(tmp_path)


def test_a_prompt_does_not_end_where_the_tokenizer_appends_its_end_token():
    words = tokenizer(chat=False)
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert words("w7 w8")["input_ids"] == [1, 7, 8, 2]
    assert loading.encode(words, ASKED) == (1, 7, 8)


@pytest.mark.parametrize(
    ("template", "prompt", "lost"),
    [
        (TEMPLATE.replace("messages", "messages if m.role != 'system'", 1), SYSTEM, "system"),
        ("<user> w6 <assistant>", ASKED, "user"),
        (
            "<user> {{ messages[-1].content }}",
            Prompt((*ASKED.turns, ("assistant", "w9"), *ASKED.turns)),
            "user",
        ),
        (TEMPLATE.replace("messages", "messages if m.role == 'user'", 1), SYSTEM, "system"),
    ],
)  # fmt: skip
def test_a_template_that_leaves_out_a_turn_is_refused_with_the_prompts_place(
    template, prompt, lost
):
    words = tokenizer()
    words.chat_template = template
    with pytest.raises(UsageError, match=f"leaves out a turn of the {lost}"):
        loading.encode(words, prompt)
    given = PromptSet((prompt,), (), places={prompt: "mine.jsonl:7"})
    with pytest.raises(UsageError, match=r"^mine.jsonl:7: the model's chat template leaves out"):
        loading.fit_prompts(given, Reader("mine", words, None), 8)


def test_templates_that_change_a_turns_words_take_it():
    """Thoughts before an answer, spaces and letters' cases are a template's own affair."""
    turns = (*SYSTEM.turns, ("assistant", "<think> w6 </think> w9"), *ASKED.turns)
    for change in ("| upper", "| trim", ".split('</think>')[-1]"):
        words = tokenizer()
        words.chat_template = TEMPLATE.replace("m['content']", f"m['content'] {change}")
        with case(change):
            assert loading.encode(words, Prompt(turns))


def test_end_tokens_of_a_model_may_be_words_of_its_tokenizer():
    made = tiny_models.loaded("llama")
    made.model.generation_config.eos_token_id = ["w9", 7]
    assert loading.stop_tokens(made) == (2, 7, 9)
    made.model.generation_config.eos_token_id = "</s>"
    assert loading.stop_tokens(made) == (2,)
    for odd in (True, [[2]], [2, 1.0]):
        made.model.generation_config.eos_token_id = odd
        with pytest.raises(UsageError, match="is no token of its tokenizer"):
            loading.stop_tokens(made)
    made.model.generation_config.eos_token_id = "<end>"
    with pytest.raises(UsageError, match="eos_token_id '<end>' is no token of its tokenizer"):
        loading.stop_tokens(made)


@pytest.mark.full
def test_a_model_whose_end_is_no_token_is_refused_when_it_is_fetched(tmp_path):
    model = folder_run.model(tmp_path)
    loading.fetch(str(model), say=lambda line: None)
    path = model / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": "<end>"}), "utf-8")
    with pytest.raises(UsageError, match="eos_token_id '<end>' is no token of its tokenizer"):
        loading.fetch(str(model), say=lambda line: None)


@pytest.mark.full
@pytest.mark.parametrize("kind", [FlatEngine, GenerateEngine])
def test_rows_of_the_head_without_a_token_are_never_drawn(kind):
    """The tokenizer lacks w300 … w319; without the rule 20 of 320 draws are such holes."""
    made = replace(tiny_models.loaded("llama"), tokenizer=tokenizer(count=300))
    assert loading.wordless(made) == tuple(range(300, 320))
    draws = np.random.default_rng(0).random((40, 8))
    prompts, members = [(7, 8 + i) for i in range(40)], [0] * 40
    for wordless in ((), loading.wordless(made)):
        engine = kind(replace(made.adapt(), wordless=wordless))
        for temperature in (0.0, 1.0, 3.0):
            settings = Sampling(temperature=temperature, max_new_tokens=8)
            rows = engine.generate(prompts, members, None, settings, draws)
            holes = {token for row in rows for token in row if token >= 300}
            assert bool(holes) != bool(wordless), temperature
