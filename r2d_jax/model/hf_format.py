"""Hugging Face T5 folders; in: a folder, hub name or our weights, out: shape and weights, or a folder."""

import json
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from pydantic import ValidationError
from safetensors.numpy import save_file

from r2d_jax.config import T5Config
from r2d_jax.data.whole_folder import require_replaceable, whole_folder
from r2d_jax.errors import UserError, first_fault
from r2d_jax.model.hf_format_int8 import INT8_CONFIG, int8_tensors
from r2d_jax.model.parameters import Params, T5Factory, flatten, unflatten
from r2d_jax.model.weight_files import WeightFiles, read_json
from r2d_jax.runtime.files import require_writable
from r2d_jax.runtime.run_files import HF_CONFIG, HF_WEIGHTS

GENERATION_FILE = "generation_config.json"

_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]
_SHARED, _HEAD = "shared.weight", "lm_head.weight"
_EMBEDDING_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Early T5 files hold a bias for cross-attention that no implementation has ever used.
_UNUSED = frozenset({"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"})
_SHAPE_FIELDS = (
    "vocab_size",
    "d_model",
    "d_ff",
    "d_kv",
    "num_heads",
    "num_layers",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
    "layer_norm_epsilon",
    "dropout_rate",
)
_SPECIAL_IDS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
_FLOAT32 = np.dtype(np.float32)
# int8 is made of the float32 weights.
_STORED_TYPES = {"float32": _FLOAT32, "bfloat16": np.dtype(ml_dtypes.bfloat16), "int8": _FLOAT32}
STORED_TYPES = tuple(_STORED_TYPES)
_MODEL_FOLDER: Any = {"kind": "model", "markers": [HF_CONFIG, HF_WEIGHTS]}


def locate(source: str) -> pathlib.Path:
    """The local path of a model or tokenizer; only what does not exist locally is asked of the hub.

    Args:
        source: folder, file, or hub name such as "google/flan-t5-base".

    Raises:
        UserError: neither a local path nor a hub name that can be fetched.
    """
    if not source.strip():
        raise UserError(
            "model name", "is empty, so there is no such folder or file", "Give a path or a hub name."
        )
    path = pathlib.Path(source).expanduser()
    if path.exists():
        return path
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UserError(source, "no such folder or file", "Check the path.")
    import huggingface_hub

    try:
        return pathlib.Path(huggingface_hub.snapshot_download(source, allow_patterns=_HUB_FILES))
    except Exception as error:  # The hub's clients raise errors of several libraries with no common base.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            source,
            f"not a local path, and the hub did not give it ({reason[:200]})",
            "Check the name and the network, or give the path of a local folder.",
        ) from error


def read_hf_config(folder: str | pathlib.Path) -> T5Config:
    """The shape in config.json.

    `feed_forward_proj` alone decides the activation. The head is tied unless `tie_word_embeddings` is
    false, or `scale_decoder_outputs` is: transformers 5 writes the former as true for every T5.

    Raises:
        UserError: no readable config, not a T5, or a T5 that this model cannot compute.
    """
    path = pathlib.Path(folder) / HF_CONFIG
    return _parse_config(read_json(path), path)


def read_hf_folder(folder: str | pathlib.Path) -> tuple[T5Config, Params]:
    """Shape and weights of a T5 folder with safetensors files, single or sharded.

    Returns:
        The shape, and the nested dict of float32 numpy arrays; 16-bit files are widened exactly, and int8
        weights multiplied by their scales.

    Raises:
        UserError: as `read_hf_config`; no safetensors file; tensors missing, unexpected, wrong in
            shape or type (all of them are named); or NaN or infinity in one of them.
    """
    folder = pathlib.Path(folder)
    stored_config = read_json(folder / HF_CONFIG)
    config = _parse_config(stored_config, folder / HF_CONFIG)
    tensors = WeightFiles(folder)
    names = _names(config)
    # First of all, as blocks take long to build.
    problems = _other_depths(config, tensors)
    if problems:
        raise _unfit(folder, problems)
    source = _sources(config, stored_config, tensors, problems)
    shapes = flatten(T5Factory(config).abstract_params)
    for ours, (theirs, transposed) in names.items():
        stored = source.get(theirs, theirs)
        if stored not in tensors.where:
            problems.append(f"{theirs} is missing")
            continue
        wanted = list(reversed(shapes[ours].shape)) if transposed else list(shapes[ours].shape)
        problems += tensors.mismatch(stored, wanted)
    known = {theirs for theirs, _ in names.values()} | {_SHARED, _HEAD, *_EMBEDDING_COPIES} | _UNUSED
    problems += [f"{name} is unexpected" for name in sorted(tensors.where.keys() - known)]
    if not problems:
        problems += _differing_copies(config, tensors, source)
    if problems:
        raise _unfit(folder, problems)
    flat: dict[str, np.ndarray] = {}
    for ours, (theirs, transposed) in names.items():
        array = tensors.read(source.get(theirs, theirs)).astype(np.float32, copy=False)
        flat[ours] = np.ascontiguousarray(array.T) if transposed else array
    return config, unflatten(flat)


def require_hf_target(folder: str | pathlib.Path, *, overwrite: bool) -> None:
    """Refuse, before any work, a folder that `write_hf_folder` would refuse.

    Raises:
        UserError: it is in use, or its place cannot be written to.
    """
    require_replaceable(_target(folder), **_MODEL_FOLDER, overwrite=overwrite)
    require_writable(_target(folder))


def _target(folder: str | pathlib.Path) -> pathlib.Path:
    return pathlib.Path(folder).expanduser().resolve()


def write_hf_folder(
    folder: str | pathlib.Path,
    config: T5Config,
    params: Params,
    *,
    dtype: str = "float32",
    generation: Mapping[str, Any],
    extra_files: Mapping[str, str] | None = None,
    overwrite: bool = False,
    finish: Callable[[pathlib.Path], None] | None = None,
) -> None:
    """Write a folder that transformers loads, whole or not at all.

    Args:
        folder: target; made with its parents.
        config: shape of the weights.
        params: nested dict of arrays as of `T5Factory.init`, on the host or any device.
        dtype: of the stored weights: "float32", "bfloat16", or "int8" (see hf_format_int8).
        generation: what generation_config.json says besides the special ids (limits, suppress_tokens).
        extra_files: name -> text of further files (tokenizer, model card).
        overwrite: replace a model folder that is there.
        finish: called with the written folder before it takes its place; what it adds comes along, and what it
            raises leaves nothing behind.

    Raises:
        UserError: the folder is in use, the dtype is not offered, or the disk refuses.
        ValueError: the weights are not of this shape.
    """
    if dtype not in _STORED_TYPES:
        raise UserError(
            "dtype",
            f"{dtype!r} is not offered (T5 overflows in float16)",
            f"Use one of: {', '.join(_STORED_TYPES)}.",
        )
    with whole_folder(_target(folder), **_MODEL_FOLDER, overwrite=overwrite) as partial:
        tensors = _export_tensors(config, params, _STORED_TYPES[dtype])
        described = _hf_config(config, str(_STORED_TYPES[dtype]))
        if dtype == "int8":
            tensors, described = int8_tensors(tensors), described | {"quantization_config": INT8_CONFIG}
        texts = {
            HF_CONFIG: _to_json(described),
            GENERATION_FILE: _to_json({**_SPECIAL_IDS, **_cache_setting(config), **generation}),
            **(extra_files or {}),
        }
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        try:
            save_file(tensors, partial / HF_WEIGHTS, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error
        # safetensors leaves it readable by its owner alone, whatever the umask says.
        shutil.copymode(partial / HF_CONFIG, partial / HF_WEIGHTS)
        if finish is not None:
            finish(partial)


def _unfit(folder: pathlib.Path, problems: list[str]) -> UserError:
    return UserError(
        str(folder),
        f"weights do not fit {HF_CONFIG}: {'; '.join(problems)}",
        "Use the files of one checkpoint together, unchanged.",
    )


def _other_depths(config: T5Config, tensors: WeightFiles) -> list[str]:
    problems = []
    for stack, field in (("encoder", "num_layers"), ("decoder", "num_decoder_layers")):
        begin = f"{stack}.block."
        found = len({name.split(".")[2] for name in tensors.where if name.startswith(begin)})
        if found != getattr(config, field):
            problems.append(f"{field} is {getattr(config, field)}, and there are {found} in the {stack}")
    return problems


def _sources(
    config: T5Config, stored_config: Mapping[str, Any], tensors: WeightFiles, problems: list[str]
) -> dict[str, str]:
    """Under which name a tensor is stored, where that is not its own."""
    source: dict[str, str] = {}
    copies = (*_EMBEDDING_COPIES, _HEAD) if config.tie_word_embeddings else _EMBEDDING_COPIES
    stored_copies = [name for name in copies if name in tensors.where]
    if _SHARED not in tensors.where and stored_copies:
        source[_SHARED] = stored_copies[0]
    # transformers 5 leaves out a head equal to the embedding even where it does not scale the output.
    left_out = _HEAD not in tensors.where and stored_config.get("tie_word_embeddings", True)
    if not config.tie_word_embeddings and left_out:
        source[_HEAD] = source.get(_SHARED, _SHARED)
    shape = [config.vocab_size, config.d_model]
    for name in stored_copies:
        if source.get(_SHARED) != name:
            problems += tensors.mismatch(name, shape)
    return source


def _differing_copies(config: T5Config, tensors: WeightFiles, source: Mapping[str, str]) -> list[str]:
    shared_name = source.get(_SHARED, _SHARED)
    copies = (*_EMBEDDING_COPIES, _HEAD) if config.tie_word_embeddings else _EMBEDDING_COPIES
    present = [name for name in copies if name in tensors.where and name != shared_name]
    if not present:
        return []
    shared = tensors.read(shared_name)
    return [
        f"{name} differs from {shared_name} although the config ties them"
        for name in present
        if tensors.read(name).tobytes() != shared.tobytes()
    ]


def _names(config: T5Config) -> dict[str, tuple[str, bool]]:
    """Our name of each weight -> its Hugging Face name, and whether that one is stored transposed."""
    return dict(_name_pairs(config))


def _name_pairs(config: T5Config) -> Iterator[tuple[str, tuple[str, bool]]]:
    yield "embedding", (_SHARED, False)
    if not config.tie_word_embeddings:
        yield "head", (_HEAD, False)
    self_attention = {
        "encoder": [("attention_norm", "attention", "SelfAttention")],
        "decoder": [
            ("self_norm", "self_attention", "SelfAttention"),
            ("cross_norm", "cross_attention", "EncDecAttention"),
        ],
    }
    gated = config.feed_forward_proj == "gated-gelu"
    hidden = {"wi_gate": "wi_0", "wi": "wi_1", "wo": "wo"} if gated else {"wi": "wi", "wo": "wo"}
    for stack, depth in (("encoder", config.num_layers), ("decoder", config.num_decoder_layers)):
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        yield f"{stack}/relative_bias/table", (bias, False)
        yield f"{stack}/final_norm/scale", (f"{stack}.final_layer_norm.weight", False)
        for index in range(depth):
            ours, theirs = f"{stack}/blocks/{index}", f"{stack}.block.{index}.layer"
            for place, (norm, attention, name) in enumerate(self_attention[stack]):
                yield f"{ours}/{norm}/scale", (f"{theirs}.{place}.layer_norm.weight", False)
                for part in "qkvo":
                    yield (
                        f"{ours}/{attention}/{part}/kernel",
                        (f"{theirs}.{place}.{name}.{part}.weight", True),
                    )
            last = f"{theirs}.{len(self_attention[stack])}"
            yield f"{ours}/feed_forward_norm/scale", (f"{last}.layer_norm.weight", False)
            for mine, name in hidden.items():
                yield f"{ours}/feed_forward/{mine}/kernel", (f"{last}.DenseReluDense.{name}.weight", True)


def _parse_config(stored: Mapping[str, Any], path: pathlib.Path) -> T5Config:
    if stored.get("model_type") != "t5":
        what = f"model_type is {stored.get('model_type')!r}, not 't5'"
        raise UserError(str(path), what, "Choose a T5, T5 1.1 or Flan-T5 checkpoint.")
    for name, wanted in _SPECIAL_IDS.items():
        if stored.get(name) not in (None, wanted, [wanted]):
            raise UserError(
                str(path),
                f"{name} is {stored[name]!r}, not {wanted}",
                "Choose a model with T5's special ids.",
            )
    activation = stored.get("feed_forward_proj", "relu")
    if activation not in ("relu", "gated-gelu"):
        what = f"feed_forward_proj {activation!r} is not one of relu, gated-gelu"
        raise UserError(str(path), what, "Choose a T5, T5 1.1 or Flan-T5 checkpoint.")
    gated = activation == "gated-gelu"
    said = (stored.get("is_gated_act"), stored.get("dense_act_fn"))
    if said[0] not in (None, gated) or said[1] not in (None, "gelu_new" if gated else "relu"):
        warnings.warn(
            f"{path}: is_gated_act {said[0]!r} and dense_act_fn {said[1]!r} contradict feed_forward_proj "
            f"{activation!r}; the latter counts",
            stacklevel=3,
        )
    fields = {name: stored[name] for name in _SHAPE_FIELDS if stored.get(name) is not None}
    depth = stored.get("num_decoder_layers")
    fields["num_decoder_layers"] = fields.get("num_layers", T5Config().num_layers) if depth is None else depth
    tied = stored.get("tie_word_embeddings") is not False and stored.get("scale_decoder_outputs") is not False
    try:
        return T5Config(**fields, feed_forward_proj=activation, tie_word_embeddings=tied)
    except ValidationError as error:
        raise UserError(str(path), first_fault(error), "Fetch the file again.") from error


def _hf_config(config: T5Config, dtype: str) -> dict[str, Any]:
    gated = config.feed_forward_proj == "gated-gelu"
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        **{name: getattr(config, name) for name in _SHAPE_FIELDS},
        "num_decoder_layers": config.num_decoder_layers,
        "feed_forward_proj": config.feed_forward_proj,
        "is_gated_act": gated,
        "dense_act_fn": "gelu_new" if gated else "relu",
        "tie_word_embeddings": config.tie_word_embeddings,
        "dtype": dtype,
        "use_cache": True,
        **_SPECIAL_IDS,
    }


def _cache_setting(config: T5Config) -> dict[str, bool]:
    # transformers 5.24 makes a cache of as many layers as the encoder has and fails on a deeper decoder.
    return {"use_cache": False} if config.num_decoder_layers > config.num_layers else {}


def _export_tensors(config: T5Config, params: Params, dtype: np.dtype) -> dict[str, np.ndarray]:
    flat, names = flatten(params), _names(config)
    shapes = flatten(T5Factory(config).abstract_params)
    found = {name: tuple(leaf.shape) for name, leaf in flat.items()}
    if found != {name: tuple(leaf.shape) for name, leaf in shapes.items()}:
        raise ValueError("the weights are not of this T5Config")
    tensors: dict[str, np.ndarray] = {}
    for ours, (theirs, transposed) in names.items():
        array = np.asarray(flat[ours])
        # safetensors writes the buffer as it lies, so a transposed view would be stored untransposed.
        tensors[theirs] = np.ascontiguousarray(array.T if transposed else array, dtype=dtype)
    return tensors


def _to_json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
