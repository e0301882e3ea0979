"""Reading checkpoints: what is read back, and every way in which a directory can be wrong."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from compiler.errors import WispError
from compiler.models import config_from_huggingface, weight_specs
from compiler.sources.open import open_checkpoint
from compiler.sources.protocol import Checkpoint
from tests.checkpoints import CHAT_TEMPLATE, make_llama, make_phi3


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    """A checkpoint to break."""
    for file in llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def check(checkpoint: Checkpoint) -> None:
    model = config_from_huggingface(checkpoint.config, 64)
    checkpoint.check_weights(weight_specs(model), tied=model.tie_word_embeddings)


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


# ---------------------------------------------------------------------------------------------------------------- good


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_are_read_as_float32(tmp_path: Path, dtype: str) -> None:
    checkpoint = open_checkpoint(make_phi3(tmp_path, dtype=dtype))
    check(checkpoint)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        for name, info in checkpoint.tensors.items():
            expected = file.get_tensor(name)
            assert info.shape == tuple(expected.shape)
            read = checkpoint.read(name)
            assert read.dtype == np.float32
            np.testing.assert_array_equal(read, expected.float().numpy())


def test_rows_and_blocks(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(llama)
    whole = checkpoint.read("model.embed_tokens.weight")
    np.testing.assert_array_equal(checkpoint.read("model.embed_tokens.weight", 7, 9), whole[7:9])
    spec = next(s for s in weight_specs(config_from_huggingface(checkpoint.config, 64)) if s.role == "qkv")
    monkeypatch.setattr("compiler.sources.huggingface.BLOCK_ELEMENTS", 10 * spec.shape[1])
    blocks = list(checkpoint.blocks(spec))
    assert max(len(block) for block in blocks) == 10
    np.testing.assert_array_equal(np.concatenate(blocks), np.concatenate([checkpoint.read(s) for s in spec.sources]))


def test_an_index_over_several_files(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    names = sorted(tensors)
    (copy / "model.safetensors").unlink()
    save_file({name: tensors[name] for name in names[:5]}, copy / "model-00001-of-00002.safetensors")
    save_file({name: tensors[name] for name in names[5:]}, copy / "model-00002-of-00002.safetensors")
    weight_map = {name: f"model-0000{1 if name in names[:5] else 2}-of-00002.safetensors" for name in names}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    checkpoint = open_checkpoint(copy)
    check(checkpoint)
    np.testing.assert_array_equal(checkpoint.read(names[0]), tensors[names[0]].numpy())


def test_the_text_side(llama: Path) -> None:
    checkpoint = open_checkpoint(llama)
    assert [file.name for file in checkpoint.tokenizer_files] == ["tokenizer.json", "tokenizer_config.json"]
    assert checkpoint.chat_template == CHAT_TEMPLATE
    assert checkpoint.stop_token_ids == (2, 6)
    assert checkpoint.bos_token_id == 1
    assert checkpoint.token_ids["<|end|>"] == 6
    assert (checkpoint.source.kind, checkpoint.source.id, checkpoint.source.revision) == ("directory", llama.name, None)


def test_the_chat_template_of_older_checkpoints(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    config = copy / "tokenizer_config.json"
    assert open_checkpoint(copy).chat_template is None
    edit_json(config, lambda c: c.update(chat_template="one"))
    assert open_checkpoint(copy).chat_template == "one"
    templates = [{"name": "tool_use", "template": "two"}, {"name": "default", "template": "three"}]
    edit_json(config, lambda c: c.update(chat_template=templates))
    assert open_checkpoint(copy).chat_template == "three"


def test_stop_ids_are_those_of_every_file(copy: Path) -> None:
    edit_json(copy / "config.json", lambda c: c.update(eos_token_id=3))
    edit_json(copy / "generation_config.json", lambda c: c.update(eos_token_id=[6, 3]))
    assert open_checkpoint(copy).stop_token_ids == (6, 3, 2)
    (copy / "generation_config.json").unlink()
    edit_json(copy / "config.json", lambda c: c.update(eos_token_id=None))
    assert open_checkpoint(copy).stop_token_ids == (2,)


def test_what_no_network_needs_may_be_there(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(32)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, copy / "model.safetensors")
    check(open_checkpoint(copy))


# ------------------------------------------------------------------------------------------------------------- weights


def test_all_that_does_not_match_is_listed(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.norm.weight"], tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(192)
    tensors["adapter.weight"] = torch.zeros(1)
    tensors["model.layers.0.mlp.down_proj.weight"] = torch.zeros(192, 360)
    tensors["model.layers.1.mlp.down_proj.weight"] = torch.zeros(192, 352, dtype=torch.int8)
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(WispError) as caught:
        check(open_checkpoint(copy))
    message = str(caught.value)
    assert "2 missing: model.layers.1.mlp.up_proj.weight, model.norm.weight" in message
    assert "2 unexpected: adapter.weight, model.layers.0.self_attn.q_proj.bias" in message
    assert "1 of another shape: model.layers.0.mlp.down_proj.weight [192, 360] instead of [192, 352]" in message
    assert "1 of an unsupported type: model.layers.1.mlp.down_proj.weight I8" in message
    assert "\n" not in message


def test_an_untied_head_has_to_be_there(copy: Path) -> None:
    edit_json(copy / "config.json", lambda c: c.update(tie_word_embeddings=False))
    with pytest.raises(WispError, match=r"missing: lm_head\.weight"):
        check(open_checkpoint(copy))


def test_a_tensor_in_two_files_is_refused(copy: Path) -> None:
    save_file(load_file(copy / "model.safetensors"), copy / "other.safetensors")
    (copy / "model.safetensors").rename(copy / "one.safetensors")
    weight_map = {"a": "one.safetensors", "b": "other.safetensors"}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(WispError, match=r"twice.*model\.norm\.weight \(in one\.safetensors and other\.safetensors\)"):
        check(open_checkpoint(copy))


@pytest.mark.parametrize(
    "weight_map",
    [{"a": "../one.safetensors"}, {"a": "/etc/passwd"}, {"a": 1}, [], None, {"a": "not-there.safetensors"}],
)
def test_a_bad_index_is_refused(copy: Path, weight_map: Any) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(WispError, match=r"model\.safetensors\.index\.json"):
        check(open_checkpoint(copy))


def test_other_kinds_of_weights_are_named(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(WispError, match=r"pytorch_model\.bin.*model\.safetensors"):
        check(open_checkpoint(copy))


# ---------------------------------------------------------------------------------------------------- lying safetensors


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    change(header)
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + raw[8 + length :])


NORM = "model.norm.weight"


def set_offsets(header: dict[str, Any], start: int, stop: int) -> None:
    offsets = header[NORM]["data_offsets"]
    header[NORM]["data_offsets"] = [offsets[0] + start, offsets[1] + stop]


LIES: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("beyond the file", lambda h: set_offsets(h, 0, 1 << 40), f"tensor {NORM} ends at byte"),
    ("overlap", lambda h: set_offsets(h, -768, -768), f"{NORM} begins at byte"),
    ("shape", lambda h: h[NORM].update(shape=[193]), rf"{NORM} is F32 \[193\] in 768 bytes"),
    ("type", lambda h: h[NORM].update(dtype="F16"), rf"{NORM} is F16 \[192\] in 768 bytes"),
    ("unknown type", lambda h: h[NORM].update(dtype="Q4"), "Q4"),
    ("negative shape", lambda h: h[NORM].update(shape=[-192]), "-192"),
    ("not described", lambda h: h.pop(NORM), "bytes"),
    ("no object", lambda h: h.update({NORM: 3}), "invalid"),
]


@pytest.mark.parametrize(("change", "named"), [lie[1:] for lie in LIES], ids=[lie[0] for lie in LIES])
def test_a_header_that_lies_is_refused(copy: Path, change: Callable[[dict[str, Any]], object], named: str) -> None:
    rewrite(copy / "model.safetensors", change)
    with pytest.raises(WispError, match=f"model.safetensors is damaged.*{named}"):
        check(open_checkpoint(copy))


BROKEN: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("truncated", lambda raw: raw[:-1], "is the file complete"),
    ("truncated header", lambda raw: raw[:100], "is the file complete"),
    ("empty", lambda raw: b"", "header too small"),
    ("trailing bytes", lambda raw: raw + b"x", "its header describes"),
    ("header too large", lambda raw: struct.pack("<Q", 1 << 60) + raw[8:], "claims"),
    ("no JSON", lambda raw: raw[:8] + b"}" + raw[9:], "invalid"),
    ("no UTF-8", lambda raw: raw[:8] + b"\xff" + raw[9:], "invalid|UTF"),
]


@pytest.mark.parametrize(("change", "named"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_damaged_file_is_refused(copy: Path, change: Callable[[bytes], bytes], named: str) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(WispError, match=f"model.safetensors is damaged.*({named})"):
        check(open_checkpoint(copy))


def test_a_name_twice_in_one_header_is_refused(copy: Path) -> None:
    path = copy / "model.safetensors"
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    encoded = json.dumps(header)[:-1] + f', "{NORM}": {json.dumps(header[NORM])}}}'
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded.encode() + raw[8 + length :])
    with pytest.raises(WispError, match=f"{NORM} twice"):
        check(open_checkpoint(copy))


# --------------------------------------------------------------------------------------------------------- other files


def test_no_tokenizer_says_how_to_make_one(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer.model").write_bytes(b"sentencepiece")
    with pytest.raises(WispError, match=r"tokenizer\.model.*save_pretrained"):
        _ = open_checkpoint(copy).tokenizer_files


def test_no_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WispError, match=r"no config\.json"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "\udcff"])
def test_a_bad_config_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(WispError, match=r"config\.json"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("value", ["2", -1, True, [2, None, "x"]])
def test_bad_end_tokens_are_refused(copy: Path, value: Any) -> None:
    edit_json(copy / "generation_config.json", lambda c: c.update(eos_token_id=value))
    with pytest.raises(WispError, match=r"generation_config\.json eos_token_id"):
        _ = open_checkpoint(copy).stop_token_ids
