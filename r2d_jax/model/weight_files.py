"""Weights as safetensors files; in: a folder, out: its tensors by name, read one at a time."""

import json
import pathlib
from typing import Any

import numpy as np
import safetensors

from r2d_jax.errors import UserError
from r2d_jax.model.hf_format_int8 import SCALE_SUFFIX
from r2d_jax.model.parameters import require_finite
from r2d_jax.runtime.run_files import HF_WEIGHTS

INDEX_FILE = "model.safetensors.index.json"

_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_FLOATS = ("F32", "F16", "BF16")


class WeightFiles:
    """The tensors of a folder by name.

    Attributes:
        where: tensor name -> file that holds it; the scales of int8 tensors belong to these.

    Raises:
        UserError: no safetensors file, a shard is missing or outside the folder, or a file is not readable.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.where: dict[str, pathlib.Path] = {}
        self._headers: dict[str, tuple[list[int], str]] = {}
        for path in _weight_files(folder):
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118 - this is no dict
                    header = file.get_slice(name)
                    self.where[name], self._headers[name] = path, (header.get_shape(), header.get_dtype())
        int8 = [name for name, (_, dtype) in self._headers.items() if dtype == "I8"]
        self._scales = {
            name: self.where.pop(name + SCALE_SUFFIX) for name in int8 if name + SCALE_SUFFIX in self.where
        }

    def mismatch(self, name: str, wanted: list[int]) -> list[str]:
        """What is wrong with a tensor's shape or type; empty where nothing is."""
        shape, dtype = self._headers[name]
        if shape != wanted:
            return [f"{name} has shape {shape}, not {wanted}"]
        if name in self._scales:
            return self.mismatch(name + SCALE_SUFFIX, [wanted[0], 1])
        return [] if dtype in _FLOATS else [f"{name} has type {dtype}, not F32, F16 or BF16"]

    def read(self, name: str) -> np.ndarray:
        """The tensor in its stored type; float32 where that is int8 with a scale.

        Raises:
            UserError: it holds NaN or infinity.
        """
        with _opened(self.where[name]) as file:
            array = file.get_tensor(name)
        if name in self._scales:
            with _opened(self._scales[name]) as file:
                array = array.astype(np.float32) * file.get_tensor(name + SCALE_SUFFIX).astype(np.float32)
        return require_finite(str(self.where[name]), name, array)


def _opened(path: pathlib.Path) -> Any:
    try:
        return safetensors.safe_open(path, framework="numpy")
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            str(path), f"not a readable safetensors file ({error})", "Fetch the file again."
        ) from error


def _weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    if (folder / HF_WEIGHTS).is_file():
        return [folder / HF_WEIGHTS]
    index = folder / INDEX_FILE
    if index.is_file():
        listed = read_json(index).get("weight_map")
        if not isinstance(listed, dict):
            raise UserError(str(index), "has no weight_map", "Fetch the file again.")
        shards = sorted({str(shard) for shard in listed.values()})
        # An index of someone else must not open files elsewhere on this machine.
        if outside := [shard for shard in shards if not _is_plain(shard)]:
            raise UserError(
                str(index),
                f"{outside[0]!r} is not the name of a file in this folder",
                "Fetch the file again.",
            )
        absent = [shard for shard in shards if not (folder / shard).is_file()]
        if absent:
            raise UserError(str(folder), f"shards are missing: {', '.join(absent)}", "Fetch them as well.")
        return [folder / shard for shard in shards]
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLE_SUFFIXES)
    fix = "Load it once with transformers and save_pretrained it: that writes model.safetensors."
    if pickles:
        what = f"holds weights only as pickle ({', '.join(pickles)}), which can run code and is not read"
        raise UserError(str(folder), what, fix)
    raise UserError(
        str(folder), f"no {HF_WEIGHTS}", f"Name a folder that has one. Pickle files are not read: {fix}"
    )


def _is_plain(name: str) -> bool:
    return (
        name not in ("", "..") and pathlib.PurePath(name).name == pathlib.PureWindowsPath(name).name == name
    )


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: the file is absent or holds no JSON object.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(str(path), "no such file", "Name a folder in Hugging Face format.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(str(path), f"not readable as JSON ({error})", "Fetch the file again.") from error
    if not isinstance(stored, dict):
        raise UserError(str(path), "holds no JSON object", "Fetch the file again.")
    return stored
