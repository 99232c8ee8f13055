"""Mistakes in rows, settings and options: one line on stderr, exit code 2, before anything is trained."""

import json

import pytest

pytest_plugins = ["cli_cases"]

from cli_cases import SECRET, SECRET_WORDS, as_lines, make_rows

# Data


@pytest.mark.parametrize(
    ("third", "wanted"),
    [
        ({"label": ""}, ["field 'label': is empty", "Fill it in"]),
        ({"label": " \t"}, ["field 'label': is empty", "Fill it in"]),
        ({"rationale": ""}, ["field 'rationale': is empty", "Fill it in", r"data\.missing_rationales=skip"]),
        ({"question": ""}, [r"field 'question': is empty\. Fill it in, or remove the row\.$"]),
        ({"label": 1}, ["field 'label': is int, not text", 'in quotes, for example "1"']),
        ({"label": 2.5}, ["field 'label': is float, not text"]),
        ({"label": True}, ["field 'label': is bool, not text"]),
        ({"label": None}, ["field 'label': is null, not text"]),
        ({"rationale": [SECRET]}, ["field 'rationale': is list, not text"]),
        ({"rationale": ...}, ["field 'rationale': is missing", r"data\.missing_rationales=skip"]),
        ({"id": "case-0"}, ["has the id of line 1", "an id of its own"]),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(job, third, wanted):
    job(as_lines(make_rows(**third))).refused(r"rows\.jsonl line 3\b", *wanted)


def test_a_broken_row_after_blank_lines_is_named_by_its_physical_line(job):
    """B020."""
    good = [json.dumps(row) for row in make_rows()]
    broken = f'{{"question": "{SECRET}"'
    job("\n".join([good[0], "", good[1], broken, *good[4:]])).refused(
        r"rows\.jsonl line 4: is not JSON", "one object a line"
    )
    job("\n".join([good[0], json.dumps([SECRET])])).refused(
        r"line 2: is a JSON list, not an object", "Write {...}"
    )
    job(json.dumps(make_rows())).refused(r"line 1: is a JSON list", "Write {...}")


def test_a_missing_column_lists_those_there_are(job):
    text = as_lines({("Label" if k == "label" else k): v for k, v in row.items()} for row in make_rows())
    found = "columns found: 'id', 'split', 'question', 'context', 'Label', 'rationale'"
    job(text).refused(r"rows\.jsonl: no column 'label'", found, "Did you mean 'Label'", "data.columns")


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split(job, split):
    job(as_lines(row for row in make_rows() if row["split"] != split)).refused(
        f"the {split} split has no rows", f"{split}_path"
    )


def test_an_empty_validation_split_that_may_not_be_taken_from_train(job):
    rows = [row for row in make_rows() if row["split"] != "validation"]
    job(as_lines(rows), "data.validation_fraction=0").refused(
        "the validation split has no rows", "data.validation_fraction"
    )


def test_data_that_is_not_there(job, tmp_path):
    job(None, "data.path=absent.jsonl").refused("absent.jsonl: no such file", "Check the path")
    job(None, f"data.path={tmp_path}").refused("is a folder, not a file")
    job("").refused(r"rows\.jsonl: is empty", "Give a file with rows")


@pytest.mark.parametrize("column", ["question", "context", "rationale"])
def test_a_wrong_column_does_not_print_what_it_holds(job, column):
    """The text of the column stands for label or split, so a fault of it concerns case text."""
    job(None, f"data.columns.split={column}").refused(
        f"field '{column}': values without a split: ", "split_values"
    )
    wrong = f"data.columns.label={column}"
    job(None, wrong, "data.label_limit_tokens=2").refused("what would damage training: .*label-too-long")
    job(None, wrong, "data.label_limit_tokens=2", "data.check=off").refused(r"label \(\d+ characters\): ")
    for row in (doubled := make_rows()):
        row[column] = row[column].replace(" ", "  ") + " and so on, at length"
    job(as_lines(doubled), wrong).refused("what would damage training: .*label-lost")
    job(as_lines(doubled), wrong, "data.check=off").refused(r"label \(\d+ characters\): .* gives it back")


NAMES = [f"{word} {number}" for number in range(15) for word in SECRET_WORDS]


@pytest.mark.parametrize(
    ("blanks", "overrides", "told"),
    [
        (
            " ",
            ["evaluation.triage={order: [urgent, minor], first: most_urgent}", "data.check=warn"],
            r"'urgent' is not a label of the data\. Check data\.columns\.label",
        ),
        (" ", ["data.label_limit_tokens=2", "data.check=off"], r"label \(\d+ characters\): it takes"),
        ("  ", ["data.check=off"], r"label \(\d+ characters\): .* gives it back as \(\d+ characters\)"),
    ],
)
def test_short_names_in_a_wrong_label_column_are_not_printed(job, blanks, overrides, told):
    """Each was listed as a label to choose of: the names of all patients."""
    rows = [row | {"label": name.replace(" ", blanks)} for row, name in zip(make_rows(), NAMES, strict=True)]
    job(as_lines(rows), *overrides).refused(told)


# Settings


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        (
            "stage1.max_step=3",
            [r"config\.yaml, stage1\.max_step: no such setting", "Did you mean 'max_steps'"],
        ),
        ("stage1.max_steps=many", [r"config\.yaml, stage1\.max_steps: .* integer", "'many', str", "Correct"]),
        ("stage1.max_steps=2.5", [r"stage1\.max_steps: .* integer"]),
        ("stage1.max_steps=0", [r"stage1\.max_steps: .* greater than or equal to 1"]),
        ("tensorboard=no", [r"tensorboard: .* boolean"]),
        ("data.columns=question", [r"config\.yaml, data\.columns: "]),
        ("stage1.save_every_steps=4", [r"stage1\.save_every_steps: 4 is beyond the run of 3", "at most 3"]),
        ("stage2.eval_every_steps=4", [r"stage2\.eval_every_steps: 4 is beyond the run of 3", "at most 3"]),
        ("stage2.micro_batches=3", [r"stage2\.batch_size: 8 rows do not divide into 3", "6 or 9"]),
        (
            "data.label_limit_tokens=2",
            [r"label-too-long in label \(.*\): '(not )?urgent', '(not )?urgent'", "Raise the limit"],
        ),
        ("platform=abacus", [r"platform: .*'cpu', 'gpu' or 'tpu'", "'abacus'"]),
        ("platform=tpu", ["platform: the config asks for tpu, JAX found cpu", "set platform=any"]),
        ("mesh.tensor=7", ["mesh: .* tensor=7 does not fit", "product"]),
        ("mesh={data: -2, fsdp: -4}", ["mesh: data=-2 fsdp=-4 tensor=1 does not fit 8 device", "product"]),
        ("stage1.max_steps=3000000000", [r"stage1\.max_steps: should be less", "Set at most 100000000"]),
        ("stage1.rationale_source=nurse", [r"stage1\.rationale_source: 'nurse' is not a source", "default"]),
        ("model.init=./absent", [r"\./absent: no such folder or file", "Check the path"]),
        (
            "data.input_limit_tokens=16",
            [r"data\.input_limit_tokens: 16 tokens leave no room", r"Set at least \d+"],
        ),
        ("stage1", ["override 'stage1': is not KEY=VALUE", "stage1.max_steps=100"]),
        ("seed=[1", ["override seed: its value is not valid YAML", "Quote"]),
    ],
)
def test_a_bad_setting_is_named_with_what_fits(job, override, wanted):
    text = as_lines(row | {"label": row["label"] + " or so"} for row in make_rows())
    job(text if "_limit_" in override else None, override).refused(
        *[pattern.replace("urgent'", "urgent or so'") for pattern in wanted]
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "stage1:\n  max_step: 3\n",
            [r"bad\.yaml line [12], stage1\.max_step: no such setting", "Did you mean 'max_steps'"],
        ),
        ("sed: 3\n", [r"bad\.yaml line 1, sed: no such setting", "Did you mean 'seed'"]),
        ("stage1: {max_steps: '3'}\n", [r"bad\.yaml line [12], stage1\.max_steps: .* integer", "'3', str"]),
        ("seed: 1\nseed: 2\n", [r"bad\.yaml line 2: is not valid YAML", "Fix this line"]),
        ("seed: 1\nstage1: {max_steps: [}\n", [r"bad\.yaml line 2: is not valid YAML", "Fix this line"]),
        ("- seed\n", [r"bad\.yaml: holds no settings", "Write `key: value`"]),
        ("data: {path: caf\xe9.jsonl}\n", [r"bad\.yaml: is not valid YAML", "UTF-8"]),
        ("extends: nowhere.yaml\n", [r"nowhere\.yaml: no such config file", "Check the path"]),
    ],
)
def test_a_bad_config_file(r2d, tmp_path, text, wanted):
    (tmp_path / "bad.yaml").write_text(text, encoding="latin-1")
    r2d("run", "--config", tmp_path / "bad.yaml", "--workdir", tmp_path / "workdir").refused(*wanted)
    assert not (tmp_path / "workdir").exists()


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_a_config_that_is_not_there(r2d, tmp_path, name):
    ended = r2d("run", "--config", tmp_path / name, "--workdir", tmp_path / "workdir")
    ended.refused("no such config file", "configs/ holds examples")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["run", "--config", "config.yaml"], ["error: r2d run: Missing option '--workdir'"]),
        (["run", "--cfg", "config.yaml"], ["No such option.* --cfg"]),
        (["rum"], ["No such command 'rum'"]),
        (["predict", "--batch-size", "x"], ["predict: Invalid value for '--batch-size': .*integer"]),
        *(
            ([command, "--batch-size", "65537"], [f"{command}: Invalid value for '--batch-size'"])
            for command in ("eval", "predict", "calibrate")
        ),
        (["train", "--stage", "3"], ["Invalid value for '--stage'"]),
        (
            ["export", "--model", "m", "--output", "o", "--overwrite", "False"],
            ["unexpected extra argument.*False"],
        ),
    ],
)
def test_a_mistyped_command(r2d, arguments, wanted):
    """B104 too: a switch takes no value, so `--overwrite False` cannot mean True."""
    r2d(*arguments).refused(*wanted, r"See .r2d[ \w-]* --help")


@pytest.mark.parametrize("command", ["", "run", "train", "eval", "predict", "export", "import"])
def test_help_is_no_mistake(r2d, command):
    r2d(*command.split(), "--help").done("Usage: r2d", "--help")


def test_no_command_at_all_shows_the_help(r2d):
    r2d().done("Usage: r2d", "predict")
