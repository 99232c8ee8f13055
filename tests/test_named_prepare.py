"""`r2d data prepare`: a folder whole or not at all, a card with true counts and no case text, and every refusal."""

import errno
import gzip
import hashlib
import json
import os

import pytest

from r2d_jax.config_file import load_config
from r2d_jax.data.named import prepare as module
from r2d_jax.data.named.prepare import prepare
from r2d_jax.data.named.registry import DATASETS
from r2d_jax.errors import UserError

pytest_plugins = ["named_cases", "cli_cases"]

from named_cases import ROOT, SECRET


def entry(label, text=SECRET):
    return {
        "QUESTION": f"{text} question?",
        "CONTEXTS": [f"{text} context."],
        "LABELS": ["RESULTS"],
        "final_decision": label,
        "LONG_ANSWER": f"{text} answer.",
    }


@pytest.fixture
def pubmedqa(put):
    """Test: 3 yes, 1 no; trainval: 4 yes, 2 no, 1 maybe, 1 without an answer."""
    labels = {"t": ["yes"] * 3 + ["no"], "v": ["yes"] * 4 + ["no"] * 2 + ["maybe"]}
    entries = {f"{part}{i}": entry(label) for part, all_ in labels.items() for i, label in enumerate(all_)}
    entries["v7"] = entry("no") | {"LONG_ANSWER": ""}
    paths = [
        put("ori_pqal.json", entries),
        put("test_ground_truth.json", {f"t{i}": label for i, label in enumerate(labels["t"])}),
    ]
    return {path.name: path for path in paths}


def test_card_values_against_hand_counts(pubmedqa, made):
    data = made("pubmedqa")
    card = data.card
    assert card["rows"] == {"trainval": 7, "test": 4}
    assert card["labels"] == {
        "distinct": 3,
        "counts": {
            "yes": {"test": 3, "trainval": 4},
            "no": {"test": 1, "trainval": 2},
            "maybe": {"trainval": 1},
        },
    }
    assert card["dropped"] == {"no rationale": 1}
    assert card["rationales"] == {"rationale": 11}
    assert card["command"] == "r2d data prepare pubmedqa --source original --out out --seed 0"
    for one in card["inputs"]:
        content = pubmedqa[one["file"]].read_bytes()
        assert (one["bytes"], one["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    rows = (data.folder / "rows.jsonl").read_bytes()
    assert (card["rows_file"]["bytes"], card["rows_file"]["sha256"]) == (
        len(rows),
        hashlib.sha256(rows).hexdigest(),
    )


def test_the_card_for_people_says_the_same(pubmedqa, made):
    text = (made("pubmedqa").folder / "data_card.md").read_text(encoding="utf-8")
    for line in (
        "| trainval | 7 |",
        "| test | 4 |",
        "| all | 11 |",
        "| yes | 4 | 3 |",
        "| maybe | 1 | 0 |",
        "| no rationale | 1 |",
        "As stated by the source: MIT",
        "Jin, Dhingra",
    ):
        assert line in text


def test_a_card_holds_no_case_text_and_no_folder_of_the_user(pubmedqa, made, tmp_path):
    folder = made("pubmedqa").folder
    assert sorted(path.name for path in folder.iterdir()) == ["data_card.json", "data_card.md", "rows.jsonl"]
    for name in ("data_card.json", "data_card.md"):
        text = (folder / name).read_text(encoding="utf-8")
        assert "Zebedee" not in text
        assert str(tmp_path) not in text


def test_the_same_files_give_the_same_bytes(pubmedqa, made, tmp_path):
    first = made("pubmedqa", "a/out").folder
    second = made("pubmedqa", "b/out").folder
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


@pytest.mark.parametrize("limit", [1, 3, 4, 100])
def test_limit_takes_the_first_rows_of_each_split(pubmedqa, made, limit):
    everything = made("pubmedqa").rows
    data = made("pubmedqa", "limited", limit=limit)
    wanted = {split: [r for r in everything if r["split"] == split][:limit] for split in ("trainval", "test")}
    assert {split: [r for r in data.rows if r["split"] == split] for split in wanted} == wanted
    assert data.card["rows"] == {split: len(rows) for split, rows in wanted.items()}
    assert data.card["settings"] == {"limit": limit, "seed": 0}
    assert f"--limit {limit} --seed 0" in data.card["command"]


def test_a_broken_source_leaves_nothing_and_keeps_an_older_folder(pubmedqa, made, put, tmp_path, source):
    old = made("pubmedqa").folder
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    put("ori_pqal.json", pubmedqa["ori_pqal.json"].read_text()[:-30])
    with pytest.raises(UserError, match="is not JSON"):
        prepare("pubmedqa", str(source), old, overwrite=True)
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    with pytest.raises(UserError, match="is not JSON"):
        prepare("pubmedqa", str(source), tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original", "out"]


def test_an_interrupt_leaves_nothing(pubmedqa, source, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_card", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("pubmedqa", str(source), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original"]


def test_what_a_killed_process_left_behind_is_removed(pubmedqa, made, tmp_path):
    for name in (".out.partial", ".out.partial/.unpacked"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text("half")
    assert len(made("pubmedqa").rows) == 11
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original", "out"]


def test_progress_is_reported(pubmedqa, source, tmp_path, monkeypatch):
    monkeypatch.setattr("r2d_jax.data.named.rows_file._REPORT_EVERY_ROWS", 5)
    lines = []
    prepare("pubmedqa", str(source), tmp_path / "out", report=lines.append)
    assert lines == ["5 rows written", "10 rows written"]


def test_a_folder_in_use_is_refused_and_replaced_only_when_asked(pubmedqa, made, source, tmp_path):
    made("pubmedqa")
    with pytest.raises(UserError, match=r"holds a prepared data set.*--overwrite"):
        prepare("pubmedqa", str(source), tmp_path / "out")
    assert made("pubmedqa", overwrite=True, limit=1).card["rows"] == {"trainval": 1, "test": 1}
    other = tmp_path / "mine"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="no prepared data set"):
        prepare("pubmedqa", str(source), other, overwrite=True)
    with pytest.raises(UserError, match="is a file"):
        prepare("pubmedqa", str(source), other / "notes.txt", overwrite=True)
    assert (other / "notes.txt").read_text() == "mine"


def test_a_split_without_rows_is_refused_with_what_was_left_out(put, refused):
    put("ori_pqal.json", {"t0": entry("yes"), "v0": entry("no") | {"LONG_ANSWER": None}})
    put("test_ground_truth.json", {"t0": "yes"})
    refused("pubmedqa", "no row for the trainval split", "left out: 1 no rationale")


def test_a_missing_source_and_a_missing_file_say_where_to_get_it(refused, source):
    refused("pubmedqa", "no such file or folder", source=source / "none")
    refused("pubmedqa", "no file ori_pqal.json", "github.com/pubmedqa/pubmedqa")


def test_two_files_of_one_name_are_refused(pubmedqa, put, refused):
    for folder in ("a", "b"):
        put(f"{folder}/ori_pqaa.json", {})
    refused("pubmedqa_artificial", "holds several of ori_pqaa.json")


def test_one_file_may_be_the_source(put, made):
    path = put("mine.json", {str(i): entry("yes" if i % 2 else "no") for i in range(20)})
    assert made("pubmedqa_artificial", source=path).card["rows"]["train"] == 18


@pytest.mark.parametrize("name", ["mine.json.gz", "MINE.JSON.GZ", "mine.gz"])
def test_a_packed_file_may_be_the_source(put, made, refused, name):
    """It was read as plain text, and byte 1 was not utf-8."""
    entries = {str(i): entry("yes" if i % 2 else "no") for i in range(20)}
    path = put(name, gzip.compress(json.dumps(entries).encode()))
    assert made("pubmedqa_artificial", source=path).card["rows"]["train"] == 18
    content = path.read_bytes()
    for damaged in (content[:-20], b"\x1f\x8b" + b"\xff" * 40, content[:30] + b"\xff" * 30 + content[60:]):
        put(name, damaged)
        refused("pubmedqa_artificial", "cannot be read", "Download it again", source=path, overwrite=True)


def test_unknown_names_are_told_the_nearest(refused):
    refused("pubmed_qa", "Did you mean pubmedqa?", "ddxplus")


def test_b019_replacement_characters_are_counted(put, made):
    put("ori_pqal.json", {"t0": entry("yes", "a\ufffdb"), "v0": entry("no")})
    put("test_ground_truth.json", {"t0": "yes"})
    noted = {"replacement characters (U+FFFD), damaged before they came here": 3}
    assert made("pubmedqa").card["noted"] == noted


# Hub


@pytest.fixture
def hub(source, monkeypatch):
    """Stands in for the Hub: the files put so far are the snapshot of commit abc123."""
    asked = []

    def snapshot_download(repo, **options):
        asked.append((repo, options))
        snapshot = source.with_name("abc123")
        os.replace(source, snapshot)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def test_hub_files_are_downloaded_by_name_and_the_commit_is_in_the_card(pubmedqa, hub, made):
    data = made("pubmedqa", source="hf:owner/name@main")
    ((repo, options),) = hub
    assert (repo, options["repo_type"], options["revision"]) == ("owner/name", "dataset", "main")
    assert set(options["allow_patterns"]) == {
        "ori_pqal.json",
        "*/ori_pqal.json",
        "test_ground_truth.json",
        "*/test_ground_truth.json",
    }
    assert data.card["source"] == "hf:owner/name@abc123"
    assert "--source hf:owner/name@abc123" in data.card["command"]
    assert "Source: hf:owner/name@abc123." in (data.folder / "data_card.md").read_text()


@pytest.mark.parametrize("address", ["hf:", "hf:name", "hf:a/b/c", "hf:a/b@", "hf:a/b:train"])
def test_a_wrong_hub_address_is_refused_without_network(refused, hub, address):
    refused("medreason", "is not a Hub address", source=address)
    assert not hub


def test_a_failed_download_is_one_line(refused, monkeypatch):
    def fails(*_, **__):
        raise FileNotFoundError("many\nlines")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    refused("medreason", "cannot be downloaded (FileNotFoundError)", source="hf:a/b")


# The command


def test_the_command_prepares_and_says_what_it_did(pubmedqa, source, tmp_path, r2d):
    ended = r2d("data", "prepare", "pubmedqa", "--source", source, "--out", tmp_path / "out", "--limit", 5)
    ended.done(r"trainval 5, test 4 rows in .*rows\.jsonl", r"data_card\.md")
    assert "Zebedee" not in ended.out
    again = r2d("data", "prepare", "pubmedqa", "--source", source, "--out", tmp_path / "out")
    again.refused("holds a prepared data set", "--overwrite")


def test_the_command_refuses_in_one_line(source, tmp_path, r2d):
    r2d("data", "prepare", "pubmedqa", "--source", source, "--out", tmp_path / "out").refused(
        "no file ori_pqal"
    )
    r2d("data", "prepare", "nothing", "--source", source, "--out", tmp_path / "out").refused("is not known")
    r2d("data", "prepare", "ecqa", "--source", source, "--out", tmp_path / "out", "--limit", 0).refused(
        "limit"
    )


# Documents


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_has_a_config_that_fits_and_a_place_in_the_documents(name):
    dataset = DATASETS[name]
    data = load_config(ROOT / "configs" / f"{name}.yaml").data
    assert set(data.split_values.values()) >= set(dataset.splits)
    assert set(data.columns.rationales.values()) <= set(dataset.rationales)
    assert data.columns.id == "id"
    assert data.columns.split == "split"
    text = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert f"r2d data prepare {name} " in text
    assert f"configs/{name}.yaml" in text
    for wanted in dataset.files:
        assert f"`{wanted.names[0]}`" in text, wanted.names[0]


def test_the_card_is_plain_json_for_other_programs(pubmedqa, made):
    data = made("pubmedqa")
    text = (data.folder / "data_card.json").read_text(encoding="utf-8")
    assert json.dumps(data.card, indent=2, ensure_ascii=False) + "\n" == text
    assert {"licence", "citation", "caveats", "conversions", "download"} <= data.card.keys()


def test_an_original_that_cannot_be_read_is_not_said_to_be_unwritable(pubmedqa, tmp_path, monkeypatch):
    """As `root` reads everything, the system is asked for its error."""
    original = str(pubmedqa["ori_pqal.json"])

    def refused(_):
        raise PermissionError(errno.EACCES, "Permission denied", original)

    monkeypatch.setattr(module, "hashes", refused)
    with pytest.raises(UserError) as error:
        prepare("pubmedqa", str(pubmedqa["ori_pqal.json"].parent), tmp_path / "new", seed=0)
    assert str(error.value).startswith(f"{original}: cannot be read (Permission denied)")
    assert not (tmp_path / "new").exists()
