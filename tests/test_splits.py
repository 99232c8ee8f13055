"""Splits of a run: the three ways to give rows, validation taken from train, and what is told about them."""

import collections
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2d_jax.config import ColumnsConfig, DataConfig, TriageConfig
from r2d_jax.data.schema import Example, Splits
from r2d_jax.data.split_rows import _stratified
from r2d_jax.data.splits import (
    content_hash,
    describe,
    load_splits,
)
from r2d_jax.errors import UserError

SOURCES = ["default"]


def example(name, label="yes", question=None, context="", rationale="because"):
    return Example(name, question or f"question {name}", label, {"default": rationale}, context)


def splits(train, validation=(), test=()):
    return Splits(tuple(train), tuple(validation), tuple(test))


@pytest.fixture
def one_file(tmp_path):
    def write(*rows, **settings):
        """Rows are (split value, question, label)."""
        path = tmp_path / "rows.jsonl"
        named = [
            {"part": part, "question": question, "label": label, "rationale": "r"}
            for part, question, label in rows
        ]
        path.write_text("\n".join(json.dumps(row) for row in named))
        return DataConfig(path=str(path), columns=ColumnsConfig(split="part"), **settings)

    return write


@pytest.fixture
def files(tmp_path):
    def write(**rows):
        """Rows by split, as (question, label)."""
        paths = {}
        for name, pairs in rows.items():
            paths[f"{name}_path"] = str(tmp_path / f"{name}.csv")
            lines = ["question,label,rationale", *(f"{question},{label},r" for question, label in pairs)]
            (tmp_path / f"{name}.csv").write_text("\n".join(lines))
        return DataConfig(**paths)

    return write


def error(config, sources=SOURCES):
    with pytest.raises(UserError) as caught:
        load_splits(config, 0, sources)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def questions(rows):
    return [row.question for row in rows]


def test_one_file_is_split_by_its_column_in_the_order_of_the_rows(one_file):
    config = one_file(
        ("dev", "a", "yes"), ("0", "b", "no"), ("T", "c", "yes"), ("0", "d", "yes"),
        split_values={"train": "0", "validation": "dev", "test": "T"},
    )  # fmt: skip
    found = load_splits(config, 0, SOURCES)
    assert [questions(rows) for rows in (found.train, found.validation, found.test)] == [
        ["b", "d"],
        ["a"],
        ["c"],
    ]


def test_three_files(files):
    config = files(train=[("a", "x"), ("b", "y")], validation=[("c", "x")], test=[("d", "y")])
    found = load_splits(config, 0, SOURCES)
    assert [questions(rows) for rows in (found.train, found.validation, found.test)] == [
        ["a", "b"],
        ["c"],
        ["d"],
    ]


def test_value_of_the_split_column_without_a_split_is_listed(one_file):
    text = error(one_file(*[("train", "a", "x")] * 2, ("dev", "b", "x"), ("Test", "c", "x")))
    assert "'Test', 'dev'" in text
    assert "data.split_values" in text


def test_a_text_column_named_as_split_column_is_not_printed(one_file):
    secret = "Zebedee Quux came with stabbing pain in the chest at night"
    assert "Zebedee" not in error(one_file(("train", "a", "x"), (secret, "b", "x")))


def test_one_file_without_a_split_column_setting(one_file):
    assert "data.columns.split" in error(DataConfig(path=one_file(("train", "a", "x")).path))


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        ([("test", "a", "x")], "train"),
        ([("train", "a", "x"), ("train", "b", "x"), ("train", "c", "x")], "test"),
        ([("train", "a", "x"), ("train", "b", "y"), ("test", "c", "x")], "validation"),
    ],
)
def test_empty_split_is_named(one_file, rows, name):
    """The last case: two labels of one row each leave nothing to take for validation."""
    assert f"the {name} split has no rows" in error(one_file(*rows))


def test_unknown_rationale_source_of_the_generator():
    config = DataConfig(source="triage", triage=TriageConfig(train_rows=2, validation_rows=1, test_rows=1))
    assert load_splits(config, 0, ["llm"]).train[0].rationales["llm"]
    assert "'mine'" in error(config, ["mine"])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=40),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_validation_taken_from_train_is_stratified(labels, fraction, seed):
    names, codes = np.unique(labels, return_inverse=True)
    taken = _stratified(codes, names.tolist(), fraction, seed)
    assert (taken == _stratified(codes, names.tolist(), fraction, seed)).all()
    for label, count in collections.Counter(labels).items():
        wanted = 0 if fraction == 0 else min(max(round(fraction * count), 1), count - 1)
        assert taken[np.array(labels) == label].sum() == wanted


def test_validation_follows_the_seed(files):
    config = files(train=[(f"q{index}", "xy"[index % 2]) for index in range(60)], test=[("t", "x")])
    seeds = [questions(load_splits(config, seed, SOURCES).validation) for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]
    assert len(seeds[0]) == 6
    # A seed of the data counts, whatever that of the run.
    fixed = dataclasses.replace(config, seed=1)
    assert questions(load_splits(fixed, 0, SOURCES).validation) == seeds[2]


def test_b022_an_edited_label_changes_rows_and_hash(files):
    rows = {"train": [("a", "x"), ("b", "y")], "validation": [("c", "x")], "test": [("d", "y")]}
    before = load_splits(files(**rows), 0, SOURCES)
    again = load_splits(files(**rows), 0, SOURCES)
    after = load_splits(files(**(rows | {"train": [("a", "y"), ("b", "y")]})), 0, SOURCES)
    assert content_hash(before) == content_hash(again) != content_hash(after)
    assert after.train[0].label == "y"
    assert content_hash(after) in describe(after)


@pytest.mark.parametrize(
    "changed",
    [
        example("1", "no"),
        example("1", question="other"),
        example("1", context="c"),
        example("1", rationale="other"),
        example("2"),
        Example("1", "question 1", "yes", {"nurse": "because"}),
    ],
)
def test_b022_the_hash_covers_every_field(changed):
    assert content_hash(splits([example("1")])) != content_hash(splits([changed]))


def test_b022_the_hash_covers_split_and_order():
    one, two = example("1"), example("2")
    hashes = {content_hash(each) for each in (splits([one, two]), splits([two, one]), splits([one], [two]))}
    assert len(hashes) == 3


def test_b026_the_label_table_counts_each_split():
    found = splits(
        [example("1", "a"), example("2", "a"), example("3", "b")], [example("4", "b")], [example("5", "a")]
    )
    table = [line.split() for line in describe(found).splitlines()]
    assert ["'a'", "2", "0", "1"] in table
    assert ["'b'", "1", "1", "0"] in table
    assert ["rows", "3", "1", "1"] in table


def test_a_column_of_case_text_named_as_label_is_not_printed():
    secret = "Zebedee Quux came with stabbing pain in the chest at night "
    text = describe(splits(example(str(index), f"{secret}{index}") for index in range(200)))
    assert "Zebedee" not in text
    assert "and 140 more labels" in text


@pytest.mark.parametrize("rows", [5, 30, 60])
def test_a_column_of_names_named_as_label_is_not_printed(rows):
    """Up to 60 short ones were printed, at the start of every run."""
    text = describe(splits(example(str(index), f"Zebedee Quux {index}") for index in range(rows)))
    assert "Zebedee" not in text
    assert text.count("characters)") == rows
    # Labels that come again are labels, however many there are.
    text = describe(splits(example(str(index), f"level {index % 30}") for index in range(90)))
    assert text.count("'level ") == 30
