"""What is read from the hub's folders; in: sound and spoilt folders, out: the weights, or one clear error."""

import fnmatch
import json
import pathlib
import re
import warnings
from collections.abc import Callable

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from t5_cases import (
    SHAPES,
    bitwise_equal,
    config,
    folder,
    one_torch_thread,
    random_weights,
    tied,
)

from r2d_jax.config import T5Config
from r2d_jax.errors import UserError
from r2d_jax.model.hf_format import locate, read_hf_config, read_hf_folder, write_hf_folder

__all__ = ["config", "folder", "one_torch_thread", "tied"]


def _rewrite(folder: pathlib.Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _reconfigure(folder: pathlib.Path, **values: object) -> None:
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stored | values))


def test_float16_files_are_widened_exactly_but_never_written(tied: pathlib.Path) -> None:
    _rewrite(tied, lambda tensors: tensors.update({k: v.astype(np.float16) for k, v in tensors.items()}))
    expected = jax.tree.map(
        lambda leaf: leaf.astype(np.float16).astype(np.float32), random_weights(SHAPES["tied_relu"])
    )
    assert bitwise_equal(read_hf_folder(tied)[1], expected)
    with pytest.raises(UserError, match="'float16' is not offered"):
        write_hf_folder(tied / "x", SHAPES["tied_relu"], expected, dtype="float16", generation={})


def test_every_wrong_tensor_is_named_in_one_error(tied: pathlib.Path) -> None:
    def spoil(tensors: dict[str, np.ndarray]) -> None:
        del tensors["encoder.final_layer_norm.weight"]
        del tensors["decoder.block.0.layer.1.EncDecAttention.k.weight"]
        tensors["adapter.weight"] = np.zeros(3, np.float32)
        tensors["encoder.block.0.layer.0.SelfAttention.q.weight"] = np.zeros((16, 18), np.float32)
        tensors["encoder.block.1.layer.0.SelfAttention.q.weight"] = np.zeros((18, 16), np.int8)

    _rewrite(tied, spoil)
    with pytest.raises(UserError) as caught:
        read_hf_folder(tied)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "encoder.final_layer_norm.weight is missing",
        "decoder.block.0.layer.1.EncDecAttention.k.weight is missing",
        "adapter.weight is unexpected",
        "encoder.block.0.layer.0.SelfAttention.q.weight has shape [16, 18], not [18, 16]",
        "encoder.block.1.layer.0.SelfAttention.q.weight has type I8",
    ):
        assert part in message
    assert message.count(" is missing") == 2
    assert message.count(" is unexpected") == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_named_with_its_file(
    tmp_path: pathlib.Path, dtype: str, value: float
) -> None:
    """Otherwise a model with NaN gives a label, with the probability NaN."""
    shape = SHAPES["tied_relu"]
    write_hf_folder(tmp_path / "m", shape, random_weights(shape), dtype=dtype, generation={})
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"

    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors[f"{name}_scale" if dtype == "int8" else name][-1, -1] = value

    _rewrite(tmp_path / "m", spoil)
    with pytest.raises(UserError, match=rf"^\S*model\.safetensors: {re.escape(name)} holds NaN or infinity"):
        read_hf_folder(tmp_path / "m")


def test_a_missing_head_of_an_untied_model_is_an_error(tmp_path: pathlib.Path) -> None:
    shape = SHAPES["untied_gated"]
    write_hf_folder(tmp_path / "m", shape, random_weights(shape), generation={})
    _rewrite(tmp_path / "m", lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(UserError, match=r"lm_head\.weight is missing"):
        read_hf_folder(tmp_path / "m")


@pytest.mark.parametrize(
    "copy", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"]
)
def test_copies_of_the_embedding_must_be_bitwise_equal(tied: pathlib.Path, copy: str) -> None:
    _rewrite(tied, lambda tensors: tensors.update({copy: tensors["shared.weight"].copy()}))
    assert bitwise_equal(read_hf_folder(tied)[1], random_weights(SHAPES["tied_relu"]))

    def nudge(tensors: dict[str, np.ndarray]) -> None:
        tensors[copy][3, 4] = np.nextafter(tensors[copy][3, 4], np.float32(9))

    _rewrite(tied, nudge)
    with pytest.raises(UserError, match=rf"{copy} differs from shared\.weight"):
        read_hf_folder(tied)


def test_embedding_under_another_of_its_names_is_found(tied: pathlib.Path) -> None:
    _rewrite(
        tied, lambda tensors: tensors.update({"encoder.embed_tokens.weight": tensors.pop("shared.weight")})
    )
    assert bitwise_equal(read_hf_folder(tied)[1], random_weights(SHAPES["tied_relu"]))


def test_the_old_unused_bias_of_cross_attention_is_left_out(tied: pathlib.Path) -> None:
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    _rewrite(tied, lambda tensors: tensors.update({name: np.ones((32, 3), np.float32)}))
    assert bitwise_equal(read_hf_folder(tied)[1], random_weights(SHAPES["tied_relu"]))


def test_sharded_files_read_as_one(folder: pathlib.Path, config: T5Config) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / shard, metadata={"format": "pt"})
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    assert bitwise_equal(read_hf_folder(folder)[1], random_weights(config))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="shards are missing: model-00002-of-00002"):
        read_hf_folder(folder)


@pytest.mark.parametrize("name", ["../{}", "{absolute}", "inner/{}", "./{}", "..\\{}", "..", ".", ""])
def test_a_shard_outside_the_folder_is_not_read(tied: pathlib.Path, name: str) -> None:
    """The index of a foreign model must not reach other files of this machine."""
    weights = "model-00001-of-00001.safetensors"
    tensors = load_file(tied / "model.safetensors")
    (tied / "inner").mkdir()
    for place in (tied, tied.parent, tied / "inner"):
        save_file(tensors, place / weights)
    (tied / "model.safetensors").unlink()
    shard = name.format(weights, absolute=tied.parent / weights)
    (tied / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(tensors, shard)})
    )
    with pytest.raises(UserError, match=r"index\.json: .* is not the name of a file in this folder"):
        read_hf_folder(tied)


def test_pickle_is_refused_with_what_to_do(tied: pathlib.Path) -> None:
    (tied / "model.safetensors").rename(tied / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickle \(pytorch_model\.bin\).*save_pretrained"):
        read_hf_folder(tied)


def test_a_cut_file_and_an_absent_one_are_told(tied: pathlib.Path) -> None:
    weights = tied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a readable safetensors file"):
        read_hf_folder(tied)
    weights.unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        read_hf_folder(tied)
    (tied / "config.json").write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        read_hf_config(tied)
    with pytest.raises(UserError, match="no such file"):
        read_hf_folder(tied.parent / "nowhere")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "bart"}, "model_type is 'bart'"),
        ({"model_type": "mt5"}, "model_type is 'mt5'"),
        ({"feed_forward_proj": "gelu", "is_gated_act": True}, "feed_forward_proj 'gelu'"),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj 'gated-silu'"),
        ({"pad_token_id": 3}, "pad_token_id is 3, not 0"),
        ({"d_model": "16"}, "d_model: "),
        ({"num_heads": 0}, "num_heads: "),
        ({"num_layers": 1_000_000}, "num_layers: Input should be less than or equal to 128"),
        ({"num_decoder_layers": 129}, "num_decoder_layers: "),
        ({"vocab_size": 10**12}, "vocab_size: "),
        ({"d_model": 2**40}, "d_model: "),
        ({"d_ff": 2**40}, "d_ff: "),
        ({"d_kv": 2**60}, "d_kv: "),
        ({"num_heads": 2**62}, "num_heads: "),
        ({"relative_attention_num_buckets": 2**40}, "relative_attention_num_buckets: "),
        ({"relative_attention_max_distance": 10**400}, "relative_attention_max_distance: "),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon: "),
        ({"layer_norm_epsilon": float("inf")}, "layer_norm_epsilon: "),
        ({"layer_norm_epsilon": -1e-6}, "layer_norm_epsilon: "),
    ],
)
def test_configs_that_the_model_cannot_compute_are_refused(
    tied: pathlib.Path, values: dict[str, object], message: str
) -> None:
    _reconfigure(tied, **values)
    with pytest.raises(UserError) as caught:
        read_hf_config(tied)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_layers": 128}, "num_layers is 128, and there are 2 in the encoder"),
        ({"num_layers": 1}, "num_layers is 1, and there are 2 in the encoder"),
        ({"num_decoder_layers": 128}, "num_decoder_layers is 128, and there are 1 in the decoder"),
    ],
)
def test_another_depth_is_told_before_the_model_is_built(
    tied: pathlib.Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, int], message: str
) -> None:
    """Building so many blocks takes minutes."""
    _reconfigure(tied, **values)
    monkeypatch.setattr("r2d_jax.model.hf_format.T5Factory", None)
    with pytest.raises(UserError, match=f"weights do not fit config.json: {message}"):
        read_hf_folder(tied)


def test_the_widest_model_that_may_be_named_is_only_another_one(tied: pathlib.Path) -> None:
    """Nothing of its size is made before it is compared with the weights."""
    widths = dict.fromkeys(("d_model", "d_ff", "d_kv", "num_heads"), 2**20)
    _reconfigure(tied, vocab_size=2**24, relative_attention_num_buckets=2**20, **widths)
    _reconfigure(tied, relative_attention_max_distance=2**20)
    with pytest.raises(UserError, match=r"shared\.weight has shape \[40, 16\], not \[16777216, 1048576\]"):
        read_hf_folder(tied)


@pytest.mark.parametrize("nested", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000])
def test_json_that_python_cannot_read_is_one_line(tied: pathlib.Path, nested: str) -> None:
    (tied / "config.json").write_text(nested)
    with pytest.raises(UserError, match=r"config\.json: not readable as JSON") as caught:
        read_hf_folder(tied)
    assert "\n" not in str(caught.value)


def test_feed_forward_proj_counts_where_fields_contradict(tied: pathlib.Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_hf_config(tied).feed_forward_proj == "relu"
    _reconfigure(tied, feed_forward_proj="gated-gelu", is_gated_act=False)
    with pytest.warns(UserWarning, match="contradict feed_forward_proj 'gated-gelu'"):
        assert read_hf_config(tied).feed_forward_proj == "gated-gelu"
    _reconfigure(tied, feed_forward_proj="gated-gelu", is_gated_act=True, dense_act_fn="gelu")
    with pytest.warns(UserWarning, match="'gelu' contradict"):
        assert read_hf_config(tied).feed_forward_proj == "gated-gelu"


def test_missing_fields_mean_what_transformers_means(tied: pathlib.Path) -> None:
    (tied / "config.json").write_text(
        json.dumps({"model_type": "t5", "num_layers": 4, "num_decoder_layers": None})
    )
    assert read_hf_config(tied) == T5Config(num_layers=4, num_decoder_layers=4)
    _reconfigure(tied, num_decoder_layers=2, tie_word_embeddings=False)
    assert read_hf_config(tied) == T5Config(num_layers=4, num_decoder_layers=2, tie_word_embeddings=False)


def test_a_local_path_never_asks_the_hub(tied: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    assert locate(str(tied)) == tied
    assert locate(str(tied / "config.json")) == tied / "config.json"
    for wrong in (str(tied / "no" / "such"), "./nowhere", "a/b/c", ""):
        with pytest.raises(UserError, match="no such folder or file"):
            locate(wrong)


def test_a_hub_name_is_fetched_without_pickle_and_failures_name_it(
    tied: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked = []

    def fetch(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tied)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert locate("google/flan-t5-small") == tied
    [(name, patterns)] = asked
    assert name == "google/flan-t5-small"
    wanted = ["config.json", "model-00001-of-00002.safetensors", "tokenizer.json", "spiece.model"]
    assert all(any(fnmatch.fnmatch(file, pattern) for pattern in patterns) for file in wanted)
    unwanted = ["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot"]
    assert not any(fnmatch.fnmatch(file, pattern) for file in unwanted for pattern in patterns)
    monkeypatch.undo()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"^no-such-owner/no-such-model: .*network"):
        locate("no-such-owner/no-such-model")
