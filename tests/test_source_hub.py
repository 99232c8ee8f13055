"""Rows of the Hugging Face Hub: addresses, types of the schema, splits and faults, all without a network."""

import sys

import datasets
import pandas as pd
import pytest

from r2d_jax.config import ColumnsConfig, DataConfig
from r2d_jax.data.reading.hub_rows import HubAddress, parse_hub
from r2d_jax.data.reading.raw_rows import raw_rows
from r2d_jax.data.sources import read_examples
from r2d_jax.data.splits import content_hash, load_splits
from r2d_jax.errors import UserError

SECRET = "Zebedee Quux, 44 y, stabbing pain"
GUESSED = ["None", "NA", "01", "1.0", "2024-01-02", " x "]


def table(names, **more):
    columns = {
        "question": [f"q {name}" for name in names],
        "label": list(names),
        "rationale": ["r"] * len(names),
    }
    return datasets.Dataset.from_dict(columns | more)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that knows these data sets by (name, config), loaded by the library from Parquet in a folder."""
    load = datasets.load_dataset
    known, asked = {}, []

    def add(name, splits, config=None):
        folder = tmp_path / name.replace("/", "--") / (config or "default")
        folder.mkdir(parents=True)
        for split, rows in splits.items():
            rows.to_parquet(folder / f"{split}.parquet")
        known[name, config] = folder

    def load_dataset(path, name=None, revision=None):
        asked.append((path, name, revision))
        if (path, name) not in known:
            raise ValueError(f"BuilderConfig {name!r} not found in {path}.\nAvailable: ...")
        # Named one by one: from file names alone the library would guess splits, and call "dev" validation.
        files = {file.stem: file.name for file in sorted(known[path, name].iterdir())}
        return load(str(known[path, name]), data_files=files, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(
        datasets,
        "get_dataset_config_names",
        lambda path, revision=None: [c or "default" for n, c in known if n == path],
    )
    datasets.disable_progress_bars()
    add.asked = asked
    return add


def read(address, columns=None):
    return read_examples(address, columns or ColumnsConfig(), rationale_sources=["default"])


def refusal(address, *parts, act=read):
    with pytest.raises(UserError) as caught:
        act(address)
    text = str(caught.value)
    for part in parts:
        assert part in text, (part, text)
    assert "\n" not in text
    assert "Zebedee" not in text
    return text


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("hf:imdb", ("imdb", "", "", "", "")),
        ("hf:a/b.c-d", ("a/b.c-d", "", "", "", "")),
        ("hf:a/b:cfg:test", ("a/b", "", "cfg", "test", "")),
        ("hf:a/b@v1.2:cfg:test", ("a/b", "v1.2", "cfg", "test", "")),
        ("hf:a/b::test", ("a/b", "", "", "test", "")),
        ("hf:a/b:x", ("a/b", "", "", "", "x")),
    ],
)
def test_parts_of_an_address(address, parts):
    assert parse_hub(address) == HubAddress(*parts)


@pytest.mark.parametrize("address", ["hf:", "hf:a/b/c", "hf:a:b:c:d", "hf:a b", "hf::train", "hf:a/../b"])
def test_addresses_of_another_form_are_refused(address):
    with pytest.raises(UserError, match="is not of the form hf:NAME"):
        parse_hub(address)


@pytest.mark.parametrize("name", ["mine", "./mine", "/etc", "~/mine", "mine/script.py", "."])
def test_folders_and_scripts_of_this_machine_are_refused(tmp_path, monkeypatch, name):
    """The library prefers a folder of the name of a data set, so that other rows would be read unseen."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "script.py").write_text("raise SystemExit('was run')")
    refusal(f"hf:{name}:train", "file or folder of this machine")


def test_b011_b014_text_columns_are_exact(hub):
    hub("clinic/notes", {"train": table(GUESSED)})
    examples = read("hf:clinic/notes::train")
    assert [one.label for one in examples] == GUESSED
    assert [one.question for one in examples] == [f"q {word}" for word in GUESSED]
    assert [one.row_id for one in examples][:2] == ["train row 1", "train row 2"]


def test_config_split_and_revision_are_those_asked_for(hub):
    hub("a/b", {"train": table(["x"]), "test": table(["y"])}, config="cfg")
    hub("a/b", {"train": table(["z"])}, config="other")
    assert [one.label for one in read("hf:a/b@v2:cfg:test")] == ["y"]
    assert hub.asked[-1] == ("a/b", "cfg", "v2")
    assert [one.label for one in read("hf:a/b:other")] == ["z"]
    refusal("hf:a/b:cfg:dev", "no split 'dev'", "'test'")
    refusal("hf:a/b:cfg", "holds the splits", "Name one")
    assert len(list(raw_rows("hf:a/b:cfg:train"))) == 1


def test_one_part_is_a_config_where_there_is_one_else_a_split(hub):
    hub("a/b", {"train": table(["config"])}, config="dev")
    hub("a/c", {"train": table(["x"]), "dev": table(["split"])})
    assert read("hf:a/b:dev")[0].label == "config"
    assert read("hf:a/c:dev")[0].label == "split"


def test_class_labels_become_their_names(hub):
    names = datasets.ClassLabel(names=["no", "yes", "None"])
    rows = table(["a", "b", "c"], label=[2, 1, 0]).cast_column("label", names)
    hub("a/b", {"train": rows})
    assert [one.label for one in read("hf:a/b")] == ["None", "yes", "no"]
    hub("a/missing", {"test": table(["a", "b"], label=[1, -1]).cast_column("label", names)})
    refusal("hf:a/missing", "test row 2, field 'label'", "is null")


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ([1, 2], "is int"),
        ([0.5, 1.5], "is double"),
        ([True, False], "is bool"),
        ([["a"], ["b"]], "is list"),
        ([pd.Timestamp("2024-01-02"), pd.Timestamp("2024-01-03")], "is timestamp"),
    ],
)
def test_b012_columns_that_are_not_text_are_refused_as_in_json(hub, column, kind):
    hub("a/b", {"train": table(["x", "y"], label=column, question=[SECRET, "q"])})
    refusal("hf:a/b", "train row 1, field 'label'", kind, "Store it as text")


def test_whole_numbers_are_ids(hub):
    hub("a/b", {"train": table(["x", "y"], id=[10**15, 2])})
    assert [one.row_id for one in read("hf:a/b", ColumnsConfig(id="id"))] == ["1000000000000000", "2"]


def test_splits_of_the_hub_are_used_as_they_are(hub):
    parts = {"train": table(["x", "y"]), "validation": table(["x"]), "test": table(["y"])}
    hub("a/b", {**parts, "unlabelled": table(["x"], label=[1])}, config="cfg")
    splits = load_splits(DataConfig(path="hf:a/b:cfg"), 0, ["default"])
    assert splits.notes == ("splits of the source that are not used: 'unlabelled'",)
    assert [len(rows) for rows in (splits.train, splits.validation, splits.test)] == [2, 1, 1]
    assert splits.test[0].row_id == "test row 1"
    named = DataConfig(
        train_path="hf:a/b:cfg:train", validation_path="hf:a/b:cfg:validation", test_path="hf:a/b:cfg:test"
    )
    assert content_hash(load_splits(named, 0, ["default"])) == content_hash(splits)


def test_splits_of_other_names_are_mapped(hub):
    hub("a/b", {"fit": table(["x", "x", "y", "y"]), "dev": table(["x"])})
    config = DataConfig(path="hf:a/b", split_values={"train": "fit", "test": "dev"}, validation_fraction=0.5)
    splits = load_splits(config, 0, ["default"])
    assert [len(rows) for rows in (splits.train, splits.validation, splits.test)] == [2, 2, 1]
    refusal(
        DataConfig(path="hf:a/b", split_values={"train": "fit", "validation": "eval", "test": "dev"}),
        "not 'eval'",
        act=lambda c: load_splits(c, 0, ["default"]),
    )
    refusal(
        DataConfig(path="hf:a/b"),
        "'dev', 'fit'",
        "data.split_values",
        act=lambda c: load_splits(c, 0, ["default"]),
    )


def test_shares_are_drawn_from_the_one_split_that_is_named(hub):
    hub("a/b", {"train": table(["x", "y"] * 10), "test": table(["x"])})
    shares = {"train": 0.5, "validation": 0.2, "test": 0.3}
    splits = load_splits(DataConfig(path="hf:a/b::train", split_shares=shares), 0, ["default"])
    assert [len(rows) for rows in (splits.train, splits.validation, splits.test)] == [10, 4, 6]
    refusal(
        DataConfig(path="hf:a/b", split_shares=shares),
        "holds the splits",
        act=lambda c: load_splits(c, 0, ["default"]),
    )


def test_faults_of_the_hub_are_one_line(hub, monkeypatch):
    refusal("hf:a/b:cfg:train", "hf:a/b:cfg:train: cannot be loaded from the Hub (ValueError: BuilderConfig")

    def fail(*_, **__):
        raise TypeError(f"Could not convert {SECRET!r} to int64")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    refusal("hf:a/b:cfg:train", "cannot be loaded from the Hub (TypeError)")
    monkeypatch.setitem(sys.modules, "datasets", None)
    refusal("hf:a/b", "'.[hub]'")


def test_b078_offline_fails_at_once_with_one_line():
    """The real library, with HF_HUB_OFFLINE set by conftest."""
    refusal("hf:nobody/has-this-data-set", "cannot be loaded from the Hub", "network")
