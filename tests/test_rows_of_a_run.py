"""Rows and rationales that commands take of a run, or of a file beside a model, are those that the run learned."""

import dataclasses
import json
import shutil

import pytest

from r2d_jax.config import ColumnsConfig
from r2d_jax.config_file import load_config
from r2d_jax.errors import UserError
from r2d_jax.evaluation.labelled_rows import labelled_rows, rows_of_run
from r2d_jax.evaluation.model_folder import read_card
from r2d_jax.rationales.row_files import read_row_file
from r2d_jax.runtime.mesh import make_mesh
from r2d_jax.runtime.outputs import require_no_input_among
from r2d_jax.runtime.run_files import MODEL_CARD
from r2d_jax.training.prepare import prepare
from r2d_jax.training.workdir import Workdir

pytest_plugins = ["cli_cases"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Stage 1 learns the LLM's rationales, which every sixth row lacks, and stage 2 the nurse's."""
    home = tmp_path_factory.mktemp("run")
    path = home / "rows.jsonl"
    rows = [
        {
            "question": f"Pain since day {index}",
            "label": ("urgent", "not urgent")[index % 2],
            "llm": f"It is pain of day {index}." if index % 6 else "",
            "nurse": f"Day {index} is late.",
        }
        for index in range(120)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = [
        f"data.path={path}",
        "data.columns.rationales={llm: llm, nurse: nurse}",
        "data.missing_rationales=skip",
        "data.split_shares={train: 0.6, validation: 0.2, test: 0.2}",
        "stage1.rationale_source=llm",
        "stage2.rationale_source=nurse",
    ]
    config = load_config(None, settings)
    run = prepare(config, Workdir(home / "work"), make_mesh(config.mesh))
    return home / "work", run, rows


def test_the_splits_are_those_of_the_run(prepared):
    """Drawn with the source of stage 2 alone, test rows were rows that the run had trained on."""
    home, run, _ = prepared
    found = rows_of_run(home).splits
    for name in ("train", "validation", "test"):
        own = [row.row_id for row in getattr(run.splits, name)]
        assert [row.row_id for row in getattr(found, name)] == own
        assert len(own) in (20, 60)


@pytest.fixture
def changed(prepared):
    """The workdir, after rows came to its file: the draw then puts rows of the training into test."""
    home, _, rows = prepared
    path = home.parent / "rows.jsonl"
    before = path.read_bytes()
    more = [rows[number] | {"question": f"Pain since week {number}"} for number in range(1, 40)]
    path.write_bytes(before + "".join(json.dumps(row) + "\n" for row in more).encode())
    yield home
    path.write_bytes(before)


ASKING = ("--base-url", "http://localhost:1/v1", "--llm", "none", "--dry-run")
ON_ROWS_OF_A_RUN = {
    "eval": ("--output", "out"),
    "calibrate": (),
    "judge": ("--predictions", "predictions.jsonl", "--output", "out", *ASKING),
    "zero-shot": ("--output", "out", *ASKING),
    "rationales generate": ("--output", "out.jsonl", *ASKING),
    "rationales polish": ("--output", "out.jsonl", *ASKING),
    "rationales audit": ("--output", "out"),
}


@pytest.mark.parametrize("command", ON_ROWS_OF_A_RUN)
def test_rows_that_came_after_the_training_are_not_taken_for_those_of_the_run(
    r2d, changed, tmp_path, monkeypatch, command
):
    """The splits were drawn again from whatever the file held, and rows of the training were scored as test rows."""
    monkeypatch.chdir(tmp_path)
    line = '{"id": "line 2", "label": "urgent", "rationale": "r", "gold_label": "urgent"}\n'
    (tmp_path / "predictions.jsonl").write_text(line, encoding="utf-8")
    ended = r2d(*command.split(), "--model", changed, *ON_ROWS_OF_A_RUN[command])
    ended.refused("work: its run began with other rows", "Restore the data .*--input")
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]


def test_a_folder_that_does_not_tell_its_rows_is_taken_as_it_is(changed, tmp_path):
    """Imported and exported models, and runs of versions that stored no hash."""
    home = shutil.copytree(changed, tmp_path / "old")
    mark = home / "run.json"
    for text in ('{"config_hash": "x"}', None, "{"):
        if text is None:
            mark.unlink()
        else:
            mark.write_text(text)
        if text == "{":
            with pytest.raises(UserError, match=r"run\.json: is damaged"):
                rows_of_run(home)
        else:
            assert len(rows_of_run(home).splits.test) > 20


def test_a_file_is_read_with_the_rationales_that_stage_2_learned(prepared, tmp_path):
    """The first column was taken, whoever wrote it."""
    home, run, rows = prepared
    assert run.card.rationale_source == "nurse"
    path = tmp_path / "others.jsonl"
    kept = [{key: value for key, value in row.items() if key != "llm"} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    found = labelled_rows(home, path, split="test", columns={}, with_rationales=True)
    assert found.source == "nurse"
    assert found.examples[3].rationales == {"nurse": "Day 3 is late."}
    assert read_row_file(home, path, split="all", columns={}).rationale_column == "nurse"
    # A card of an earlier version does not say it; then the first counts, and this file lacks it.
    card = dataclasses.replace(read_card(home), rationale_source=None)
    (tmp_path / MODEL_CARD).write_text(card.to_json(), encoding="utf-8")
    with pytest.raises(UserError, match="no column 'llm'"):
        labelled_rows(tmp_path, path, split="test", columns={}, with_rationales=True)


def test_a_rationale_column_that_is_named_counts(prepared):
    card = prepared[1].card
    assert card.source_among(["default"]) == "default"
    assert card.source_among([]) is None
    assert dataclasses.replace(card, columns=ColumnsConfig()).source_among(["llm", "nurse"]) == "nurse"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), {}),
        (("--batch-size", "8"), {"batch_size": 8}),
        (("--no-checks",), {"rationale_checks": False}),
        (("--checks", "--batch-size", "2"), {"rationale_checks": True, "batch_size": 2}),
    ],
)
def test_only_options_that_are_given_go_before_the_settings_of_the_run(
    r2d, prepared, tmp_path, monkeypatch, options, wanted
):
    """Defaults of the options won over `evaluation.batch_size=4` on the same command line."""
    asked = []

    def evaluate_model(*_, settings, **__):
        asked.append(settings)
        raise UserError("here", "is the end", "None.")

    monkeypatch.setattr("r2d_jax.evaluation.apply.evaluate_model", evaluate_model)
    r2d("eval", "--model", prepared[0], "--output", tmp_path / "out", *options).refused("here: is the end")
    assert asked == [wanted]


def test_a_run_goes_on_with_its_own_tokenizer_alone(prepared, tmp_path):
    """With another it trained to the end, spoilt its checkpoints, and was only then refused."""
    home, run, _ = prepared
    work = tmp_path / "work"
    shutil.copytree(home, work)
    stored = work / "tokenizer" / "tokenizer.json"
    whole = stored.read_bytes()
    stored.unlink()
    prepare(run.config, Workdir(work), run.mesh)
    assert stored.read_bytes() == whole
    swapped = json.loads(whole)
    ids = swapped["model"]["vocab"]
    one, other = list(ids)[-2:]
    ids[one], ids[other] = ids[other], ids[one]
    stored.write_text(json.dumps(swapped), encoding="utf-8")
    before = (work / "run.json").read_bytes()
    with pytest.raises(UserError, match="is not the tokenizer that this run began with"):
        prepare(run.config, Workdir(work), run.mesh)
    assert (work / "run.json").read_bytes() == before


def test_an_input_is_not_written_over_by_another_name(tmp_path):
    """`folder/../rows.jsonl` and a link were taken for another file."""
    rows, link = tmp_path / "rows.jsonl", tmp_path / "link.jsonl"
    rows.write_text("{}")
    (tmp_path / "folder").mkdir()
    link.symlink_to(rows)
    for output in (rows, tmp_path / "folder" / ".." / "rows.jsonl", link):
        with pytest.raises(UserError, match="is an input"):
            require_no_input_among([output], None, rows)
        with pytest.raises(UserError, match="is an input"):
            require_no_input_among([rows], output)
    require_no_input_among([tmp_path / "other.jsonl"], rows)


def test_a_data_check_is_not_written_over_its_rows_by_another_name(r2d, tmp_path):
    rows, link = tmp_path / "rows.jsonl", tmp_path / "link.jsonl"
    rows.write_text('{"question": "q", "label": "a", "rationale": "r"}\n')
    link.symlink_to(rows)
    r2d("data", "check", rows, "--json", link).refused("link.jsonl: is an input")
    assert "question" in rows.read_text()
