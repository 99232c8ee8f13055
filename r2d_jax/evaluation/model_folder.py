"""A model with all that is needed to use it; in: a run, exported or imported folder, out: weights, tokenizer, card."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import jax
import numpy as np
from jax.sharding import Mesh
from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from r2d_jax.config import ColumnsConfig, ComputeType, Count, LabelDecode, T5Config
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError, first_fault
from r2d_jax.methods import RationalePrompt
from r2d_jax.model.hf_format import read_hf_folder
from r2d_jax.model.parameters import Params, T5Factory
from r2d_jax.runtime.checkpoint_files import BEST, LATEST, complete_steps, restore_params
from r2d_jax.runtime.devices import check_platform
from r2d_jax.runtime.distributed import require_same
from r2d_jax.runtime.mesh import put, tree_shardings, with_shardings
from r2d_jax.runtime.run_files import HF_WEIGHTS, MODEL_CARD

WEIGHTS_FOLDER = "weights"
TOKENIZER_FOLDER = "tokenizer"
_PARTS = frozenset({WEIGHTS_FOLDER, TOKENIZER_FOLDER, "onnx"})
"""Folders of an exported or imported model that stand for it."""


@dataclass(frozen=True)
class ModelCard:
    """What a folder says about its model, stored as r2d_model.json.

    Attributes:
        shape: of the T5.
        labels: label set of training; empty for an imported model.
        label_tokens: label limit, end token included.
        input_limit_tokens: longest prompt.
        rationale_tokens: rationale limit, end token included.
        compute_dtype: type of activations in training.
        tokenizer_fingerprint: sha256 of the tokenizer, verified on load.
        columns: names of the input columns.
        rationale_prompt: what asks for a rationale: the prompt with a given label, the one without, or none,
            where the model was not taught to explain.
        label_map: data.label_map of training; gold labels of other files go through it too.
        label_decode: of the config; whether only labels of `labels` can come out.
        rationale_source: the rationales that stage 2 learned; None: none, or the folder is older than this field.
    """

    shape: T5Config
    labels: tuple[str, ...]
    label_tokens: Annotated[int, Field(ge=2)]
    input_limit_tokens: Annotated[int, Field(ge=16)]
    rationale_tokens: Count
    compute_dtype: ComputeType
    tokenizer_fingerprint: str
    columns: ColumnsConfig
    rationale_prompt: RationalePrompt = "given_label"
    label_map: dict[str, str] = dataclasses.field(default_factory=dict)
    label_decode: LabelDecode = "free"
    rationale_source: str | None = None

    def source_among(self, sources: Iterable[str]) -> str | None:
        """Of a file's rationale sources the one that this model learned; the first where that is not among them."""
        found = tuple(sources)
        return self.rationale_source if self.rationale_source in found else next(iter(found), None)

    def to_json(self) -> str:
        """The text of r2d_model.json."""
        return (
            json.dumps(TypeAdapter(ModelCard).dump_python(self, mode="json"), indent=2, ensure_ascii=False)
            + "\n"
        )


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model ready to use; `source` says which checkpoint it came from."""

    card: ModelCard
    factory: T5Factory
    params: Params
    tokenizer: Tokenizer
    source: str


def devices_in_use(folder: pathlib.Path) -> str:
    """The devices that a model is used on, as a line; with a warning where its run asked for an accelerator in vain.

    A model may be used elsewhere than it was trained, so that this is no error.

    Args:
        folder: of the model; a run's has a config.yaml.
    """
    path = folder / "config.yaml"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    line, asked = f"devices: {check_platform('any')}", re.search(r"^platform: (gpu|tpu)$", text, re.M)
    if asked and jax.default_backend() == "cpu":
        line += (
            f"\nwarning: its run asked for platform={asked[1]}, and JAX found a CPU only, which takes far longer; "
            "`r2d doctor` tells what JAX found"
        )
    return line


def read_card(folder: pathlib.Path) -> ModelCard:
    """The card of a folder.

    Raises:
        UserError: the card is not readable as one of this version.
    """
    path = folder / MODEL_CARD
    try:
        # JSON has lists where the card has tuples.
        return TypeAdapter(ModelCard).validate_json(path.read_text(encoding="utf-8"), strict=False)
    except (OSError, ValueError) as error:
        what = f"not a readable model card ({first_fault(error)})"
        raise UserError(str(path), what, "Export or import the model again.") from error


def _place(path: pathlib.Path) -> pathlib.Path:
    # Only `..` is followed through links: a stage of a run may be a link to another disk.
    return path.resolve() if ".." in path.parts else path.absolute()


def _stands_for(start: pathlib.Path, folder: pathlib.Path) -> bool:
    """Whether a path in a folder with a model card means that model; another model may lie there, too."""
    inside = start.relative_to(folder).parts
    is_run = not ((folder / WEIGHTS_FOLDER).is_dir() or (folder / HF_WEIGHTS).is_file())
    # Of a run `weights_source` says which parts hold a checkpoint.
    return is_run or not inside or inside[0] in _PARTS or (len(inside) == 1 and start.is_file())


def find_model_folder(path: pathlib.Path) -> pathlib.Path:
    """The folder with the model card at `path`, or up to four levels above where `path` is a part of that model.

    Parts of a run are its stages, with all in them; of another model its folders of weights, tokenizer and graphs.

    Raises:
        UserError: there is none; says what was looked for.
    """
    start = _place(path)
    if not start.exists():
        raise UserError(
            str(path), "no such folder", "Give a run's workdir, an exported or an imported folder."
        )
    cards = [one for one in (start, *list(start.parents)[:4]) if (one / MODEL_CARD).is_file()]
    if cards and _stands_for(start, cards[0]):
        return cards[0]
    below = sorted(start.glob(f"*/{MODEL_CARD}")) if start.is_dir() else []
    hint = (
        f"Did you mean {below[0].parent}?"
        if below
        else "Give a run's workdir, an exported or an imported folder."
    )
    above = f", and no part of the model in {cards[0]}" if cards else " or above"
    raise UserError(str(path), f"no {MODEL_CARD} here{above}", hint)


def weights_source(folder: pathlib.Path, asked: pathlib.Path) -> pathlib.Path:
    """The file or folder of weights that a path means; `folder` is what `find_model_folder` says of it.

    Raises:
        UserError: it lies in a run and names no checkpoint that is there.
    """
    for weights in (folder / HF_WEIGHTS, folder / WEIGHTS_FOLDER):
        if weights.exists():
            return weights
    inside = _place(asked).relative_to(folder).parts
    stage, kind, step, *_ = (*inside, *("stage2", BEST, "")[len(inside) :])
    # A file of the run stands for the run.
    if len(inside) == 1 and (folder / stage).is_file():
        stage = "stage2"
    if stage not in ("stage1", "stage2") or kind not in (BEST, LATEST):
        raise UserError(
            str(asked), "lies in a run but holds no checkpoint", f"Give {folder}, or a stage folder in it."
        )
    there = complete_steps(folder / stage / kind)
    if step:
        if step not in map(str, there):
            raise UserError(str(asked), "is not a complete checkpoint", f"Complete here: {there or 'none'}.")
        return folder / stage / kind / step
    if not there:
        hint = f", or name {folder / 'stage1'} for the stage-1 model" if stage == "stage2" else ""
        raise UserError(str(asked), f"no {kind} checkpoint of {stage} yet", f"Finish training{hint}.")
    return folder / stage / kind / str(there[-1])


def load_model(path: pathlib.Path, mesh: Mesh, compute_dtype: str | None = None) -> LoadedModel:
    """Load a model from a run folder (best stage-2 checkpoint), an exported or an imported folder.

    Args:
        path: the folder, or a part of a run: a stage (its best checkpoint), its best or latest folder, or
            one step of these.
        mesh: where the weights go.
        compute_dtype: "float32" or "bfloat16"; None: that of the card.

    Raises:
        UserError: no model there, or its tokenizer or weights are not those that the card tells of.
    """
    folder = find_model_folder(path)
    card = read_card(folder)
    is_hf = (folder / HF_WEIGHTS).is_file()
    tokenizer = Tokenizer.load(folder if is_hf else folder / TOKENIZER_FOLDER)
    if not tokenizer.has_fingerprint(card.tokenizer_fingerprint):
        raise UserError(
            str(folder),
            "the tokenizer is not the one that the model was trained with",
            "Restore tokenizer.json, or export the model again.",
        )
    factory = T5Factory(card.shape, compute_dtype or card.compute_dtype)
    if is_hf:
        shape, params = read_hf_folder(folder)
        require_shape(folder, card, shape)
        return LoadedModel(card, factory, place_params(params, mesh), tokenizer, str(folder / HF_WEIGHTS))
    source = weights_source(folder, path)
    params = restore_params(source, with_shardings(factory.abstract_params, mesh))
    return LoadedModel(card, factory, params, tokenizer, str(source))


def require_shape(folder: pathlib.Path, card: ModelCard, shape: T5Config) -> None:
    """Refuse an exported folder whose card tells of another model than its config.json, of this shape.

    Raises:
        UserError: a value of the shape is another; each is named.
    """
    found, told = dataclasses.asdict(shape), dataclasses.asdict(card.shape)
    faults = [f"{name} is {told[name]}, not {found[name]}" for name in found if told[name] != found[name]]
    if faults:
        raise UserError(
            str(folder / MODEL_CARD),
            f"does not fit the weights and their config.json: {', '.join(faults)}",
            "Use the files of one export together, unchanged.",
        )


def place_params(params: Any, mesh: Mesh) -> Params:
    """Host weights onto the devices, by the sharding rules; of several processes each has to bring all of them.

    Raises:
        UserError: on every process, where one brings others.
    """
    require_same("weights", _bytes_of(params))
    return jax.tree.map(put, params, tree_shardings(params, mesh))


def _bytes_of(params: Any) -> Iterator[bytes | memoryview]:
    for path, array in jax.tree_util.tree_leaves_with_path(params):
        yield f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode()
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
