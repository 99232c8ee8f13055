"""Subgroups: the same groups from every reader, nowhere in the model's input, and figures of each group."""

import dataclasses
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from source_cases import ALL, SECRET, refusal, row, write

from r2d_jax.config import ColumnsConfig, DataConfig, EvaluationConfig, TriageConfig, TriageScoringConfig
from r2d_jax.config_file import load_config
from r2d_jax.data import row_store
from r2d_jax.data.features import question_text
from r2d_jax.data.schema import Example
from r2d_jax.data.sources import read_examples
from r2d_jax.data.splits import NAMES, content_hash, describe, load_splits
from r2d_jax.data.subgroups import MAX_GROUPS, MISSING, band_of, in_order
from r2d_jax.data.tfds_write import columns_of, write_tfds
from r2d_jax.data.triage import generate
from r2d_jax.errors import UserError
from r2d_jax.evaluation.intervals import mean_of
from r2d_jax.evaluation.labelled_rows import labelled_rows
from r2d_jax.evaluation.predict import Prediction
from r2d_jax.evaluation.scoring import score
from r2d_jax.evaluation.subgroups import HIGHER_IS_BETTER, subgroup_figures

COLUMNS = ColumnsConfig(
    subgroups={"sex": "sex", "age": "years", "site": "site"}, subgroup_edges={"age": (18.0, 65.0)}
)
CELLS = [
    {"sex": "F", "years": "17.5", "site": "North"},
    {"sex": " M ", "years": "18", "site": "North"},
    {"sex": "", "years": "64", "site": "South  wing"},
    {"sex": "F", "years": "", "site": "North"},
    {"sex": "m", "years": "65", "site": ""},
]
GROUPS = [
    {"sex": "F", "age": "below 18", "site": "North"},
    {"sex": "M", "age": "18 to below 65", "site": "North"},
    {"sex": MISSING, "age": "18 to below 65", "site": "South wing"},
    {"sex": "F", "age": MISSING, "site": "North"},
    {"sex": "m", "age": "65 and above", "site": MISSING},
]


def rows():
    return [row(f"q {number}", **cells) for number, cells in enumerate(CELLS)]


def read(path, columns=COLUMNS, **options):
    return read_examples(path, columns, rationale_sources=["default"], **options)


@pytest.mark.parametrize("suffix", ALL)
def test_every_format_gives_the_same_groups(tmp_path, suffix):
    found = read(write(tmp_path / f"rows{suffix}", rows()))
    assert [one.subgroups for one in found] == GROUPS


def test_numbers_truth_values_and_nulls_of_json(tmp_path):
    columns = ColumnsConfig(
        subgroups={"age": "years", "smokes": "smokes", "site": "site"}, subgroup_edges={"age": (18.0, 65.0)}
    )
    path = tmp_path / "rows.jsonl"
    cells = [
        '"years": 17.99, "smokes": true, "site": 3',
        '"years": null, "smokes": null',
        '"years": 1e2, "site": NaN',
    ]
    path.write_text("".join(f"{json.dumps(row())[:-1]}, {text}}}\n" for text in cells))
    assert [tuple(one.subgroups.values()) for one in read(path, columns)] == [
        ("below 18", "true", "3"),
        (MISSING, MISSING, MISSING),
        ("65 and above", MISSING, MISSING),
    ]


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.float16()])
def test_fractions_and_truth_values_of_tables(tmp_path, kind):
    """pandas makes fractions of whole numbers as soon as one is missing."""
    years = pa.array(np.array([17.5, 70, np.nan], np.float16)).cast(kind)
    table = pa.table({
        "question": ["a", "b", "c"], "label": ["x"] * 3, "rationale": ["r"] * 3, "sex": pa.array([0, 1, None]),
        "years": years, "site": pa.array([True, None, False]),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "rows.parquet")
    assert [tuple(one.subgroups.values()) for one in read(tmp_path / "rows.parquet")] == [
        ("0", "below 18", "true"),
        ("1", "65 and above", MISSING),
        (MISSING, MISSING, "false"),
    ]
    # As text of a row, such a value is as wrong as ever.
    refusal(tmp_path / "rows.parquet", "field 'years'", "is", columns=ColumnsConfig(question="years"))


def test_tfds_keeps_them(tmp_path):
    every = [one | {"part": name} for name in NAMES for one in rows()]
    path = write(tmp_path / "rows.jsonl", every)
    config = DataConfig(path=str(path), columns=dataclasses.replace(COLUMNS, split="part"))
    splits = load_splits(config, 0, ["default"])
    folder = write_tfds(splits, tmp_path / "out")
    again = load_splits(
        DataConfig(path=f"tfds:{folder}", columns=ColumnsConfig(**columns_of(splits))), 0, ["default"]
    )
    assert [one.subgroups for one in again.test] == [one.subgroups for one in splits.test] == GROUPS
    assert content_hash(again) == content_hash(splits)


def test_class_labels_and_fractions_of_the_hub(tmp_path, monkeypatch):
    import datasets

    features = datasets.Features({
        "question": datasets.Value("string"), "label": datasets.Value("string"),
        "rationale": datasets.Value("string"), "sex": datasets.ClassLabel(names=["F", "M"]),
        "years": datasets.Value("float32"), "site": datasets.Value("bool"),
    })  # fmt: skip
    cells = {"question": ["a", "b"], "label": ["x", "y"], "rationale": ["r", "r"]}
    cells |= {"sex": [1, -1], "years": [18.0, None], "site": [False, None]}
    table = datasets.DatasetDict(train=datasets.Dataset.from_dict(cells, features=features))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    found = read("hf:some/rows::train")
    assert [tuple(one.subgroups.values()) for one in found] == [
        ("M", "18 to below 65", "false"),
        (MISSING, MISSING, MISSING),
    ]


def test_no_part_of_the_input_the_hash_or_what_is_printed(tmp_path):
    every = [one | {"part": name, "sex": f"{SECRET[:7]} {one['sex']}"} for name in NAMES for one in rows()]
    config = DataConfig(path=str(write(tmp_path / "rows.jsonl", every)), columns=ColumnsConfig(split="part"))
    plain = load_splits(config, 0, ["default"])
    grouped = load_splits(
        dataclasses.replace(config, columns=dataclasses.replace(COLUMNS, split="part")), 0, ["default"]
    )
    # The key of the token cache is made of this hash: the same texts are the same tokens.
    assert content_hash(grouped) == content_hash(plain)
    assert describe(grouped) == describe(plain)
    for one, other in zip(grouped.train, plain.train, strict=True):
        assert question_text(one) == question_text(other)
        assert dataclasses.replace(one, subgroups={}) == other
    assert {one.subgroups["sex"] for one in grouped.test} > {"Zebedee F", "Zebedee M"}
    # To predict, no subgroup is read, so their columns may be missing.
    bare = write(tmp_path / "bare.jsonl", [{"question": "q"}])
    assert read(bare, need_targets=False)[0].subgroups == {}


def test_a_column_that_is_not_there_is_an_error_unless_it_may_be_missing(tmp_path):
    path = write(tmp_path / "rows.csv", rows())
    columns = ColumnsConfig(subgroups={"sex": "Sex", "age": "yeers"})
    refusal(path, "no column 'Sex', nor 'yeers'", "Did you mean 'sex', 'years'?", columns=columns)
    assert [one.subgroups for one in read(path, columns, need_subgroups=False)] == [
        {"sex": MISSING, "age": MISSING}
    ] * 5
    # Asking an LLM tells no figure of subgroups.
    found = labelled_rows(None, path, split="test", columns={"question": None}, with_rationales=True).examples
    assert found[0].subgroups == {}


def test_what_is_no_group_is_refused_without_being_quoted(tmp_path):
    numbers = [row(years=one) for one in ("40", SECRET)]
    age = ColumnsConfig(subgroups={"age": "years"}, subgroup_edges={"age": (18.0,)})
    refusal(write(tmp_path / "a.csv", numbers), "line 3, field 'years'", "is not a number", columns=age)
    for bad in ("nan", "inf", "1_000", "1e999", "4,5", "\u0664\u0660"):
        refusal(write(tmp_path / "b.csv", [row(years=bad)]), "is not a number", columns=age)
    notes = ColumnsConfig(subgroups={"site": "note"})
    long = [row(note=f"{SECRET} " * 4)]
    refusal(write(tmp_path / "c.csv", long), "characters, so it names no subgroup", columns=notes)
    many = [row(note=f"{SECRET[:7]} {number}") for number in range(MAX_GROUPS + 1)]
    refusal(write(tmp_path / "d.csv", many), "more than 40 different values", "subgroup_edges", columns=notes)
    assert len(read(write(tmp_path / "e.csv", [*many[:-1], row(note="")]), notes)) == MAX_GROUPS + 1
    refusal(write(tmp_path / "f.jsonl", [row(note=[SECRET])]), "field 'note'", "is list", columns=notes)


@given(st.lists(st.integers(-50, 150), min_size=1, max_size=5, unique=True).map(sorted), st.floats(-99, 199))
@settings(max_examples=60, deadline=None, database=None)
def test_a_band_holds_what_its_name_says(edges, value):
    name = band_of(value, [float(edge) for edge in edges])
    numbers = [int(one) for one in re.findall(r"-?\d+", name)]
    if name.startswith("below"):
        assert numbers == [edges[0]]
        assert value < edges[0]
    elif name.endswith("and above"):
        assert numbers == [edges[-1]]
        assert value >= edges[-1]
    else:
        low, high = numbers
        assert edges.index(high) == edges.index(low) + 1
        assert low <= value < high


def test_groups_are_listed_in_the_order_of_their_numbers():
    shuffled = [
        MISSING,
        "65 and above",
        "North",
        "below 5",
        "site 10",
        "18 to below 65",
        "5 to below 18",
        "site 2",
    ]
    assert in_order(shuffled) == [
        "site 2", "below 5", "5 to below 18", "site 10", "18 to below 65", "65 and above", "North", MISSING,
    ]  # fmt: skip
    assert band_of(0.25, [0.5]) == "below 0.5"
    assert band_of(2_000_000, [1_234_567.0]) == "1234567 and above"


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ("subgroup_edges={age: [18]}", "subgroup_edges.age: is not a subgroup"),
        ("{subgroups: {agee: y}, subgroup_edges: {age: [18]}}", "Did you mean 'agee'?"),
        ("{subgroups: {age: y}, subgroup_edges: {age: [65, 18]}}", "are not rising numbers"),
        ("{subgroups: {age: y}, subgroup_edges: {age: []}}", "are not rising numbers"),
        ("{subgroups: {age: y}, subgroup_edges: {age: [.nan]}}", "are not rising numbers"),
        ("{subgroups: {age: ''}}", "no column"),
    ],
)
def test_settings_that_do_not_fit(columns, wanted):
    override = f"data.columns.{columns}" if "=" in columns else f"data.columns={columns}"
    with pytest.raises(UserError) as caught:
        load_config(None, ["data.source=triage", override])
    assert wanted in str(caught.value)


def test_generated_notes_have_age_and_sex_as_written():
    splits = generate(TriageConfig(train_rows=80, validation_rows=5, test_rows=5), 0)
    for one in splits.train:
        age, sex = re.search(r"(\d\d)(?:-year-old|,? years?| yo| [MF])", one.question), one.subgroups["sex"]
        years = int((age or re.match(r"(\d\d)", one.question))[1])
        band = "below 40" if years < 40 else "40 to below 65" if years < 65 else "65 and above"
        assert one.subgroups["age"] == band
        words = {"man": r"\b([Mm]an|M)\b", "woman": r"\b([Ww]oman|F)\b"}
        assert re.search(words[sex], one.question)
    assert {one.subgroups["age"] for one in splits.train} == {"below 40", "40 to below 65", "65 and above"}


def test_rows_on_disk_keep_them(tmp_path, monkeypatch):
    path = write(tmp_path / "rows.csv", rows())
    monkeypatch.setattr(row_store, "MEMORY_BYTES", 1)
    assert [one.subgroups for one in read(path)] == GROUPS


# --- figures ------------------------------------------------------------------------------------------

LABELS = ("high", "low", "middle")
TRIAGE = TriageScoringConfig(("high", "middle", "low"), "most_urgent", "linear_under_x3")


def evaluated(seed=0, count=200, **settings):
    rng = np.random.default_rng(seed)
    gold = rng.choice(LABELS, count).tolist()
    groups = rng.choice(["A", "B", "C", MISSING], count, p=[0.5, 0.3, 0.15, 0.05]).tolist()
    right = {"A": 0.9, "B": 0.5, "C": 0.7, MISSING: 0.0}
    predicted = [
        label if rng.random() < right[group] else str(rng.choice(["none", *LABELS]))
        for label, group in zip(gold, groups, strict=True)
    ]
    examples = [
        Example(str(number), "q", label, {}, subgroups={"site": group})
        for number, (label, group) in enumerate(zip(gold, groups, strict=True))
    ]
    predictions = [Prediction(label, True, 0.9) for label in predicted]
    found = score(examples, predictions, LABELS, None, EvaluationConfig(**settings))
    return gold, predicted, np.array(groups), found.metrics


def test_figures_of_each_group_equal_those_of_its_rows_alone():
    gold, predicted, groups, metrics = evaluated(resamples=100, triage=TRIAGE)
    site = metrics["subgroups"]["by"]["site"]
    assert [one["group"] for one in site["groups"]] == ["A", "B", "C", MISSING]
    for one in site["groups"]:
        inside = groups == one["group"]
        g, p = np.array(gold)[inside], np.array(predicted)[inside]
        assert one["rows"] == len(g)
        figures = {name: found["value"] for name, found in one["figures"].items()}
        assert figures["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(g, p))
        present = sorted(set(g))
        assert figures["macro_f1"] == pytest.approx(
            sklearn.metrics.f1_score(g, p, labels=present, average="macro", zero_division=0)
        )
        level = {"high": 0, "middle": 1, "low": 2}
        under = [level.get(guess, -1) > level[label] for label, guess in zip(g, p, strict=True)]
        assert figures["triage.under_fraction"] == pytest.approx(np.mean(under))
        for name, found in one["figures"].items():
            if found["low"] is not None:
                assert found["low"] <= found["high"], name
        accuracy = one["figures"]["accuracy"]
        assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    json.dumps(metrics, allow_nan=False)


def test_an_interval_of_a_group_is_that_of_its_rows():
    """Oracle: the spread of a share over n rows, sqrt(p (1 - p) / n)."""
    _, _, _, metrics = evaluated(count=2000, resamples=1000)
    for one in metrics["subgroups"]["by"]["site"]["groups"][:3]:
        accuracy = one["figures"]["accuracy"]
        wide = 2 * 1.96 * (accuracy["value"] * (1 - accuracy["value"]) / one["rows"]) ** 0.5
        assert accuracy["high"] - accuracy["low"] == pytest.approx(wide, rel=0.15)


def test_the_worst_group_is_named_but_never_a_small_one():
    *_, metrics = evaluated(resamples=0, triage=TRIAGE, subgroup_least_rows=20)
    by_name = {one["group"]: one for one in metrics["subgroups"]["by"]["site"]["groups"]}
    assert by_name[MISSING]["rows"] < 20 <= by_name["C"]["rows"]
    worst = metrics["subgroups"]["by"]["site"]["worst"]
    values = {name: one["figures"]["accuracy"]["value"] for name, one in by_name.items()}
    assert values[MISSING] == min(values.values())
    assert worst["accuracy"] == {
        "group": "B",
        "groups": ["B"],
        "value": values["B"],
        "distance": pytest.approx(values["A"] - values["B"]),
    }
    # The cost is worst where it is highest.
    assert worst["triage.expected_cost"]["group"] == "B"
    assert worst["triage.quadratic_kappa"]["group"] == "B"
    *_, metrics = evaluated(resamples=0, subgroup_least_rows=1)
    assert metrics["subgroups"]["by"]["site"]["worst"]["accuracy"]["group"] == MISSING
    *_, metrics = evaluated(resamples=0, subgroup_least_rows=90)
    assert metrics["subgroups"]["by"]["site"]["worst"]["accuracy"] is None


def test_the_worst_has_the_lowest_score_or_the_most_mistakes():
    examples = [Example(str(n), "q", "a", {}, subgroups={"sex": "FM"[n % 2]}) for n in range(80)]
    # 0 for F and 1 for M, whatever the figure.
    statistics = dict.fromkeys(HIGHER_IS_BETTER, mean_of(np.arange(80.0) % 2))
    # Each group has 40 rows, which are enough.
    found = subgroup_figures(examples, statistics, least_rows=40, resamples=0)
    named = {figure: worst["group"] for figure, worst in found["by"]["sex"]["worst"].items()}
    assert {figure for figure, group in named.items() if group == "F"} == {
        "macro_f1",
        "accuracy",
        "triage.quadratic_kappa",
    }
    assert set(named.values()) == {"F", "M"}


def test_groups_that_are_all_alike_have_no_worst():
    examples = [Example(str(n), "q", "a", {}, subgroups={"sex": "FM"[n % 2]}) for n in range(80)]
    found = subgroup_figures(
        examples, {"accuracy": lambda rows: np.ones(rows.shape[:-1])}, least_rows=30, resamples=10
    )
    assert found["by"]["sex"]["worst"] == {"accuracy": None}
    assert subgroup_figures([Example("1", "q", "a", {})], {}, least_rows=1, resamples=0) is None


def test_all_groups_that_tie_for_the_worst_are_named():
    """Only the first one was. Sums in another order differ in their last digit, which is no difference either."""
    sites = {"A": 0.8, "B": 0.1 + 0.7, "C": 1.0, "D": 0.8}
    examples = [
        Example(f"{n} {site}", "q", "a", {}, subgroups={"site": site}) for site in sites for n in range(30)
    ]
    score_of = np.repeat(list(sites.values()), 30)

    def worst(least_rows, chosen):
        statistics = {"accuracy": lambda rows: score_of[chosen][rows].max(-1)}
        found = subgroup_figures(
            [examples[n] for n in chosen], statistics, least_rows=least_rows, resamples=0
        )
        return found["by"]["site"]["worst"]["accuracy"]

    # D has too few rows.
    found = worst(30, np.arange(110))
    assert (found["group"], found["groups"]) == ("A", ["A", "B"])
    assert found["distance"] == pytest.approx(0.2)
    assert worst(30, np.arange(60)) is None
