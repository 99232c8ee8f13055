"""The other forms of an export, int8 and ONNX: read back here and by transformers and onnxruntime alone."""

import ast
import json
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from t5_cases import (
    SMALL,
    TOLERANCE,
    config,
    one_torch_thread,
    our_logits,
    random_weights,
    torch_logits,
    two_rows,
)
from test_export_card import QUESTIONS, card_of

from r2d_jax.config import MeshConfig, T5Config
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError
from r2d_jax.evaluation import convert
from r2d_jax.evaluation.apply import predict_file
from r2d_jax.evaluation.calibration import Calibration, labels_digest, load_calibration
from r2d_jax.evaluation.convert import export_folder
from r2d_jax.evaluation.export import export_model
from r2d_jax.evaluation.model_folder import LoadedModel, load_model, read_card
from r2d_jax.model.hf_format import read_hf_folder, write_hf_folder
from r2d_jax.model.hf_format_int8 import to_int8
from r2d_jax.model.parameters import T5Factory, flatten
from r2d_jax.runtime import files
from r2d_jax.runtime.mesh import make_mesh
from r2d_jax.runtime.run_files import CALIBRATION

__all__ = ["config", "one_torch_thread"]

# Nearly all of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture
def int8(tmp_path, config):
    write_hf_folder(tmp_path / "int8", config, random_weights(config), dtype="int8", generation={})
    return tmp_path / "int8"


def test_int8_by_hand():
    weight = np.array([[1.27, -0.64, 0.006], [0, 0, 0], [-254, 3, 1]], np.float32)
    stored, scale = to_int8(weight)
    assert stored.tolist() == [[127, -64, 1], [0, 0, 0], [-127, 2, 0]]
    assert scale.dtype == np.float32
    np.testing.assert_allclose(scale, [[0.01], [1], [2]], rtol=1e-6)


def test_int8_is_off_by_half_a_step_at_most_and_comes_back(int8, config):
    stored = load_file(int8 / "model.safetensors")
    assert stored["encoder.block.0.layer.0.SelfAttention.q.weight"].dtype == np.int8
    assert stored["shared.weight"].dtype == "bfloat16"
    given, (_, read) = flatten(random_weights(config)), read_hf_folder(int8)
    for name, back in flatten(read).items():
        exact = given[name]
        if "/kernel" in name:
            # Stored transposed: a step belongs to an output, a column here.
            step = np.abs(exact).max(axis=0, keepdims=True) / 127
            assert (np.abs(back - exact) <= 0.5001 * step).all()
            assert (back != exact).any()
        elif name in ("embedding", "head"):
            np.testing.assert_allclose(back, exact, rtol=2**-8)
        else:
            np.testing.assert_array_equal(back, exact)


def test_transformers_loads_int8_and_computes_the_same(int8, config):
    pytest.importorskip("compressed_tensors")
    ids, decoder_ids = two_rows(config.vocab_size)
    _, read = read_hf_folder(int8)
    ours, theirs = our_logits(config, read, ids, decoder_ids), torch_logits(int8, ids, decoder_ids)
    np.testing.assert_allclose(theirs, ours, atol=TOLERANCE * np.abs(ours).max())
    # `generate` calls the encoder by itself, before the model's own forward.
    write_hf_folder(int8.parent / "float32", config, read, generation={})
    written = [generated(folder, ids) for folder in (int8, int8.parent / "float32")]
    assert written[0] == written[1]
    assert len({*written[0][0], *written[0][1]}) > 2


def generated(folder, ids):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    # Without a cache: one shape has a decoder deeper than its encoder.
    return model.generate(torch.tensor(ids), max_new_tokens=8, use_cache=False).tolist()


def test_int8_without_its_scale_or_with_a_wrong_one(int8):
    name = "decoder.block.0.layer.2.DenseReluDense.wo.weight"
    tensors = load_file(int8 / "model.safetensors")
    scale = tensors.pop(f"{name}_scale")
    save_file(tensors, int8 / "model.safetensors")
    with pytest.raises(UserError, match=rf"{name} has type I8"):
        read_hf_folder(int8)
    save_file(tensors | {f"{name}_scale": scale[1:]}, int8 / "model.safetensors")
    with pytest.raises(UserError, match=rf"{name}_scale has shape \[15, 1\], not \[16, 1\]"):
        read_hf_folder(int8)


def test_generation_settings_as_transformers_reads_them(tmp_path, shared_data):
    """`generate` without arguments is greedy, ends, and never writes an id without text."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model, folder = made_model(shared_data), tmp_path / "export"
    export_model(model, folder)
    settings = transformers.GenerationConfig.from_pretrained(folder)
    assert (settings.pad_token_id, settings.eos_token_id, settings.decoder_start_token_id) == (0, 1, 0)
    assert (settings.max_new_tokens, settings.num_beams, settings.do_sample) == (16, 1, False)
    loaded = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    written = loaded.generate(torch.arange(3, 23).reshape(2, 10))
    assert written.shape[1] <= 17
    assert written[:, 0].tolist() == [0, 0]
    assert int(written.max()) < model.tokenizer.size < loaded.config.vocab_size


def made_model(shared_data):
    tokenizer = Tokenizer.load(shared_data / "t5_tokenizer")
    shape = T5Config(**SMALL | {"vocab_size": tokenizer.size + 28, "num_layers": 1}, num_decoder_layers=1)
    card = card_of(tokenizer, shape=shape, input_limit_tokens=64, rationale_tokens=16)
    return LoadedModel(card, T5Factory(shape, "float32"), random_weights(shape), tokenizer, "made")


def onnx_code(readme, decode):
    """The README's code with its part for ONNX in place of what needs torch: what is done once, and for a question."""
    usage, valid_label, graphs = (
        ast.parse(block.split("```")[0]).body for block in readme.split("```python\n")[1:]
    )
    # In the constrained way, the lines up to its `label = ...` are done once too.
    once, each = list(graphs), []
    for node in usage:
        name = getattr(node, "name", None) or getattr(getattr(node, "targets", [None])[0], "id", None)
        if isinstance(node, ast.Import | ast.ImportFrom) or name in ("model", "tokenizer", "generate"):
            continue
        if name == "FOLDER":
            once.insert(0, node)
            continue
        if name == "label" and decode == "constrained":
            once, node = [*once, *valid_label[:-1]], valid_label[-1]
        (each if name == "question" or each else once).append(node)
    codes = [ast.unparse(ast.Module(lines, [])) for lines in (once, each)]
    assert not any("torch" in code for code in codes)
    return [code.replace("'...'", "asked") for code in codes]


def test_the_code_for_onnx_gives_what_predict_gives(tmp_path, shared_data, monkeypatch):
    for module in ("onnxscript", "onnxruntime", "torch"):
        pytest.importorskip(module)
    folder, rows = tmp_path / "export", tmp_path / "rows.jsonl"
    export_model(made_model(shared_data), folder, onnx=True)
    for graph in (folder / "onnx").iterdir():
        # The exporter itself notes the files of this machine in every node.
        assert not {part for part in (b"site-packages", b"r2d_jax", b".py") if part in graph.read_bytes()}
    rows.write_text(
        "".join(json.dumps({"id": str(n), "question": q}) + "\n" for n, q in enumerate(QUESTIONS))
    )
    monkeypatch.chdir(folder)
    for decode in ("free", "constrained"):
        once, each = onnx_code((folder / "README.md").read_text(), decode)
        told = []
        names = {"print": lambda *texts, told=told: told.append(texts)}
        exec(once, names)
        for question in QUESTIONS:
            exec(each, names | {"asked": question})
        predict_file(folder, rows, tmp_path / decode, columns={"id": "id"}, batch_size=8, label_decode=decode)
        predicted = [json.loads(line) for line in (tmp_path / decode).read_text().splitlines()]
        assert [tuple(text.strip(" ") for text in texts) for texts in told] == [
            (row["label"], row["rationale"]) for row in predicted
        ]
        assert len(set(told)) > 2


def test_onnx_that_cannot_be_made_leaves_nothing(tmp_path, shared_data, monkeypatch):
    with pytest.raises(UserError, match="--format: ONNX graphs are float32 only"):
        export_folder(tmp_path, tmp_path / "out", dtype="int8", overwrite=False, format="onnx")
    with pytest.raises(UserError, match=r"--format: 'gguf' is not known. Use safetensors or onnx"):
        export_folder(tmp_path, tmp_path / "out", dtype="float32", overwrite=False, format="gguf")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"--format onnx: needs onnxruntime.*\.\[onnx\]"):
        # Before a model is looked for.
        export_folder(tmp_path, tmp_path / "out", dtype="float32", overwrite=False, format="onnx")
    with pytest.raises(UserError, match=r"--format onnx: needs onnxruntime.*\.\[onnx\]"):
        export_model(made_model(shared_data), tmp_path / "out", onnx=True)
    assert not list(tmp_path.iterdir())


def test_a_target_is_looked_at_before_the_model_is_loaded(tmp_path, shared_data, monkeypatch):
    """Loading one takes minutes, and the target was looked at afterwards."""
    model, used = tmp_path / "model", tmp_path / "used"
    export_model(made_model(shared_data), model)
    used.mkdir()
    (used / "thesis.txt").write_text("years of work")
    monkeypatch.setattr(convert, "load_model", lambda *_: pytest.fail("the model was loaded"))
    for target, overwrite, wanted in (
        (used, True, "used: is not empty and holds no model"),
        (used / "thesis.txt", True, "thesis.txt: is a file"),
        (used / "thesis.txt" / "x" / "y", False, r"y: cannot be written \(Not a directory\)"),
        (model, False, "model: holds a model.*--overwrite"),
        (model, True, "--output .*model: is the model that is read"),
    ):
        with pytest.raises(UserError, match=wanted):
            export_folder(model, target, dtype="float32", overwrite=overwrite)
    (used / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"--output .*export: belongs to the run in .*used"):
        # Of another run than the model.
        export_folder(model, used / "export", dtype="float32", overwrite=True)
    refused = lambda folder: "Read-only file system" if folder == tmp_path else None  # noqa: E731
    monkeypatch.setattr(files, "write_fault", refused)
    with pytest.raises(UserError, match=r"z: cannot be written \(Read-only file system\)"):
        export_folder(model, tmp_path / "y" / "z", dtype="float32", overwrite=False)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "used"}


def test_an_import_stands_whole_or_not_at_all(tmp_path, shared_data, monkeypatch):
    """After a kill its folder was refused as one that is not empty."""
    export_model(made_model(shared_data), tmp_path / "model")
    source, target = str(tmp_path / "model"), tmp_path / "new" / "imported"
    with monkeypatch.context() as patch:
        patch.setattr(convert, "write_texts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert.import_model(source, target, None)
    assert not target.exists()
    # What a process leaves that cannot even tidy up.
    (target.parent / ".imported.partial" / "weights").mkdir(parents=True)
    convert.import_model(source, target, None)
    assert [path.name for path in target.parent.iterdir()] == ["imported"]
    assert load_model(target, make_mesh(MeshConfig())).card == read_card(tmp_path / "model")
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far")
    convert.import_model(source, tmp_path / "link", None)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "r2d_model.json").is_file()


def test_a_folder_that_no_other_can_replace_is_no_target(tmp_path, shared_data, monkeypatch):
    """The last step failed after all of the work, or the shell stood in a folder that was gone."""
    export_model(made_model(shared_data), tmp_path / "model")
    source, here, mounted = str(tmp_path / "model"), tmp_path / "here", tmp_path / "mounted"
    here.mkdir()
    mounted.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("os.path.ismount", lambda path: path == mounted)
    monkeypatch.setattr(convert, "read_hf_folder", lambda _: pytest.fail("the model was read"))
    monkeypatch.setattr(convert, "load_model", lambda *_: pytest.fail("the model was loaded"))
    for folder, wanted in (
        (here, "here: is the folder that commands run in"),
        (mounted, "where a file system"),
    ):
        with pytest.raises(UserError, match=wanted):
            convert.import_model(source, folder, None)
        with pytest.raises(UserError, match=wanted):
            export_folder(tmp_path / "model", folder, dtype="float32", overwrite=True)


def test_a_run_exports_into_its_own_folder_through_a_link(tmp_path, shared_data, monkeypatch):
    """It was refused as a folder of the run."""
    run, disk = tmp_path / "run", tmp_path / "disk"
    export_model(made_model(shared_data), run)
    export_model(made_model(shared_data), disk)
    (run / "run.json").write_text("{}")
    (run / "export").symlink_to(disk)
    monkeypatch.setattr(convert, "load_model", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_folder(run, run / "export", dtype="float32", overwrite=True)


def test_an_export_never_replaces_a_folder_around_its_model(tmp_path, shared_data, monkeypatch):
    """The model that is read was gone, with the only copy of its weights."""
    outer, inner = tmp_path / "exports", tmp_path / "exports" / "fp32"
    export_model(made_model(shared_data), outer)
    export_model(made_model(shared_data), inner)
    monkeypatch.setattr(convert, "load_model", lambda *_: pytest.fail("the model was loaded"))
    (tmp_path / "link").symlink_to(outer)
    for target in (outer, tmp_path / "link", inner / ".."):
        with pytest.raises(
            UserError, match=r"--output .*: holds the model that is read\. .*nothing was changed"
        ):
            export_folder(inner, target, dtype="float32", overwrite=True)
    assert (inner / "model.safetensors").is_file()


def test_what_a_user_added_to_an_export_is_not_lost(tmp_path, shared_data, monkeypatch, capsys):
    """LICENSE, which `r2d push` sends, an evaluation and a calibration made there were gone without a word."""

    def calibrated(folder, temperature):
        made = Calibration(temperature, None, None, 9, labels_digest(("yes", "no")))
        (folder / CALIBRATION).write_text(made.to_json())

    def again():
        export_folder(model, target, dtype="bfloat16", overwrite=True)
        return capsys.readouterr().out

    model, target = tmp_path / "model", tmp_path / "out"
    for folder in (model, target):
        export_model(made_model(shared_data), folder)
    (target / "LICENSE").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(convert, "load_model", lambda *_: pytest.fail("the model was loaded"))
        (target / "wards").mkdir()
        for name in ("wards/metrics.json", "wards/predictions.jsonl"):
            (target / name).write_text("{}")
        with pytest.raises(
            UserError, match=r"out: holds wards/metrics\.json and 1 more, which no export writes"
        ):
            again()
        (target / "wards").rename(tmp_path / "wards")
        calibrated(target, 2.0)
        with pytest.raises(
            UserError, match=r"out: holds a calibration\.json, and the model has none\. Move it"
        ):
            again()
    calibrated(model, 2.0)
    assert again() == ""
    assert json.loads((target / "config.json").read_text())["dtype"] == "bfloat16"
    calibrated(model, 3.0)
    assert "differed from that of the model" in again()
    assert load_calibration(target) == load_calibration(model)
    assert (target / "LICENSE").read_text() == "mine"
    (target / "LICENSE").unlink()
    (target / "LICENSE").symlink_to("elsewhere")
    again()
    assert (target / "LICENSE").is_symlink()
