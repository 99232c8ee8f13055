"""Hugging Face folders; in: small and real models, out: equal weights back and torch's logits and tokens."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from t5_cases import (
    SHAPES,
    SMALL,
    TOLERANCE,
    bitwise_equal,
    config,
    folder,
    one_torch_thread,
    our_logits,
    random_weights,
    tied,
    torch_logits,
    two_rows,
)

from r2d_jax.config import T5Config
from r2d_jax.errors import UserError
from r2d_jax.model.hf_format import read_hf_config, read_hf_folder, write_hf_folder
from r2d_jax.model.parameters import flatten, unflatten

__all__ = ["config", "folder", "one_torch_thread", "tied"]


def test_export_and_import_are_bitwise_inverse(folder: pathlib.Path, config: T5Config) -> None:
    shape, params = read_hf_folder(folder)
    assert shape == config == read_hf_config(folder)
    assert bitwise_equal(params, random_weights(config))


def test_export_gives_torch_our_logits_and_all_names(folder: pathlib.Path, config: T5Config) -> None:
    ids, decoder_ids = two_rows(config.vocab_size)
    theirs = torch_logits(folder, ids, decoder_ids)
    assert theirs.std() > 0.1
    np.testing.assert_allclose(
        our_logits(config, random_weights(config), ids, decoder_ids), theirs, atol=TOLERANCE
    )


def test_transformers_own_copy_of_an_export_reads_the_same(
    folder: pathlib.Path, config: T5Config, tmp_path: pathlib.Path
) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.T5ForConditionalGeneration.from_pretrained(folder).save_pretrained(tmp_path / "again")
    shape, params = read_hf_folder(tmp_path / "again")
    assert shape == config
    assert bitwise_equal(params, random_weights(config))


def test_untied_model_born_in_transformers_reads_with_its_logits(tmp_path: pathlib.Path) -> None:
    # transformers 5 gives such a model one table for both ends, yet does not scale the output.
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = transformers.T5Config(**SMALL, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    transformers.T5ForConditionalGeneration(settings).save_pretrained(tmp_path)
    shape, params = read_hf_folder(tmp_path)
    assert not shape.tie_word_embeddings
    ids, decoder_ids = two_rows(40)
    theirs = torch_logits(tmp_path, ids, decoder_ids)
    np.testing.assert_allclose(our_logits(shape, params, ids, decoder_ids), theirs, atol=TOLERANCE)


def test_bfloat16_export_is_read_alike_by_torch_and_by_us(tmp_path: pathlib.Path, config: T5Config) -> None:
    torch = pytest.importorskip("torch")
    params = random_weights(config)
    write_hf_folder(tmp_path / "half", config, params, dtype="bfloat16", generation={})
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    from safetensors.torch import load_file as load_torch

    stored = load_torch(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    expected = jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16).astype(np.float32), params)
    assert not bitwise_equal(expected, params)
    _, ours = read_hf_folder(tmp_path / "half")
    assert bitwise_equal(ours, expected)
    np.testing.assert_array_equal(stored["shared.weight"].float().numpy(), expected["embedding"])
    ids, decoder_ids = two_rows(config.vocab_size)
    theirs = torch_logits(tmp_path / "half", ids, decoder_ids, dtype=torch.float32)
    np.testing.assert_allclose(our_logits(config, ours, ids, decoder_ids), theirs, atol=TOLERANCE)


def test_one_copy_of_the_embedding_and_a_head_only_when_untied(
    folder: pathlib.Path, config: T5Config
) -> None:
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
    flat = flatten(random_weights(config))
    flat["head" if "head" in flat else "embedding"][35] *= 20
    params = unflatten(flat)
    asked = {"do_sample": False, "num_beams": 1, "max_new_tokens": 7}
    ids = torch.tensor(two_rows(35)[0][:, :11], dtype=torch.long)
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
        tmp_path / "a" / "b", shape, random_weights(shape), generation={}, extra_files={"card.json": "{≥}"}
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
    shape, other = SHAPES["tied_relu"], random_weights(SHAPES["tied_relu"], seed=1)
    (tied / "stale.txt").write_text("old")
    with pytest.raises(UserError, match=r"tied: holds a model\. .*--overwrite"):
        write_hf_folder(tied, shape, other, generation={})
    assert bitwise_equal(read_hf_folder(tied)[1], random_weights(shape))
    write_hf_folder(tied, shape, other, generation={}, overwrite=True)
    assert bitwise_equal(read_hf_folder(tied)[1], other)
    assert not (tied / "stale.txt").exists()
    notes = tied.parent / "notes"
    notes.mkdir()
    (notes / "diary.txt").write_text("mine")
    with pytest.raises(UserError, match="notes: is not empty and holds no model"):
        write_hf_folder(notes, shape, other, generation={}, overwrite=True)
    assert (notes / "diary.txt").read_text() == "mine"
    assert sorted(path.name for path in tied.parent.iterdir()) == ["notes", "tied"]


def test_a_failed_write_leaves_the_old_folder(tied: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("r2d_jax.model.hf_format.save_file", full_disk)
    shape = SHAPES["tied_relu"]
    with pytest.raises(UserError, match="No space left"):
        write_hf_folder(tied, shape, random_weights(shape, seed=1), generation={}, overwrite=True)
    assert bitwise_equal(read_hf_folder(tied)[1], random_weights(shape))
    assert [path.name for path in tied.parent.iterdir()] == ["tied"]


def test_weights_of_another_shape_are_not_written(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="not of this T5Config"):
        write_hf_folder(
            tmp_path / "x", SHAPES["untied_gated"], random_weights(SHAPES["tied_relu"]), generation={}
        )
    assert not list(tmp_path.iterdir())


def test_the_real_hugging_face_file_gives_torchs_logits(shared_data: pathlib.Path) -> None:
    folder = shared_data / "t5_chronos_dummy"
    shape, params = read_hf_folder(folder)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 23_040
    assert (shape.d_model, shape.d_kv, shape.num_heads, shape.feed_forward_proj) == (64, 16, 1, "relu")
    ids, decoder_ids = two_rows(shape.vocab_size)
    import torch

    theirs = torch_logits(folder, ids, decoder_ids, dtype=torch.float32)
    np.testing.assert_allclose(our_logits(shape, params, ids, decoder_ids), theirs, atol=TOLERANCE)


def test_export_needs_no_torch() -> None:
    program = (
        "import sys, r2d_jax.model.hf_format, r2d_jax.model.t5x_format;"
        "sys.exit(' '.join({'torch', 'transformers', 'tensorflow'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_of_an_export_are_for_whom_the_umask_says(
    tmp_path: pathlib.Path, config: T5Config, umask: int, mode: int
) -> None:
    """Weights that only their owner can read cannot be shared within a group."""
    before = os.umask(umask)
    try:
        write_hf_folder(
            tmp_path / "m", config, random_weights(config), generation={}, extra_files={"README.md": ""}
        )
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "m").iterdir()} == dict.fromkeys(
        ("README.md", "config.json", "generation_config.json", "model.safetensors"), mode
    )


def test_what_a_kill_left_of_an_export_goes_with_the_next_one(
    tmp_path: pathlib.Path, config: T5Config
) -> None:
    """Three stopped exports left three folders of the size of a model."""
    (tmp_path / ".export.partial").mkdir()
    (tmp_path / ".export.partial" / "model.safetensors").write_text("half")
    (tmp_path / ".other.partial").mkdir()
    write_hf_folder(tmp_path / "export", config, random_weights(config), generation={})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.partial", "export"]


def test_a_kill_between_the_renames_of_a_replacement_loses_nothing(tied: pathlib.Path) -> None:
    """The old folder stepped aside; the next export finds it, and without leave to overwrite keeps it."""
    aside = tied.with_name(".tied.old")
    tied.rename(aside)
    with pytest.raises(UserError, match="tied: holds a model"):
        write_hf_folder(tied, SHAPES["tied_relu"], random_weights(SHAPES["tied_relu"], 1), generation={})
    assert bitwise_equal(read_hf_folder(tied)[1], random_weights(SHAPES["tied_relu"]))
    assert not aside.exists()
