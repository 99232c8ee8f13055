"""T5X checkpoint files; in: the path of a msgpack checkpoint, out: T5Config and weights."""

import pathlib
from typing import Any

import numpy as np
from flax import serialization, traverse_util

from r2d_jax.config import T5Config
from r2d_jax.errors import UserError, first_fault
from r2d_jax.model.parameters import Params, T5Factory, flatten, require_finite, unflatten

_ATTENTION_PARTS = {"q": "query", "k": "key", "v": "value", "o": "out"}
_BLOCKS = {
    "encoder": {"attention": ("attention_norm", "pre_attention_layer_norm", "attention")},
    "decoder": {
        "self_attention": ("self_norm", "pre_self_attention_layer_norm", "self_attention"),
        "cross_attention": ("cross_norm", "pre_cross_attention_layer_norm", "encoder_decoder_attention"),
    },
}


def read_t5x_checkpoint(path: str | pathlib.Path) -> tuple[T5Config, Params]:
    """Shape and weights of a T5X checkpoint in one msgpack file; no pickle is involved.

    The file holds weights only, so the shape is inferred from them; what they do not tell (dropout,
    norm epsilon, largest distance) is T5's standard. Layers may be stacked on axis 1, as T5X does
    where it scans over them.

    Returns:
        The shape, and the nested dict of float32 numpy arrays.

    Raises:
        UserError: not such a file, arrays kept outside it, weights that are not those of one T5, or that hold NaN
            or infinity.
    """
    path = pathlib.Path(path)
    flat = _unstacked(_read(path))
    try:
        config = _infer(flat)
        names = _names(config)
        problems = [f"{theirs} is missing" for theirs in names.values() if theirs not in flat]
    except (KeyError, ValueError, IndexError) as error:
        what = f"not the weights of a T5 ({first_fault(error)})"
        raise UserError(str(path), what, "Name a T5 checkpoint of T5X.") from error
    problems += [f"{name} is unexpected" for name in sorted(flat.keys() - set(names.values()))]
    result: dict[str, np.ndarray] = {}
    for ours, leaf in flatten(T5Factory(config).abstract_params).items():
        if names[ours] not in flat:
            continue
        array = _oriented(ours, flat[names[ours]])
        if array.shape != leaf.shape:
            problems.append(f"{names[ours]} has shape {list(array.shape)} where {list(leaf.shape)} is needed")
        result[ours] = require_finite(str(path), names[ours], np.ascontiguousarray(array, dtype=np.float32))
    if problems:
        raise UserError(
            str(path), f"weights of no known T5: {'; '.join(problems)}", "Name a T5 checkpoint of T5X."
        )
    return config, unflatten(result)


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        tree: Any = serialization.msgpack_restore(path.read_bytes())
    except Exception as error:  # msgpack raises its own and built-in errors alike on a foreign file.
        raise UserError(
            str(path), f"not a msgpack checkpoint ({type(error).__name__})", "Name a T5X checkpoint file."
        ) from error
    for wrapper in ("optimizer", "target", "params"):
        if isinstance(tree, dict) and isinstance(tree.get(wrapper), dict):
            tree = tree[wrapper]
    if not isinstance(tree, dict) or not {"encoder", "decoder", "token_embedder"} <= tree.keys():
        raise UserError(str(path), "holds no T5 encoder-decoder weights", "Name a T5 checkpoint of T5X.")
    flat = traverse_util.flatten_dict(tree, sep="/")
    outside = [name for name, leaf in flat.items() if not isinstance(leaf, np.ndarray)]
    if outside:
        raise UserError(
            str(path),
            f"{len(outside)} arrays lie outside this file (TensorStore), {outside[0]} for one",
            "Restore it with T5X and save it without TensorStore, or use its Hugging Face version.",
        )
    return flat


def _unstacked(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Layers under their own names, where the file stacks them in encoder/encoder and decoder/decoder."""
    result: dict[str, np.ndarray] = {}
    for name, array in flat.items():
        stack, _, rest = name.partition("/")
        inner = f"{stack}/"
        if stack in _BLOCKS and rest.startswith(inner) and array.ndim > 1:
            for index in range(array.shape[1]):
                result[f"{stack}/layers_{index}/{rest.removeprefix(inner)}"] = array[:, index]
        else:
            result[name] = array
    return result


def _infer(flat: dict[str, np.ndarray]) -> T5Config:
    vocab_size, d_model = flat["token_embedder/embedding"].shape
    num_heads, buckets = flat["encoder/relpos_bias/rel_embedding"].shape
    first = "encoder/layers_0"
    gated = f"{first}/mlp/wi_0/kernel" in flat
    query = flat[f"{first}/attention/query/kernel"]
    return T5Config(
        vocab_size=vocab_size,
        d_model=d_model,
        d_ff=flat[f"{first}/mlp/wo/kernel"].shape[0],
        d_kv=(query.size // d_model) // num_heads,
        num_heads=num_heads,
        num_layers=_depth(flat, "encoder"),
        num_decoder_layers=_depth(flat, "decoder"),
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings="decoder/logits_dense/kernel" not in flat,
        relative_attention_num_buckets=buckets,
    )


def _depth(flat: dict[str, np.ndarray], stack: str) -> int:
    prefix = f"{stack}/layers_"
    return len({name.split("/")[1] for name in flat if name.startswith(prefix)})


def _names(config: T5Config) -> dict[str, str]:
    """Our name of each weight -> its name in T5X."""
    names = {"embedding": "token_embedder/embedding"}
    if not config.tie_word_embeddings:
        names["head"] = "decoder/logits_dense/kernel"
    gated = config.feed_forward_proj == "gated-gelu"
    hidden = {"wi_gate": "wi_0", "wi": "wi_1", "wo": "wo"} if gated else {"wi": "wi", "wo": "wo"}
    for stack, depth in (("encoder", config.num_layers), ("decoder", config.num_decoder_layers)):
        names[f"{stack}/relative_bias/table"] = f"{stack}/relpos_bias/rel_embedding"
        names[f"{stack}/final_norm/scale"] = f"{stack}/{stack}_norm/scale"
        for index in range(depth):
            ours, theirs = f"{stack}/blocks/{index}", f"{stack}/layers_{index}"
            for attention, (norm, their_norm, their_attention) in _BLOCKS[stack].items():
                names[f"{ours}/{norm}/scale"] = f"{theirs}/{their_norm}/scale"
                for part, their_part in _ATTENTION_PARTS.items():
                    kernel = f"{theirs}/{their_attention}/{their_part}/kernel"
                    names[f"{ours}/{attention}/{part}/kernel"] = kernel
            names[f"{ours}/feed_forward_norm/scale"] = f"{theirs}/pre_mlp_layer_norm/scale"
            for mine, name in hidden.items():
                names[f"{ours}/feed_forward/{mine}/kernel"] = f"{theirs}/mlp/{name}/kernel"
    return names


def _oriented(ours: str, array: np.ndarray) -> np.ndarray:
    if ours.endswith("relative_bias/table") or ours == "head":
        return array.T
    if array.ndim == 3:
        # Heads and head size apart: q, k, v are [D, H, K], o is [H, K, D].
        return (
            array.reshape(-1, array.shape[-1]) if ours.endswith("o/kernel") else array.reshape(len(array), -1)
        )
    return array
