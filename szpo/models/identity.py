"""What a model is: one digest over everything in its files that changes an answer.

Its parts are the keys of its JSON files, its words, its chat templates and its tensors, together
with the quantization and the starting adapter. A part has a name, such as ``config.json:
rope_theta``, so that a model which is not the recorded one is told by what changed. Other files of
the folder, such as a README or ``consolidated.safetensors``, and keys that change no answer are no
part. The dtype is none either: it is named beside the digest, since files that ship serve every
dtype.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from szpo.errors import IntegrityError
from szpo.models import weight_files
from szpo.models.weight_files import list_first

TENSORS: Final = "tensors"
TEMPLATE: Final = "chat template"
QUANTIZATION: Final = "model.quantization"
ADAPTER: Final = "adapter"
"""How the names of a starting adapter's parts begin."""
ADAPTER_CONFIG: Final = "adapter_config.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
DEPTHS: Final = {
    "config.json": 3, "generation_config.json": 1, TOKENIZER_CONFIG: 1,
    "special_tokens_map.json": 1, "added_tokens.json": 1, "tokenizer.json": 2,
    ADAPTER_CONFIG: 1,
}  # fmt: skip
"""Files that are read by their keys, and how many keys deep a part is named."""
WORDS: Final = ("*.model", "*.tiktoken", "vocab.json", "vocab.txt", "merges.txt", "tekken.json")
"""Files of words that count as they are."""
ORIGIN: Final = {"_name_or_path", "name_or_path", "_model_name_or_path", "transformers_version",
                 "auto_map"}  # fmt: skip
IDLE: Final[Mapping[str, set[str]]] = {
    # The settings choose the dtype, and szpo reads no labels.
    "config.json": {*ORIGIN, "torch_dtype", "dtype", "use_cache", "id2label", "label2id"},
    # The settings choose how answers are drawn; all else that ``generate`` reads counts.
    "generation_config.json": {
        *ORIGIN, "_from_model_config", "do_sample", "temperature", "top_p", "top_k", "min_p",
        "typical_p", "max_length", "max_new_tokens", "use_cache", "output_attentions",
        "output_hidden_states", "output_scores", "return_dict_in_generate",
    },
    # Texts are never padded or cut by the tokenizer, and decoded as they are.
    TOKENIZER_CONFIG: {
        *ORIGIN, "tokenizer_file", "special_tokens_map_file", "clean_up_tokenization_spaces",
        "backend", "is_local", "local_files_only", "padding_side", "truncation_side",
        "processor_class", "chat_template",
    },
    "tokenizer.json": {"version", "truncation", "padding"},
    ADAPTER_CONFIG: {
        "base_model_name_or_path", "revision", "inference_mode", "task_type", "peft_version",
        "auto_mapping", "lora_dropout",
    },
}  # fmt: skip
"""Keys that change no answer, by file; every other key counts, also one that is not known."""
LONGEST: Final = 60
"""Characters of a value that is kept; of a longer one its SHA-256 is."""


@dataclass(frozen=True)
class Identity:
    """A model by its parts: a value, or the SHA-256 of a long one, by the part's name."""

    parts: Mapping[str, str]
    places: Mapping[str, str] = field(default_factory=dict, compare=False)
    """File and key of parts that may stand in several: chat templates."""

    @functools.cached_property
    def sha256(self) -> str:
        """The digest of all parts; empty while the tensors are not known."""
        if TENSORS not in self.parts:
            return ""
        return _sha256(json.dumps(sorted(self.parts.items())))

    @property
    def base(self) -> Identity:
        """The model without its starting adapter, as workers and judges hold it."""
        return self._without(ADAPTER)

    @property
    def files(self) -> Identity:
        """The model by its own files alone, to which adapters belong."""
        return self._without(ADAPTER, QUANTIZATION)

    def _without(self, *starts: str) -> Identity:
        kept = {name: x for name, x in self.parts.items() if not name.startswith(starts)}
        return Identity(kept, self.places)

    def beside(self, adapter: Mapping[str, str] | None) -> Identity:
        """The model with the parts of a starting adapter; see `read_adapter`."""
        return Identity({**self.parts, **(adapter or {})}, self.places)

    def changes(self, now: Identity) -> list[str]:
        """What is another in ``now``, each by file and key.

        >>> Identity({"config.json: rope_theta": "10000.0"}).changes(
        ...     Identity({"config.json: rope_theta": "500000.0"})
        ... )
        ['config.json: rope_theta 10000.0 -> 500000.0']
        """
        changes = []
        for name in sorted({*self.parts, *now.parts}):
            before, after = self.parts.get(name), now.parts.get(name)
            if before == after:
                continue
            if before is None or after is None:
                what = "removed" if after is None else "added"
            elif max(len(before), len(after)) < LONGEST:
                what = f"{before} -> {after}"
            else:
                what = "changed"
            place = now.places.get(name) or self.places.get(name)
            changes.append(f"{name} {what}{f' ({place})' if place else ''}")
        return changes


def read(
    folder: Path, *, quantization: str | None = None, adapter: Mapping[str, str] | None = None,
    weights: bool = True,
) -> Identity:  # fmt: skip
    """Read what the model in a folder is; each file is read again only when it changes.

    ``adapter``: the parts of a starting adapter. Without ``weights`` the tensors are left out.

    Raises:
        UsageError: Its weights are missing, damaged or not finite.
    """
    parts: dict[str, str] = {}
    for name in DEPTHS:
        if name != ADAPTER_CONFIG:
            parts |= _parts_in(folder / name)
    for each in sorted({path for pattern in WORDS for path in folder.glob(pattern)}):
        parts |= _parts_in(each)
    places = {n: f"{TOKENIZER_CONFIG}: chat_template" for n in parts if n.startswith(TEMPLATE)}
    if files := dict(_template_files(folder)):  # they replace those of the configuration
        parts = {name: x for name, x in parts.items() if name not in places}
        places = {name: str(path.relative_to(folder)) for name, path in files.items()}
        parts |= {n: _sha256(p.read_text("utf-8", "replace")) for n, p in files.items()}
    if weights:
        parts[TENSORS] = weight_files.digest(weight_files.safetensors_in(folder))
    if quantization is not None:
        parts[QUANTIZATION] = quantization
    return Identity(parts, places).beside(adapter)


def read_adapter(folder: Path) -> dict[str, str]:
    """The parts of a LoRA adapter: its tensors, and the settings that say what they do."""
    files = weight_files.safetensors_in(folder, what="adapter")
    tensors = {f"{ADAPTER}: {TENSORS}": weight_files.digest(files)}
    return {**tensors, **_parts_in(folder / ADAPTER_CONFIG)}


def require_same(recorded: Identity, now: Identity, *, what: str) -> None:
    """Refuse a model that is not the recorded one, and name what changed.

    Raises:
        IntegrityError: A part is another.
    """
    if changed := recorded.changes(now):
        raise IntegrityError(
            f"{what} is not the one that the run was made with: {list_first(changed)}; put it "
            "back, or start a new run"
        )


def _template_files(folder: Path) -> Iterator[tuple[str, Path]]:
    if (default := folder / "chat_template.jinja").is_file():
        yield TEMPLATE, default
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        yield f"{TEMPLATE} {path.stem}", path


def _parts_in(path: Path) -> Mapping[str, str]:
    """The parts in one file; none without it."""
    if not path.is_file():
        return {}
    stat = path.stat()
    return _read_parts(
        path.name, path.resolve(), (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    )


@functools.lru_cache(maxsize=256)
def _read_parts(name: str, path: Path, stamp: tuple[int, ...]) -> Mapping[str, str]:
    """Cached while the file's size and both times stay; ``name``: as its folder has it."""
    del stamp  # the time that touch sets, and the one that nobody can
    content = path.read_bytes()
    try:
        document = json.loads(content) if name in DEPTHS else None
    except ValueError:  # its loader says so
        document = None
    if not isinstance(document, dict):
        return {name: hashlib.sha256(content).hexdigest()}
    flat = _flatten(document, DEPTHS[name], IDLE.get(name, set()))
    parts = {f"{name}: {key}": _shorten(value) for key, value in flat}
    if name == TOKENIZER_CONFIG and (templates := document.get("chat_template")):
        parts |= _named_templates(templates)
    return parts


def _named_templates(templates: Any) -> dict[str, str]:
    with contextlib.suppress(KeyError, TypeError):  # what is no list of templates, its loader says
        if isinstance(templates, list):
            templates = {each["name"]: each["template"] for each in templates}
    named = templates if isinstance(templates, dict) else {"default": templates}
    return {
        TEMPLATE if name == "default" else f"{TEMPLATE} {name}": _sha256(str(text))
        for name, text in named.items()
    }


def _flatten(document: Mapping[str, Any], depth: int, idle: set[str]) -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if key in idle:
            continue
        if depth > 1 and isinstance(value, dict) and value:
            inner = _flatten(value, depth - 1, idle)
            yield from ((f"{key}.{name}", each) for name, each in inner)
        else:
            yield key, value


def _shorten(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) < LONGEST else _sha256(text)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
