"""`r2d compare` end to end on tiny runs: what it trains, what it skips, what it refuses."""

import json

import pytest

pytest_plugins = ["cli_cases"]

from cli_cases import ROOT, as_lines, in_a_process, make_rows, settings
from ruamel.yaml import YAML

from r2d_jax.errors import UserError
from r2d_jax.training.compare_config import load_comparison

ARMS = {
    "sft": {"set": {"method": "sft"}},
    "r2d": {},
    "r2dc": {"set": {"method": "r2dc"}},
    "r2d-no-stage1": {"set": {"stage1": {"enabled": False}}},
}


def write(folder, **changes):
    (folder / "rows.jsonl").write_text(as_lines(make_rows()), encoding="utf-8")
    config = settings(folder / "rows.jsonl")
    # Their programs would be compiled for every arm.
    config["evaluation"] |= {"faithfulness_rows": 0, "probabilities": False}
    YAML().dump(config, folder / "base.yaml")
    values = {"base": "base.yaml", "reference": "r2d", "seeds": [0, 1], "arms": ARMS} | changes
    YAML().dump(values, folder / "compare.yaml")
    return folder / "compare.yaml"


@pytest.fixture(scope="module")
def compared(tmp_path_factory, compile_cache):
    home = tmp_path_factory.mktemp("compare")
    file = write(home)
    command = ("compare", "--config", file, "--workdir", home / "all")
    return home, command, in_a_process(*command, cwd=home, cache=compile_cache)


def test_every_method_and_seed_is_trained_and_tabled(compared):
    home, _, ended = compared
    assert ended.code == 0, ended.err
    table = json.loads((home / "all" / "comparison.json").read_text())
    assert {name: method["seeds"] for name, method in table["methods"].items()} == {
        name: [0, 1] for name in ARMS
    }
    assert table["rows"] == 6
    assert set(table["tests"]) == set(ARMS) - {"r2d"}
    for name in ARMS:
        metrics = json.loads((home / "all" / name / "seed1" / "evaluation" / "metrics.json").read_text())
        assert ("bleu" in metrics) == ("consistency_fraction" in metrics) == (name != "sft")
        predictions = (home / "all" / name / "seed1" / "evaluation" / "predictions.jsonl").read_text()
        if name == "sft":
            assert all(json.loads(line)["rationale"] == "" for line in predictions.splitlines())
    for file in ("comparison.md", "comparison.csv"):
        text = (home / "all" / file).read_text()
        assert all(name in text for name in ARMS)
    assert "Quokka" not in ended.out + ended.err


def test_a_first_stage_that_is_the_same_is_trained_once(compared):
    home, _, ended = compared
    for seed in (0, 1):
        donor = home / "all" / "r2d" / f"seed{seed}"
        taker = home / "all" / "r2dc" / f"seed{seed}"
        state = json.loads((taker / "run.json").read_text())
        assert state["stage1_from"] == str(donor)
        for path in (donor / "stage1" / "best").rglob("*"):
            if path.is_file():
                assert path.read_bytes() == (taker / path.relative_to(donor)).read_bytes()
    assert not (home / "all" / "r2d-no-stage1" / "seed0" / "stage1").exists()
    assert not (home / "all" / "sft" / "seed0" / "stage1").exists()
    assert ended.out.count("stage 1: taken from") == 2


def test_the_seeds_differ_in_training_and_share_their_rows(compared):
    home, _, _ = compared
    states = [json.loads((home / "all" / "r2d" / f"seed{seed}" / "run.json").read_text()) for seed in (0, 1)]
    assert states[0]["data_hash"] == states[1]["data_hash"]
    curves = [(home / "all" / "r2d" / f"seed{s}" / "stage1" / "metrics.jsonl").read_text() for s in (0, 1)]
    assert curves[0] != curves[1]


def test_finished_runs_are_skipped_and_a_missing_one_is_made_again(compared, compile_cache):
    home, command, _ = compared
    before = (home / "all" / "comparison.json").read_text()
    gone = home / "all" / "sft" / "seed1"
    gone.rename(home / "sft-before")
    again = in_a_process(*command, cwd=home, cache=compile_cache)
    assert again.code == 0, again.err
    assert again.out.count("finished before") == 7
    assert (home / "all" / "comparison.json").read_text() == before
    assert (gone / "evaluation" / "predictions.jsonl").read_bytes() == (
        home / "sft-before" / "evaluation" / "predictions.jsonl"
    ).read_bytes()


def test_a_table_of_some_methods_does_not_replace_that_of_all(compared, r2d):
    home, command, _ = compared
    tables = [home / "all" / f"comparison.{ending}" for ending in ("json", "csv", "md")]
    before = [path.read_bytes() for path in tables]
    ended = r2d(*command, "--only", "sft", "--only", "r2dc")
    assert ended.code == 0, ended.err
    assert "comparison-only.md" in ended.out
    assert [path.read_bytes() for path in tables] == before
    told = json.loads((home / "all" / "comparison-only.json").read_text())
    assert set(told["methods"]) == {"sft", "r2dc"}
    for ending in ("csv", "md"):
        assert "r2dc" in (home / "all" / f"comparison-only.{ending}").read_text()


def test_a_folder_with_another_run_is_refused_before_training(compared, tmp_path, r2d):
    home, _, _ = compared
    file = write(tmp_path, set={"stage2": {"optimizer": {"learning_rate": 0.001}}})
    r2d("compare", "--config", file, "--workdir", home / "all").refused("another config")


def test_a_table_never_has_runs_of_different_rows(compared, tmp_path, r2d):
    """Ids and gold labels were compared, so runs of corrected texts stood beside runs of the old ones."""
    home, command, _ = compared
    rows, run, tables = home / "rows.jsonl", home / "all" / "r2dc" / "seed1", home / "all" / "comparison.json"
    before, table = rows.read_text(encoding="utf-8"), tables.read_bytes()
    run.rename(tmp_path / "kept")
    rows.write_text(before.replace("old house", "new house"), encoding="utf-8")
    r2d(*command).refused(
        r"r2dc/seed1: the rows are not those of .*/sft/seed0 \(content hash", "Restore the data"
    )
    # Nothing was claimed, so with the data restored it is trained there.
    assert not (run / "run.json").exists()
    rows.write_text(before, encoding="utf-8")
    (tmp_path / "kept").rename(run)
    # Runs that were mixed before are found too.
    text = (run / "run.json").read_text()
    mixed = json.loads(text) | {"data_hash": "0123456789abcdef"}
    (run / "run.json").write_text(json.dumps(mixed))
    r2d(*command).refused(
        "r2dc/seed1: its run began with other rows than .*/sft/seed0 ", "Move those of the old rows"
    )
    (run / "run.json").write_text(text)
    assert tables.read_bytes() == table


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reference": "r2b"}, "has no method 'r2b'"),
        ({"arms": {}}, "compares nothing"),
        ({"seeds": [1, 1]}, "a seed twice"),
        ({"arms": {"r2d": {"set": {"stage3": {}}}}}, "method r2d: .*no such setting"),
        ({"arms": {"../x": {}}, "reference": "../x"}, "is not a name for a folder"),
        ({"arms": {"r2d": {"sett": {}}}}, "Unexpected|Extra"),
        ({"rationale_sources": ["nurse", "llm"]}, "is not a source|has no method"),
        ({"arms": ARMS | {"same-bits": {"set": {"deterministic": True}}}}, "deterministic in some runs only"),
        (
            {
                "arms": {
                    "a": {"rationale_sources": ["clinical-polished", "default"]},
                    "a-clinical": {"rationale_sources": ["polished", "default"]},
                },
                "reference": "a-default",
                "set": {
                    "data": {
                        "columns": {"rationales": {"clinical-polished": "x", "polished": "y", "default": "z"}}
                    }
                },
            },
            "two methods have the folder a-clinical-polished",
        ),
        (
            {
                "arms": {"a": {}, "hard": {"set": {"data": {"triage": {"distractors": 6}}}}},
                "reference": "a",
                "set": {"data": {"source": "triage", "path": None}},
            },
            "tested on different generated notes",
        ),
        (
            {
                "arms": {"a": {}, "b": {"set": {"data": {"seed": 5}}}},
                "reference": "a",
                "set": {"data": {"source": "triage", "path": None}},
            },
            "tested on different generated notes",
        ),
        (
            {
                "arms": {"a": {}, "b": {"set": {"data": {"seed": 5}}}},
                "reference": "a",
                "set": {"data": {"split_shares": {"train": 0.8, "validation": 0.1, "test": 0.1}}},
            },
            "tested on different rows",
        ),
        ({"set": {"seed": 4}}, r"method sft: sets seed. List the seeds"),
        ({"arms": ARMS | {"of-one-seed": {"set": {"seed": 1}}}}, r"method of-one-seed: sets seed"),
    ],
)
def test_a_faulty_comparison_ends_with_one_line(tmp_path, r2d, changes, told):
    file = write(tmp_path, **changes)
    r2d("compare", "--config", file, "--workdir", tmp_path / "out").refused(told)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["compare_triage", "compare_pubmedqa"])
def test_shipped_comparisons_plan_their_runs(name):
    comparison, runs = load_comparison(ROOT / "configs" / f"{name}.yaml")
    assert len(comparison.seeds) >= 3
    methods = {run.method for run in runs}
    assert {"sft", "dss", "r2d-no-stage1", "r2d-gold-labels", "r2d-predicted-labels"} <= methods
    assert len(runs) == len(methods) * len(comparison.seeds)


def test_only_keeps_the_named_methods(tmp_path):
    file = write(tmp_path)
    assert {run.method for run in load_comparison(file, ["sft"])[1]} == {"sft"}
    with pytest.raises(UserError, match="no method 'x'"):
        load_comparison(file, ["x"])


def test_one_seed_for_a_comparison_is_refused(tmp_path):
    """It was passed over, for the file lists the seeds."""
    with pytest.raises(UserError, match="seed=: is one seed for a comparison"):
        load_comparison(write(tmp_path), overrides=["seed=5"])


@pytest.mark.parametrize(
    ("data_seed", "overrides", "changes", "seed"),
    [
        (None, [], {}, 3),
        (7, [], {}, 7),
        (0, [], {}, 0),
        (None, ["data.seed=8"], {}, 8),
        (7, ["data.seed=8"], {}, 8),
        (7, [], {"set": {"data": {"seed": 9}}}, 9),
    ],
)
def test_all_seeds_have_the_rows_of_data_seed_where_it_is_set(tmp_path, data_seed, overrides, changes, seed):
    """It was replaced by the first training seed without a word."""
    file = write(tmp_path, seeds=[3, 4], **changes)
    base = YAML(typ="safe").load(tmp_path / "base.yaml")
    base["data"]["seed"] = data_seed
    YAML().dump(base, tmp_path / "base.yaml")
    _, runs = load_comparison(file, overrides=overrides)
    assert {run.config.seed for run in runs} == {3, 4}
    assert {run.config.data.seed for run in runs} == {seed}


def test_a_base_whose_data_is_no_section_is_refused(tmp_path):
    file = write(tmp_path)
    base = YAML(typ="safe").load(tmp_path / "base.yaml")
    YAML().dump(base | {"data": 5}, tmp_path / "base.yaml")
    with pytest.raises(UserError, match="method sft: config, data: "):
        load_comparison(file)
