"""T5X files; in: the real tiny checkpoint and each layout, out: equal weights, torch's logits or an error."""

import pathlib

import jax
import numpy as np
import pytest
from flax import serialization
from t5_cases import (
    SHAPES,
    SMALL,
    TOLERANCE,
    bitwise_equal,
    config,
    one_torch_thread,
    our_logits,
    random_weights,
    torch_logits,
    two_rows,
)

from r2d_jax.config import T5Config
from r2d_jax.errors import UserError
from r2d_jax.model.hf_format import write_hf_folder
from r2d_jax.model.parameters import Params, flatten
from r2d_jax.model.t5x_format import read_t5x_checkpoint

__all__ = ["config", "one_torch_thread"]


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
    ids, decoder_ids = two_rows(shape.vocab_size)
    ours = our_logits(shape, params, ids, decoder_ids)
    assert np.isfinite(ours).all()
    write_hf_folder(tmp_path / "model", shape, params, generation={})
    np.testing.assert_allclose(ours, torch_logits(tmp_path / "model", ids, decoder_ids), atol=TOLERANCE)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("wrapped", ["", "target", "optimizer"])
def test_t5x_layouts_read_alike(
    tmp_path: pathlib.Path, config: T5Config, stacked: bool, wrapped: str
) -> None:
    params = random_weights(config)
    tree = _as_t5x(config, params)
    tree = _stacked(tree) if stacked else tree
    wraps = {"": tree, "target": {"target": tree}, "optimizer": {"optimizer": {"target": tree, "state": {}}}}
    path = tmp_path / "checkpoint"
    path.write_bytes(serialization.msgpack_serialize(wraps[wrapped]))
    shape, ours = read_t5x_checkpoint(path)
    assert shape == config
    assert bitwise_equal(ours, params)


def test_foreign_and_incomplete_t5x_files_are_refused(tmp_path: pathlib.Path) -> None:
    shape = SHAPES["tied_relu"]
    path = tmp_path / "checkpoint"

    def refused(content: bytes, message: str) -> None:
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_t5x_checkpoint(path)

    refused(b"\x80\x04not msgpack at all", "not a msgpack checkpoint|holds no T5")
    refused(serialization.msgpack_serialize({"params": {"dense": np.zeros(2)}}), "holds no T5")
    tree = _as_t5x(shape, random_weights(shape))
    tree["encoder"]["relpos_bias"]["rel_embedding"] = np.zeros((SMALL["num_heads"], 3), np.float32)
    refused(
        serialization.msgpack_serialize(tree),
        r"^.*not the weights of a T5 \(relative_attention_num_bu.*T5X\.$",
    )
    tree = _as_t5x(shape, random_weights(shape))
    tree["encoder"]["encoder_norm"]["scale"] = np.full(SMALL["d_model"], np.inf, np.float32)
    refused(serialization.msgpack_serialize(tree), "encoder/encoder_norm/scale holds NaN or infinity")
    tree = _as_t5x(shape, random_weights(shape))
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
