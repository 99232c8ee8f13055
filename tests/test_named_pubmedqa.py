"""PubMedQA: labelled rows as published, artificial ones by the authors' split, and a mix in which nothing leaks."""

import collections
import json
import random

import pytest

pytest_plugins = ["named_cases"]

from named_cases import SECRET


def entry(label, question="Does it help?", answer="It does.", contexts=("One.", "Two.")):
    """The fields of ori_pqal.json; ori_pqaa.json lacks YEAR and the predictions."""
    return {
        "QUESTION": question,
        "CONTEXTS": list(contexts),
        "LABELS": ["METHODS", "RESULTS"],
        "MESHES": ["Humans"],
        "YEAR": "2011",
        "reasoning_required_pred": "maybe",
        "reasoning_free_pred": "no",
        "final_decision": label,
        "LONG_ANSWER": answer,
    }


def labelled(test=("yes", "no"), trainval=("yes", "no", "maybe")):
    """Entries t0, t1, ... of the test split and v0, v1, ... of the rest, each with a question of its own."""
    parts = {"t": test, "v": trainval}
    return {
        f"{letter}{index}": entry(label, f"Question {letter}{index}?")
        for letter, labels in parts.items()
        for index, label in enumerate(labels)
    }


@pytest.fixture
def put_labelled(put):
    def write(entries, truth=None):
        put("ori_pqal.json", entries)
        truth = truth or {key: one["final_decision"] for key, one in entries.items() if key.startswith("t")}
        put("test_ground_truth.json", truth)

    return write


def test_the_real_file_gives_the_rows_that_others_made_of_it(shared_data, made):
    """pqal.jsonl was derived by hand before; the two are the same bytes."""
    folder = shared_data / "pubmedqa"
    data = made("pubmedqa", source=folder)
    assert (data.folder / "rows.jsonl").read_bytes() == (folder / "pqal.jsonl").read_bytes()
    # Counted by hand with json, not by the card's code.
    original = json.loads((folder / "ori_pqal.json").read_text())
    truth = json.loads((folder / "test_ground_truth.json").read_text())
    assert len(truth) == 500
    for split, ids in (("test", truth), ("trainval", original.keys() - truth.keys())):
        counts = collections.Counter(original[one]["final_decision"] for one in ids)
        assert {label: by[split] for label, by in data.card["labels"]["counts"].items()} == counts
    assert data.card["rows"] == {"trainval": 500, "test": 500}
    assert data.card["dropped"] == {}
    splits = data.splits("pubmedqa.yaml")
    assert (len(splits.train) + len(splits.validation), len(splits.test)) == (500, 500)
    assert {row.row_id for row in splits.test} == truth.keys()


def test_text_is_as_written_and_contexts_are_joined(put_labelled, made):
    entries = labelled()
    entries["t0"] |= entry("yes", 'Is "p < 0.05" ≥ null?', "None\r\nNA", ["2024-01-02", "", " x\n"])
    put_labelled(entries)
    assert made("pubmedqa").row("t0") == {
        "id": "t0",
        "split": "test",
        "question": 'Is "p < 0.05" ≥ null?',
        "context": "2024-01-02   x\n",
        "label": "yes",
        "rationale": "None\r\nNA",
    }


def test_files_of_a_clone_are_found_one_folder_down(put, made):
    entries = labelled()
    put("data/ori_pqal.json", entries, encoding="utf-8-sig")
    put("data/test_ground_truth.json", {"t0": "yes", "t1": "no"})
    assert made("pubmedqa").card["rows"] == {"trainval": 3, "test": 2}


@pytest.mark.parametrize("empty", [None, "", " \n", "\u200b"])
@pytest.mark.parametrize(("field", "what"), [("LONG_ANSWER", "rationale"), ("QUESTION", "question")])
def test_b021_an_entry_that_lacks_a_text_is_left_out_and_counted(put_labelled, made, field, what, empty):
    entries = labelled()
    entries["v2"][field] = empty
    put_labelled(entries)
    data = made("pubmedqa")
    assert data.card["dropped"] == {f"no {what}": 1}
    assert [row["id"] for row in data.rows] == ["t0", "t1", "v0", "v1"]


def test_b024_rationales_that_contradict_their_label_are_counted(put_labelled, made):
    entries = labelled()
    entries["v1"] |= {"LONG_ANSWER": "Yes, it does, so the answer is yes."}
    entries["v0"] |= {"LONG_ANSWER": "Yes: it does."}
    put_labelled(entries)
    assert made("pubmedqa").card["noted"] == {"rationales that begin with another label": 1}


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"final_decision": "Yes"}, ["line 2", "its label is none of yes, no, maybe"]),
        ({"QUESTION": 5}, ["line 2", "'QUESTION'", "is int"]),
        ({"CONTEXTS": SECRET}, ["line 2", "'CONTEXTS'", "is text, not list"]),
        ({"CONTEXTS": [SECRET, None, 1.5]}, ["line 2", "'CONTEXTS'", "is float"]),
        ({"LONG_ANSWER": f"{SECRET} \ud83d"}, ["line 2", "surrogate"]),
    ],
)
def test_b012_a_value_of_another_kind_names_line_and_field(put_labelled, refused, change, parts):
    entries = {"v9": entry("yes") | change, **labelled()}
    put_labelled(entries)
    refused("pubmedqa", "ori_pqal.json", *parts)


def test_missing_field_lists_those_there(put_labelled, refused):
    entries = labelled()
    del entries["t0"]["final_decision"]
    put_labelled(entries, {"t0": "yes"})
    refused("pubmedqa", "line 2", "no field 'final_decision'", "'LONG_ANSWER'")


def test_an_id_that_stands_twice_is_refused(put, refused):
    one = json.dumps(entry("yes", SECRET))
    put("ori_pqal.json", f'{{"1": {one},\n"2": {one},\n"1": {one}}}')
    put("test_ground_truth.json", {"1": "yes"})
    refused("pubmedqa", "ori_pqal.json line 3", "appears twice")


def test_two_files_that_do_not_belong_together_are_refused(put_labelled, refused):
    put_labelled(labelled(), {"t0": "no", "t1": "no"})
    refused("pubmedqa", "ori_pqal.json line 2", "another one in test_ground_truth.json")
    put_labelled(labelled(), {"t0": "yes", "t7": "no", "t8": "no"})
    refused("pubmedqa", "lacks 2 ids of test_ground_truth.json")


# Artificial


def artificial(count, first=0):
    # Numbers ending in 0 are no: a tenth, about as rare as in the data.
    return {
        str(1000 + i): entry("yes" if i % 10 else "no", f"Made {i}?") for i in range(first, first + count)
    }


def test_artificial_rows_are_split_as_the_authors_script_does(put, made):
    entries = artificial(200)
    put("ori_pqaa.json", entries)
    # What split_dataset.py does for pqaa, with nine in ten for its 200,000.
    random.seed(0)
    pmids = list(entries)
    random.shuffle(pmids)
    data = made("pubmedqa_artificial")
    ids = {split: {row["id"] for row in data.rows if row["split"] == split} for split in data.card["rows"]}
    assert ids == {"train": set(pmids[:180]), "validation": set(pmids[180:190]), "test": set(pmids[190:])}
    assert [row["id"] for row in data.rows] == list(entries)
    other = made("pubmedqa_artificial", "other", seed=1)
    assert {row["id"] for row in other.rows if row["split"] == "train"} != ids["train"]
    assert len(data.splits("pubmedqa_artificial.yaml").test) == 10


def test_artificial_maybe_is_refused(put, refused):
    put("ori_pqaa.json", artificial(30) | {"7": entry("maybe", SECRET)})
    refused("pubmedqa_artificial", "ori_pqaa.json line", "none of yes, no")


# Mix

TEST = ["yes"] * 7 + ["no"] * 4 + ["maybe"] * 2
TRAINVAL = ["yes"] * 9 + ["no"] * 5 + ["maybe"] * 3


@pytest.fixture
def mix(put_labelled, put):
    put_labelled(labelled(TEST, TRAINVAL))
    leaks = {
        "t0": entry("yes", "Another question on a test paper?"),
        "900": entry("no", "  question V1? "),
        "901": entry("no", "Question  t9?"),
    }
    put("ori_pqaa.json", artificial(20) | leaks)


def test_mix_counts_by_hand(mix, made):
    data = made("pubmedqa_mix")
    # test: all 4 no and 4 of 7 yes; validation: half of 5 no, so 2, and 2 yes; train: 7 yes and 3 no of trainval,
    # and 18 yes and 2 no artificial ones.
    assert data.card["labels"]["counts"] == {
        "yes": {"test": 4, "train": 25, "validation": 2},
        "no": {"test": 4, "train": 5, "validation": 2},
    }
    assert data.card["dropped"] == {
        "artificial row on a labelled row's paper or question": 3,
        "labelled row that is neither yes nor no (maybe)": 5,
        "official test row left out by balancing, and not trained on": 3,
    }
    assert len(data.splits("pubmedqa_mix.yaml").validation) == 4


def test_mix_of_the_real_labelled_rows(shared_data, put, made):
    """169 of the official test rows and 169 of the others are no; halves of an odd number round down."""
    for name in ("ori_pqal.json", "test_ground_truth.json"):
        put(name, (shared_data / "pubmedqa" / name).read_bytes())
    put("ori_pqaa.json", artificial(20))
    counts = made("pubmedqa_mix").card["labels"]["counts"]
    assert counts["no"] == {"test": 169, "validation": 84, "train": 169 - 84 + 2}
    assert counts["yes"] == {"test": 169, "validation": 84, "train": 276 - 84 + 18}


def test_nothing_held_out_is_trained_on(mix, made):
    data = made("pubmedqa_mix")
    by_split = collections.defaultdict(list)
    for row in data.rows:
        by_split[row["split"]].append(row)
    assert all(row["id"].startswith("t") for row in by_split["test"])
    assert all(row["id"].startswith("v") for row in by_split["validation"])
    assert not any(row["id"].startswith("t") for row in by_split["train"])
    questions = {
        split: {" ".join(row["question"].split()).lower() for row in rows} for split, rows in by_split.items()
    }
    assert not questions["train"] & (questions["validation"] | questions["test"])


def test_mix_depends_on_seed_but_not_on_the_order_of_the_file(put_labelled, put, made):
    put("ori_pqaa.json", artificial(20))
    entries = labelled(TEST, TRAINVAL)
    put_labelled(entries)
    first = made("pubmedqa_mix")
    held = {row["id"] for row in first.rows if row["split"] != "train"}
    put_labelled(dict(reversed(entries.items())))
    assert {row["id"] for row in made("pubmedqa_mix", "again").rows if row["split"] != "train"} == held
    others = [made("pubmedqa_mix", f"seed{seed}", seed=seed) for seed in range(1, 5)]
    assert any({row["id"] for row in other.rows if row["split"] != "train"} != held for other in others)


def test_mix_without_a_label_in_a_split_is_refused(put_labelled, put, refused):
    put("ori_pqaa.json", artificial(20))
    put_labelled(labelled(["yes", "yes"], TRAINVAL))
    refused("pubmedqa_mix", "has no no in test")
