"""Weight files; in: real and made-up checkpoints, out: equal weights, torch's logits, or one clear error."""

import json
import pathlib
import warnings
from collections.abc import Callable, Iterator

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from r2d_jax.config import T5Config
from r2d_jax.errors import UserError
from r2d_jax.model.hf_format import locate, read_hf_config, read_hf_folder, write_hf_folder
from r2d_jax.model.parameters import Params, T5Factory, flatten, unflatten
from r2d_jax.model.t5x_format import read_t5x_checkpoint

TOLERANCE = 1e-4
SMALL = {"vocab_size": 40, "d_model": 16, "d_ff": 24, "d_kv": 6, "num_heads": 3, "num_layers": 2}
SHAPES = {
    "tied_relu": T5Config(**SMALL, num_decoder_layers=1),
    "untied_gated": T5Config(
        **SMALL, num_decoder_layers=3, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _strict_promotion_and_one_torch_thread() -> Iterator[None]:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    # At this size torch spends its time in handing work between threads.
    torch.set_num_threads(1)
    before = jax.config.jax_numpy_dtype_promotion, jax.config.jax_numpy_rank_promotion
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    yield
    jax.config.update("jax_numpy_dtype_promotion", before[0])
    jax.config.update("jax_numpy_rank_promotion", before[1])
    torch.set_num_threads(threads)


def _weights(config: T5Config, seed: int = 0) -> Params:
    rng = np.random.default_rng(seed)
    return unflatten(
        {
            name: (rng.normal(size=leaf.shape) * 0.5).astype(np.float32)
            for name, leaf in flatten(T5Factory(config).abstract_params).items()
        }
    )


def _equal(ours: Params, theirs: Params) -> bool:
    left, right = flatten(ours), flatten(theirs)
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype == np.float32
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


@pytest.fixture(params=list(SHAPES))
def config(request: pytest.FixtureRequest) -> T5Config:
    return SHAPES[request.param]


@pytest.fixture
def folder(tmp_path: pathlib.Path, config: T5Config) -> pathlib.Path:
    write_hf_folder(tmp_path / "model", config, _weights(config), generation={})
    return tmp_path / "model"


@pytest.fixture
def tied(tmp_path: pathlib.Path) -> pathlib.Path:
    write_hf_folder(tmp_path / "tied", SHAPES["tied_relu"], _weights(SHAPES["tied_relu"]), generation={})
    return tmp_path / "tied"


def _rewrite(folder: pathlib.Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _reconfigure(folder: pathlib.Path, **values: object) -> None:
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stored | values))


def _logits(config: T5Config, params: Params, ids: np.ndarray, decoder_ids: np.ndarray) -> np.ndarray:
    @jax.jit
    def run(params: Params) -> jax.Array:
        model = T5Factory(config).merge(params)
        mask = (ids != 0).astype(np.int32)
        return model.decode(decoder_ids, model.encode(ids, mask), mask)

    return np.asarray(run(params))


def _torch_logits(
    folder: pathlib.Path, ids: np.ndarray, decoder_ids: np.ndarray, **settings: object
) -> np.ndarray:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, info = transformers.T5ForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True, local_files_only=True, **settings
    )
    assert not info["missing_keys"], info
    assert not info["unexpected_keys"], info
    assert not info["mismatched_keys"], info
    with torch.no_grad():
        return (
            model.eval()(
                input_ids=torch.tensor(ids, dtype=torch.long),
                attention_mask=torch.tensor(ids != 0, dtype=torch.long),
                decoder_input_ids=torch.tensor(decoder_ids, dtype=torch.long),
            )
            .logits.float()
            .numpy()
        )


def _rows(vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    ids = rng.integers(2, vocab_size, (2, 150)).astype(np.int32)
    ids[1, 11:] = 0
    return ids, rng.integers(2, vocab_size, (2, 20)).astype(np.int32)


def test_export_and_import_are_bitwise_inverse(folder: pathlib.Path, config: T5Config) -> None:
    shape, params = read_hf_folder(folder)
    assert shape == config == read_hf_config(folder)
    assert _equal(params, _weights(config))


def test_export_gives_torch_our_logits_and_all_names(folder: pathlib.Path, config: T5Config) -> None:
    ids, decoder_ids = _rows(config.vocab_size)
    theirs = _torch_logits(folder, ids, decoder_ids)
    assert theirs.std() > 0.1
    np.testing.assert_allclose(_logits(config, _weights(config), ids, decoder_ids), theirs, atol=TOLERANCE)


def test_transformers_own_copy_of_an_export_reads_the_same(
    folder: pathlib.Path, config: T5Config, tmp_path: pathlib.Path
) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.T5ForConditionalGeneration.from_pretrained(folder).save_pretrained(tmp_path / "again")
    shape, params = read_hf_folder(tmp_path / "again")
    assert shape == config
    assert _equal(params, _weights(config))


def test_untied_model_born_in_transformers_reads_with_its_logits(tmp_path: pathlib.Path) -> None:
    # transformers 5 gives such a model one table for both ends, yet does not scale the output.
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = transformers.T5Config(**SMALL, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    transformers.T5ForConditionalGeneration(settings).save_pretrained(tmp_path)
    shape, params = read_hf_folder(tmp_path)
    assert not shape.tie_word_embeddings
    ids, decoder_ids = _rows(40)
    theirs = _torch_logits(tmp_path, ids, decoder_ids)
    np.testing.assert_allclose(_logits(shape, params, ids, decoder_ids), theirs, atol=TOLERANCE)


def test_bfloat16_export_is_read_alike_by_torch_and_by_us(tmp_path: pathlib.Path, config: T5Config) -> None:
    torch = pytest.importorskip("torch")
    params = _weights(config)
    write_hf_folder(tmp_path / "half", config, params, dtype="bfloat16", generation={})
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    from safetensors.torch import load_file as load_torch

    stored = load_torch(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    expected = jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16).astype(np.float32), params)
    assert not _equal(expected, params)
    _, ours = read_hf_folder(tmp_path / "half")
    assert _equal(ours, expected)
    np.testing.assert_array_equal(stored["shared.weight"].float().numpy(), expected["embedding"])
    ids, decoder_ids = _rows(config.vocab_size)
    theirs = _torch_logits(tmp_path / "half", ids, decoder_ids, dtype=torch.float32)
    np.testing.assert_allclose(_logits(config, ours, ids, decoder_ids), theirs, atol=TOLERANCE)


def test_float16_files_are_widened_exactly_but_never_written(tied: pathlib.Path) -> None:
    _rewrite(tied, lambda tensors: tensors.update({k: v.astype(np.float16) for k, v in tensors.items()}))
    expected = jax.tree.map(
        lambda leaf: leaf.astype(np.float16).astype(np.float32), _weights(SHAPES["tied_relu"])
    )
    assert _equal(read_hf_folder(tied)[1], expected)
    with pytest.raises(UserError, match="'float16' is not offered"):
        write_hf_folder(tied / "x", SHAPES["tied_relu"], expected, dtype="float16", generation={})


def test_one_copy_of_the_embedding_and_a_head_only_when_untied(
    folder: pathlib.Path, config: T5Config
) -> None:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "numpy") as file:
        names = set(file.keys())
        assert file.metadata() == {"format": "pt"}
    assert "shared.weight" in names
    assert not names & {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    assert ("lm_head.weight" in names) == (not config.tie_word_embeddings)
    stored = json.loads((folder / "config.json").read_text())
    assert stored["feed_forward_proj"] == config.feed_forward_proj
    assert stored["tie_word_embeddings"] == config.tie_word_embeddings
    assert (stored["pad_token_id"], stored["eos_token_id"], stored["decoder_start_token_id"]) == (0, 1, 0)


def test_exported_generation_settings_steer_torch(tmp_path: pathlib.Path, config: T5Config) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    flat = flatten(_weights(config))
    flat["head" if "head" in flat else "embedding"][35] *= 20
    params = unflatten(flat)
    asked = {"do_sample": False, "num_beams": 1, "max_new_tokens": 7}
    ids = torch.tensor(_rows(35)[0][:, :11], dtype=torch.long)
    outputs = {}
    for name, more in (("free", {}), ("held", {"suppress_tokens": [1, *range(32, 40)]})):
        write_hf_folder(tmp_path / name, config, params, generation=asked | more)
        model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / name)
        outputs[name] = model.generate(ids).numpy()
    assert (outputs["free"] == 35).any()
    assert outputs["held"].max() < 32
    assert outputs["held"].shape == (2, 1 + 7)


def test_extra_files_are_written_beside(tmp_path: pathlib.Path) -> None:
    shape = SHAPES["tied_relu"]
    write_hf_folder(
        tmp_path / "a" / "b", shape, _weights(shape), generation={}, extra_files={"card.json": "{≥}"}
    )
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [
        "card.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    assert (tmp_path / "a" / "b" / "card.json").read_text(encoding="utf-8") == "{≥}"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_a_full_folder_is_replaced_only_when_asked_and_only_if_a_model(tied: pathlib.Path) -> None:
    shape, other = SHAPES["tied_relu"], _weights(SHAPES["tied_relu"], seed=1)
    (tied / "stale.txt").write_text("old")
    with pytest.raises(UserError, match="is not empty"):
        write_hf_folder(tied, shape, other, generation={})
    assert _equal(read_hf_folder(tied)[1], _weights(shape))
    write_hf_folder(tied, shape, other, generation={}, overwrite=True)
    assert _equal(read_hf_folder(tied)[1], other)
    assert not (tied / "stale.txt").exists()
    notes = tied.parent / "notes"
    notes.mkdir()
    (notes / "diary.txt").write_text("mine")
    with pytest.raises(UserError, match="not a model folder"):
        write_hf_folder(notes, shape, other, generation={}, overwrite=True)
    assert (notes / "diary.txt").read_text() == "mine"
    assert sorted(path.name for path in tied.parent.iterdir()) == ["notes", "tied"]


def test_a_failed_write_leaves_the_old_folder(tied: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("r2d_jax.model.hf_format.save_file", full_disk)
    shape = SHAPES["tied_relu"]
    with pytest.raises(UserError, match="No space left"):
        write_hf_folder(tied, shape, _weights(shape, seed=1), generation={}, overwrite=True)
    assert _equal(read_hf_folder(tied)[1], _weights(shape))
    assert [path.name for path in tied.parent.iterdir()] == ["tied"]


def test_weights_of_another_shape_are_not_written(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="not of this T5Config"):
        write_hf_folder(tmp_path / "x", SHAPES["untied_gated"], _weights(SHAPES["tied_relu"]), generation={})
    assert not list(tmp_path.iterdir())


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


def test_a_missing_head_of_an_untied_model_is_an_error(tmp_path: pathlib.Path) -> None:
    shape = SHAPES["untied_gated"]
    write_hf_folder(tmp_path / "m", shape, _weights(shape), generation={})
    _rewrite(tmp_path / "m", lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(UserError, match=r"lm_head\.weight is missing"):
        read_hf_folder(tmp_path / "m")


@pytest.mark.parametrize(
    "copy", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"]
)
def test_copies_of_the_embedding_must_be_bitwise_equal(tied: pathlib.Path, copy: str) -> None:
    _rewrite(tied, lambda tensors: tensors.update({copy: tensors["shared.weight"].copy()}))
    assert _equal(read_hf_folder(tied)[1], _weights(SHAPES["tied_relu"]))

    def nudge(tensors: dict[str, np.ndarray]) -> None:
        tensors[copy][3, 4] = np.nextafter(tensors[copy][3, 4], np.float32(9))

    _rewrite(tied, nudge)
    with pytest.raises(UserError, match=rf"{copy} differs from shared\.weight"):
        read_hf_folder(tied)


def test_embedding_under_another_of_its_names_is_found(tied: pathlib.Path) -> None:
    _rewrite(
        tied, lambda tensors: tensors.update({"encoder.embed_tokens.weight": tensors.pop("shared.weight")})
    )
    assert _equal(read_hf_folder(tied)[1], _weights(SHAPES["tied_relu"]))


def test_the_old_unused_bias_of_cross_attention_is_left_out(tied: pathlib.Path) -> None:
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    _rewrite(tied, lambda tensors: tensors.update({name: np.ones((32, 3), np.float32)}))
    assert _equal(read_hf_folder(tied)[1], _weights(SHAPES["tied_relu"]))


def test_sharded_files_read_as_one(folder: pathlib.Path, config: T5Config) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / shard, metadata={"format": "pt"})
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    assert _equal(read_hf_folder(folder)[1], _weights(config))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="shards are missing: model-00002-of-00002"):
        read_hf_folder(folder)


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
    ],
)
def test_configs_that_the_model_cannot_compute_are_refused(
    tied: pathlib.Path, values: dict[str, object], message: str
) -> None:
    _reconfigure(tied, **values)
    with pytest.raises(UserError) as caught:
        read_hf_config(tied)
    assert message in str(caught.value)


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
    import fnmatch

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


def test_the_real_hugging_face_file_gives_torchs_logits(shared_data: pathlib.Path) -> None:
    folder = shared_data / "t5_chronos_dummy"
    shape, params = read_hf_folder(folder)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 23_040
    assert (shape.d_model, shape.d_kv, shape.num_heads, shape.feed_forward_proj) == (64, 16, 1, "relu")
    ids, decoder_ids = _rows(shape.vocab_size)
    import torch

    theirs = _torch_logits(folder, ids, decoder_ids, dtype=torch.float32)
    np.testing.assert_allclose(_logits(shape, params, ids, decoder_ids), theirs, atol=TOLERANCE)


def test_the_real_t5x_file_exports_to_torch_with_our_logits(
    shared_data: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shape, params = read_t5x_checkpoint(shared_data / "t5x_tiny" / "test_t5_tiny.checkpoint_0")
    assert shape == T5Config(
        vocab_size=32128,
        d_model=8,
        d_ff=16,
        d_kv=3,
        num_heads=4,
        num_layers=2,
        num_decoder_layers=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    head = params["head"].size
    assert head == 8 * 32_128
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 261_216 + head
    ids, decoder_ids = _rows(shape.vocab_size)
    ours = _logits(shape, params, ids, decoder_ids)
    assert np.isfinite(ours).all()
    write_hf_folder(tmp_path / "model", shape, params, generation={})
    np.testing.assert_allclose(ours, _torch_logits(tmp_path / "model", ids, decoder_ids), atol=TOLERANCE)


def _as_t5x(config: T5Config, params: Params) -> dict:
    """The tree T5X would hold, written out by hand from T5X's own names."""
    flat = flatten(params)

    def attention(prefix: str) -> dict:
        names = {"query": "q", "key": "k", "value": "v", "out": "o"}
        return {theirs: {"kernel": flat[f"{prefix}/{ours}/kernel"]} for theirs, ours in names.items()}

    def mlp(prefix: str) -> dict:
        names = {"wi_0": "wi_gate", "wi_1": "wi", "wo": "wo"}
        if config.feed_forward_proj == "relu":
            names = {"wi": "wi", "wo": "wo"}
        return {theirs: {"kernel": flat[f"{prefix}/{ours}/kernel"]} for theirs, ours in names.items()}

    def norm(name: str) -> dict:
        return {"scale": flat[f"{name}/scale"]}

    encoder: dict = {"relpos_bias": {"rel_embedding": flat["encoder/relative_bias/table"].T}}
    decoder: dict = {"relpos_bias": {"rel_embedding": flat["decoder/relative_bias/table"].T}}
    for index in range(config.num_layers):
        block = f"encoder/blocks/{index}"
        encoder[f"layers_{index}"] = {
            "pre_attention_layer_norm": norm(f"{block}/attention_norm"),
            "attention": attention(f"{block}/attention"),
            "pre_mlp_layer_norm": norm(f"{block}/feed_forward_norm"),
            "mlp": mlp(f"{block}/feed_forward"),
        }
    for index in range(config.num_decoder_layers):
        block = f"decoder/blocks/{index}"
        decoder[f"layers_{index}"] = {
            "pre_self_attention_layer_norm": norm(f"{block}/self_norm"),
            "self_attention": attention(f"{block}/self_attention"),
            "pre_cross_attention_layer_norm": norm(f"{block}/cross_norm"),
            "encoder_decoder_attention": attention(f"{block}/cross_attention"),
            "pre_mlp_layer_norm": norm(f"{block}/feed_forward_norm"),
            "mlp": mlp(f"{block}/feed_forward"),
        }
    encoder["encoder_norm"], decoder["decoder_norm"] = norm("encoder/final_norm"), norm("decoder/final_norm")
    if not config.tie_word_embeddings:
        decoder["logits_dense"] = {"kernel": flat["head"].T}
    return {"token_embedder": {"embedding": flat["embedding"]}, "encoder": encoder, "decoder": decoder}


def _stacked(tree: dict) -> dict:
    """The same with layers on axis 1 and heads apart from their size, as the scanned T5X keeps them."""
    result = {"token_embedder": tree["token_embedder"]}
    heads = SMALL["num_heads"]
    for stack in ("encoder", "decoder"):
        own = {name: part for name, part in tree[stack].items() if not name.startswith("layers_")}
        layers = [part for name, part in sorted(tree[stack].items()) if name.startswith("layers_")]

        def joined(path: tuple, *leaves: np.ndarray) -> np.ndarray:
            names = [key.key for key in path]
            if names[1] in ("query", "key", "value"):
                leaves = tuple(leaf.reshape(leaf.shape[0], heads, -1) for leaf in leaves)
            elif names[1] == "out":
                leaves = tuple(leaf.reshape(heads, -1, leaf.shape[-1]) for leaf in leaves)
            return np.stack(leaves, axis=1)

        result[stack] = own | {stack: jax.tree_util.tree_map_with_path(joined, *layers)}
    return result


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("wrapped", ["", "target", "optimizer"])
def test_t5x_layouts_read_alike(
    tmp_path: pathlib.Path, config: T5Config, stacked: bool, wrapped: str
) -> None:
    from flax import serialization

    params = _weights(config)
    tree = _as_t5x(config, params)
    tree = _stacked(tree) if stacked else tree
    wraps = {"": tree, "target": {"target": tree}, "optimizer": {"optimizer": {"target": tree, "state": {}}}}
    path = tmp_path / "checkpoint"
    path.write_bytes(serialization.msgpack_serialize(wraps[wrapped]))
    shape, ours = read_t5x_checkpoint(path)
    assert shape == config
    assert _equal(ours, params)


def test_foreign_and_incomplete_t5x_files_are_refused(tmp_path: pathlib.Path) -> None:
    from flax import serialization

    shape = SHAPES["tied_relu"]
    path = tmp_path / "checkpoint"

    def refused(content: bytes, message: str) -> None:
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_t5x_checkpoint(path)

    refused(b"\x80\x04not msgpack at all", "not a msgpack checkpoint|holds no T5")
    refused(serialization.msgpack_serialize({"params": {"dense": np.zeros(2)}}), "holds no T5")
    tree = _as_t5x(shape, _weights(shape))
    tree["encoder"]["layers_1"]["mlp"]["wi"]["kernel"] = np.zeros((3, 3), np.float32)
    del tree["decoder"]["layers_0"]["self_attention"]["key"]
    tree["decoder"]["extra"] = {"bias": np.zeros(2, np.float32)}
    content = serialization.msgpack_serialize(tree)
    refused(content, "decoder/layers_0/self_attention/key/kernel is missing")
    refused(content, "decoder/extra/bias is unexpected")
    refused(content, r"encoder/layers_1/mlp/wi/kernel has shape \[3, 3\]")
    tree["token_embedder"] = {"embedding": "PLACEHOLDER://token_embedder.embedding"}
    refused(serialization.msgpack_serialize(tree), "lie outside this file")
    with pytest.raises(UserError, match="not a msgpack checkpoint"):
        read_t5x_checkpoint(tmp_path / "absent")


def test_export_needs_no_torch() -> None:
    import subprocess
    import sys

    program = (
        "import sys, r2d_jax.model.hf_format, r2d_jax.model.t5x_format;"
        "sys.exit(' '.join({'torch', 'transformers', 'tensorflow'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
