"""Splits that are drawn, rows in two splits, rows without a rationale, and labels that are renamed."""

import collections
import json
import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from source_cases import ALL, row, write

from r2d_jax.config import ColumnsConfig, Config, DataConfig
from r2d_jax.config_file import load_config
from r2d_jax.data.check.verdict import check_before_run
from r2d_jax.data.draws import draw_by_digest, key_digest
from r2d_jax.data.duplicates import drop_duplicates
from r2d_jax.data.packed_columns import Digests
from r2d_jax.data.splits import content_hash, describe, load_splits, splits_of_run
from r2d_jax.errors import UserError

NAMES = ("train", "validation", "test")
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
SECRET = "Zebedee Quux, stabbing pain"


@pytest.fixture
def file(tmp_path):
    def write(*rows, columns=None, **settings):
        path = tmp_path / "rows.jsonl"
        full = [
            {"question": f"q{index}", "label": "yes", "rationale": "r"} | row
            for index, row in enumerate(rows)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in full))
        return DataConfig(path=str(path), columns=ColumnsConfig(**(columns or {})), **settings)

    return write


def load(config, seed=0):
    return load_splits(config, seed, ["default"])


def refusal(config, *parts):
    with pytest.raises(UserError) as caught:
        load(config)
    text = str(caught.value)
    for part in parts:
        assert part in text, (part, text)
    assert "\n" not in text
    assert "Zebedee" not in text


def questions(splits):
    return {name: [row.question for row in getattr(splits, name)] for name in NAMES}


@pytest.mark.parametrize(
    ("values", "columns"),
    [
        (["Al Gee", "Bob Ray", "Zebedee Quux"], {}),
        (["Zebedee has pain", "train", "train", "train"], {}),
        (["Zebedee", "Zebedee", "train"], {"question": "{other}: {part}"}),
        (["Zebedee", "Zebedee", "train"], {"context": "part"}),
        (["Zebedee", "Zebedee", "train"], {"rationales": {"default": "part"}}),
    ],
)
def test_values_of_a_wrong_split_column_are_not_told(file, values, columns):
    """A column of few different texts was printed as the names of splits."""
    rows = [{"part": value, "other": "o"} for value in values]
    unknown = str(len(set(values) - {"train"}))
    told = f"values without a split: {unknown}, not shown"
    refusal(file(*rows, columns={"split": "part", **columns}), told, "Check data.columns.split")


def test_values_of_a_split_column_are_told(file):
    rows = [{"part": value} for value in ["train", "train", "dev set"]]
    refusal(file(*rows, columns={"split": "part"}), "values without a split: 'dev set'. Map them")


# --- draws --------------------------------------------------------------------------------------------


def draw_splits(labels, keys, shares, seed):
    """As a run draws them: names of splits."""
    digests = Digests()
    for key in keys:
        digests.append(key_digest(seed, key))
    drawn = draw_by_digest(np.unique(labels, return_inverse=True)[1], digests.array(), list(shares.values()))
    return [list(shares)[number] for number in drawn]


SHARES_OF_ALL = st.tuples(st.integers(1, 8), st.integers(0, 8), st.integers(1, 8)).map(
    lambda parts: dict(zip(NAMES, (part / sum(parts) for part in parts), strict=True))
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=60), SHARES_OF_ALL, st.integers(0, 99))
def test_single_rows_are_stratified_to_less_than_one_row(labels, shares, seed):
    keys = [f"case-{index}" for index in range(len(labels))]
    drawn = draw_splits(labels, keys, shares, seed)
    totals = collections.Counter(labels)
    counts = collections.Counter(zip(labels, drawn, strict=True))
    for label, total in totals.items():
        for name, share in shares.items():
            assert abs(counts[label, name] - share * total) < 1 + 1e-9
            assert share > 0 or counts[label, name] == 0
    # The order of the rows does not matter, only seed and key do.
    order = random.Random(seed).sample(range(len(labels)), len(labels))
    again = draw_splits([labels[i] for i in order], [keys[i] for i in order], shares, seed)
    assert again == [drawn[i] for i in order]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), min_size=1, max_size=60),
    st.integers(0, 9),
)
def test_rows_of_one_group_are_never_parted(rows, seed):
    labels, groups = [label for label, _ in rows], [f"p{group}" for _, group in rows]
    drawn = draw_splits(labels, groups, SHARES, seed)
    frame = pd.DataFrame({"group": groups, "split": drawn})
    assert (frame.groupby("group")["split"].nunique() == 1).all()


def test_groups_keep_shares_and_stratification():
    rng = random.Random(3)
    labels, groups = [], []
    for patient in range(800):
        usual = rng.choices(["a", "b", "rare"], [70, 25, 5])[0]
        for _ in range(rng.choice([1, 1, 2, 3, 8])):
            labels.append(usual if rng.random() < 0.8 else "a")
            groups.append(f"p{patient}")
    drawn = draw_splits(labels, groups, SHARES, 0)
    table = pd.crosstab(pd.Series(labels), pd.Series(drawn), normalize="index")
    for name, share in SHARES.items():
        assert abs(table[name] - share).max() < 0.02, table


def test_draws_follow_the_seed_and_are_fair():
    keys = [str(index) for index in range(2000)]
    draws = [draw_splits(["x"] * 2000, keys, SHARES, seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    # Another seed takes other rows: of 200 test rows about 20 by chance.
    both = sum(a == b == "test" for a, b in zip(draws[0], draws[2], strict=True))
    assert 5 < both < 40


def test_a_draw_never_changes_between_versions():
    """A change would move rows of finished runs from test to train.

    Worked by hand: the hashes of seed 7 give the order 8a 0a 2b 5a 1a 7b 6b 3b 4a 9b. Of each label, train is
    to get 3 and test 2; ties go to the split that lacks more of all 6 and 4 rows, then to train. So 8, 0, 2
    go to train, 5 to test, 1 to train, 7 to test, 6 to train, 3 and 4 to test, 9 to train.
    """
    drawn = draw_splits(
        list("aabbaabbab"), [f"case-{index}" for index in range(10)], {"train": 0.6, "test": 0.4}, 7
    )
    assert [index for index, name in enumerate(drawn) if name == "test"] == [3, 4, 5, 7]


def test_one_source_is_drawn_by_shares(file):
    rows = [{"id": f"c{index}", "label": "rare" if index % 10 == 0 else "usual"} for index in range(100)]
    config = file(*rows, columns={"id": "id"}, split_shares=SHARES)
    splits = load(config)
    counts = {name: collections.Counter(row.label for row in getattr(splits, name)) for name in NAMES}
    assert counts == {
        "train": {"usual": 72, "rare": 8},
        "validation": {"usual": 9, "rare": 1},
        "test": {"usual": 9, "rare": 1},
    }
    order = [row.row_id for row in splits.train]
    assert order == sorted(order, key=lambda name: int(name[1:]))
    # The same rows in another order, and shares in another order.
    config = file(*reversed([row | {"question": f"q{index}"} for index, row in enumerate(rows)]), columns={"id": "id"},
                  split_shares=dict(reversed(SHARES.items())))  # fmt: skip
    again = load(config)
    assert {row.row_id for row in again.test} == {row.row_id for row in splits.test}
    assert {row.row_id for row in load(config, 1).test} != {row.row_id for row in splits.test}


def test_validation_without_a_share_is_taken_from_train(file):
    config = file(*[{}] * 40, split_shares={"train": 0.75, "test": 0.25}, validation_fraction=0.2)
    assert [len(getattr(load(config), name)) for name in NAMES] == [24, 6, 10]


@pytest.mark.parametrize("shares", [None, {"train": 0.7, "test": 0.3}, SHARES])
def test_groups_stay_whole_in_a_run(file, shares):
    rows = [{"pid": f"p{index % 30}", "part": "test" if index % 30 < 6 else "train"} for index in range(120)]
    columns = {"group": "pid"} | ({"split": "part"} if shares is None else {})
    splits = load(file(*rows, columns=columns, split_shares=shares, validation_fraction=0.2))
    group_of = {f"q{index}": row["pid"] for index, row in enumerate(rows)}
    groups = {name: {group_of[text] for text in texts} for name, texts in questions(splits).items()}
    assert all(groups.values())
    assert sum(map(len, groups.values())) == 30
    if shares is None or "validation" not in shares:
        # A fifth of the rows that train had, and no other share of them.
        assert len(splits.validation) / (len(splits.train) + len(splits.validation)) == pytest.approx(
            0.2, abs=0.05
        )


def test_groups_that_given_splits_part_are_counted_and_refused(file):
    rows = [{"pid": SECRET if index < 2 else f"p{index}", "part": NAMES[index % 3]} for index in range(9)]
    config = file(*rows, columns={"group": "pid", "split": "part"})
    refusal(config, "data.columns.group", "1 of 8 values of 'pid' appear in more than one split")
    refusal(
        file({}, {"pid": "a"}, columns={"group": "pid"}, split_shares=SHARES),
        "line 1, field 'pid': is missing",
    )


@pytest.mark.parametrize(
    "spellings", [("P 01", "P 01 ", "\ufeffP 01", "\tP\u00a0 01\n"), (12, "12", " 12", "12\u200b")]
)
def test_blanks_too_many_do_not_part_a_group(file, spellings):
    """One patient stood in two splits, drawn or given, and figures were too good."""
    rows = [{"pid": spellings[index % 4], "label": f"l{index}"} for index in range(12)]
    rows += [{"pid": f"p{index}"} for index in range(40)]
    splits = load(file(*rows, columns={"group": "pid"}, split_shares=SHARES))
    of_one = {f"q{index}" for index in range(12)}
    assert [bool(of_one & set(texts)) for texts in questions(splits).values()].count(True) == 1
    given = [row | {"part": NAMES[index % 3]} for index, row in enumerate(rows)]
    refusal(
        file(*given, columns={"group": "pid", "split": "part"}), "1 of 41 values of 'pid' appear in more than"
    )
    # Case is kept.
    rows = [{"pid": pid, "part": part} for part in NAMES for pid in ("p", "P")]
    refusal(file(*rows, columns={"group": "pid", "split": "part"}), "2 of 2 values of 'pid'")


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        (12.0, "is float, not a whole number"),
        (1e30, "is float, not a whole number"),
        ("\u200b", "is empty"),
        (" ", "is empty"),
        (None, "is null"),
    ],
)
def test_what_names_no_group_is_refused(file, cell, what):
    """12 and 12.0 were two patients. As Parquet has it, such a number was an error always."""
    rows = [{"pid": 12}, {"pid": cell}, *({"pid": number} for number in range(20, 60))]
    refusal(file(*rows, columns={"group": "pid"}, split_shares=SHARES), f"line 2, field 'pid': {what}")


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"split_shares": {"train": 0.8, "test": 0.1}}, "sum to 0.9, not 1"),
        ({"split_shares": {"train": 1.0}}, "leave train or test without rows"),
        ({"split_shares": SHARES, "columns": {"split": "part"}}, "beside data.columns.split"),
    ],
)
def test_shares_that_cannot_be_are_refused_before_reading(file, settings, part):
    refusal(file({"label": 5}, **settings), "data.split_shares", part)


def test_shares_beside_files_by_split_or_the_generator():
    refusal(DataConfig(train_path="none.jsonl", split_shares=SHARES), "beside data.train_path")
    refusal(DataConfig(source="triage", split_shares=SHARES), "data.split_shares", "triage")


def test_one_file_without_splits_names_the_ways_to_split(file):
    refusal(file({}), "data.columns.split", "data.split_shares", "data.train_path")


@pytest.mark.parametrize("suffix", ALL)
def test_every_format_gives_the_same_splits(tmp_path, suffix):
    rows = [row(f"q {index} é\n", "xy"[index % 2], "because  ", id=f"c{index}") for index in range(60)]
    paths = [write(tmp_path / f"rows{end}", rows, end) for end in (".jsonl", suffix)]
    for number in range(3):
        write(tmp_path / f"part-{number}{suffix}", rows[number * 20 : number * 20 + 20], suffix)
    paths.append(tmp_path / f"part-*{suffix}")
    columns, counts = ColumnsConfig(id="id"), []
    configs = [DataConfig(path=str(path), columns=columns, split_shares=SHARES) for path in paths]
    splits = [load_splits(config, 5, ["default"], counts.append) for config in configs]
    assert splits[0] == splits[1] == splits[2]
    assert len({content_hash(one) for one in splits}) == 1
    assert counts == [60, 60, 60]


# --- rows in two splits -------------------------------------------------------------------------------

COPIES = [
    {"part": "train", "question": "a", "label": "x"},
    {"part": "train", "question": "a ", "label": "x"},
    {"part": "train", "question": "A", "label": "x"},
    {"part": "train", "question": "b", "label": "x"},
    {"part": "train", "question": "b", "label": "y"},
    {"part": "train", "question": "c", "label": "x"},
    {"part": "validation", "question": "b", "label": "x"},
    {"part": "validation", "question": "d", "label": "x"},
    {"part": "validation", "question": "e", "label": "x"},
    {"part": "test", "question": "a", "label": "y"},
    {"part": "test", "question": "a", "label": "z"},
    {"part": "test", "question": "d", "label": "x"},
]


def overlaps(config, splits):
    """What the data check of a run tells of rows in two splits."""
    check, _ = check_before_run(config, splits, None, ["default"])
    return {(one.code, one.split): one.count for one in check.findings if one.code.endswith("overlap")}


def test_rows_in_two_splits_are_kept_and_warned_about(file):
    config = file(*COPIES, columns={"split": "part"}, check="warn")
    splits = load(config)
    assert [len(getattr(splits, name)) for name in NAMES] == [6, 3, 3]
    assert overlaps(config, splits) == {
        ("split-overlap", "validation"): 1,
        ("split-overlap", "test"): 2,
        ("validation-overlap", "test"): 1,
    }


def test_rows_in_two_splits_are_dropped_with_a_report(file):
    """Character by character: "a " and "A" are other questions than "a"."""
    config = file(*COPIES, columns={"split": "part"}, duplicates="drop", check="warn")
    splits = load(config)
    assert questions(splits) == {"train": ["a ", "A", "c"], "validation": ["b", "e"], "test": ["a", "a", "d"]}
    same = "have the same question and context as a row of"
    assert splits.notes == (
        f"dropped 2 rows of train {same} validation (1 with the same label, 1 with another)",
        f"dropped 1 rows of train {same} test (0 with the same label, 1 with another)",
        f"dropped 1 rows of validation {same} test (1 with the same label, 0 with another)",
    )
    assert all(note in describe(splits) for note in splits.notes)
    # "A" and "a " are other questions than "a" to a run, and near enough to be told of.
    assert overlaps(config, splits) == {("split-overlap", "test"): 2}


def test_another_input_with_another_label_is_no_copy():
    """The train row is input 0 with label 1; test has input 0 with label 0, and input 1 with label 0."""
    rows = {"train": np.array([0]), "validation": np.array([], int), "test": np.array([1, 2])}
    left, (told,) = drop_duplicates(rows, inputs=np.array([0, 0, 1]), labels=np.array([1, 0, 0]))
    assert [len(left[name]) for name in NAMES] == [0, 0, 2]
    assert told.endswith("(0 with the same label, 1 with another)")


def test_dropping_all_rows_of_a_split_says_why(file):
    rows = [
        {"part": "train", "question": "a"},
        {"part": "validation", "question": "b"},
        {"part": "test", "question": "a"},
    ]
    refusal(
        file(*rows, columns={"split": "part"}, duplicates="drop"),
        "the train split has no rows",
        "dropped 1 rows of train",
    )


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from("abcdefgh"), st.sampled_from("xy")), max_size=30
    )
)
def test_after_dropping_no_text_stands_in_two_splits(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = [*rows, *((name, f"own {name}", "x") for name in NAMES)]
    path.write_text(
        "".join(
            json.dumps({"part": p, "question": q, "context": "", "label": y, "rationale": "r"}) + "\n"
            for p, q, y in rows
        )
    )
    columns = ColumnsConfig(split="part", context="context")
    found = questions(load(DataConfig(path=str(path), columns=columns, duplicates="drop")))
    texts = {name: {q for part, q, _ in rows if part == name} for name in NAMES}
    assert set(found["test"]) == texts["test"]
    assert set(found["validation"]) == texts["validation"] - texts["test"]
    assert set(found["train"]) == texts["train"] - texts["validation"] - texts["test"]
    assert len(found["test"]) == sum(part == "test" for part, _, _ in rows)


# --- rows without a rationale -------------------------------------------------------------------------

MISSING = [{"rationale": ""}, {"rationale": None}, {"rationale": " \n"}, {"rationale": "None"}, {}]


def test_b013_b021_rows_without_a_rationale_stop_a_run_by_default(file):
    refusal(file(*MISSING, split_shares=SHARES), "line 1, field 'rationale': is empty")


def test_b013_b021_rows_without_a_rationale_are_left_out_and_counted(file):
    """However many stand first; a rationale that says "None" is a text."""
    rows = [{"rationale": "", "part": "train"}] * 3000 + [
        row | {"part": part} for part in NAMES for row in MISSING
    ]
    splits = load(file(*rows, columns={"split": "part"}, missing_rationales="skip"))
    assert [[row.rationales["default"] for row in getattr(splits, name)] for name in NAMES] == [
        ["None", "r"]
    ] * 3
    assert splits.notes == (
        "left out 3009 rows without a rationale ('train' 3003, 'validation' 3, 'test' 3)",
    )
    assert splits.notes[0] in describe(splits)


def test_rows_without_a_rationale_are_kept_and_counted(file):
    rows = [row | {"part": part} for part in NAMES for row in MISSING]
    splits = load(file(*rows, columns={"split": "part"}, missing_rationales="keep"))
    kept = [row.rationales["default"] for row in splits.test]
    assert len(kept) == len(MISSING)
    # Blank is "", so that nothing later takes it for a text.
    assert [text for text in kept if text] == ["None", "r"]
    assert splits.notes == (
        "9 rows without a rationale teach their label alone ('train' 3, 'validation' 3, 'test' 3)",
    )


def test_b013_other_faults_of_a_rationale_are_not_skipped(file):
    refusal(file({}, {"rationale": 5}, split_shares=SHARES, missing_rationales="skip"), "line 2", "is int")
    columns = {"rationales": {"default": "rationales"}}
    refusal(
        file({}, {}, columns=columns, split_shares=SHARES, missing_rationales="skip"),
        "no column 'rationales'",
        "Did you mean 'rationale'?",
    )
    config = file(*[{"rationale": ""}] * 4, split_shares=SHARES, missing_rationales="skip")
    refusal(config, "the train split has no rows", "left out 4 rows without a rationale")


# --- labels -------------------------------------------------------------------------------------------


def test_b026_labels_are_renamed_only_where_the_config_says_so(file):
    rows = [
        {"label": label, "part": part}
        for part in NAMES
        for label in ("Benign", "benign ", "BENIGN", "malign")
    ]
    mapping = {"benign ": "Benign", "BENIGN": "Benign"}
    splits = load(file(*rows, columns={"split": "part"}, label_map=mapping))
    assert [row.label for row in splits.train] == ["Benign", "Benign", "Benign", "malign"]
    assert splits.notes == (
        "label 'benign ' of 3 rows became 'Benign'",
        "label 'BENIGN' of 3 rows became 'Benign'",
    )
    plain = load(file(*rows, columns={"split": "part"}))
    assert all(repr(label) in describe(plain) for label in ("Benign", "benign ", "BENIGN"))
    assert content_hash(plain) != content_hash(splits)
    refusal(
        file(*rows, columns={"split": "part"}, label_map={"benign": "Benign"}),
        "data.label_map: no row has the label 'benign'",
    )


def test_b026_a_label_cannot_be_mapped_to_nothing(file):
    refusal(file({}, split_shares=SHARES, label_map={"yes": "\u200b"}), "data.label_map", "'yes' to nothing")


def test_b026_labels_are_not_renamed_twice(file):
    rows = [{"label": label, "part": part} for part in NAMES for label in "ab"]
    splits = load(file(*rows, columns={"split": "part"}, label_map={"a": "b", "b": "a"}))
    assert [row.label for row in splits.train] == ["b", "a"]


def test_maps_of_names_are_replaced_as_a_whole_by_an_extending_config(tmp_path):
    data = {"path": "x", "split_shares": SHARES, "label_map": {"a": "A"}}
    YAML().dump({"data": data}, tmp_path / "base.yaml")
    mine = {"split_shares": {"train": 0.9, "test": 0.1}, "label_map": {"b ": "B"}}
    YAML().dump({"extends": "base.yaml", "data": mine}, tmp_path / "mine.yaml")
    found = load_config(tmp_path / "mine.yaml").data
    assert (found.split_shares, found.label_map) == (mine["split_shares"], mine["label_map"])


def test_a_run_on_labels_alone_takes_rows_without_a_rationale_where_none_is_named(file):
    """Else its rows are those of the other methods."""
    given = [{"split": name} for name in ("train", "train", "validation", "test")]
    given[1]["rationale"] = ""
    config = Config(method="sft", data=file(*given, columns={"split": "split"}))
    with pytest.raises(UserError, match=r"line 2, field 'rationale': is empty.*missing_rationales=skip"):
        splits_of_run(config)
    config = Config(method="sft", data=file(*given, columns={"split": "split", "rationales": {}}))
    assert len(splits_of_run(config).train) == 2
