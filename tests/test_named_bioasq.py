"""BioASQ Task B, yes/no: what years write differently comes out alike, and a golden row is never trained on."""

import pytest

pytest_plugins = ["named_cases"]

from named_cases import SECRET


def snippet(text):
    return {
        "text": text,
        "document": "http://www.ncbi.nlm.nih.gov/pubmed/1",
        "beginSection": "abstract",
        "endSection": "abstract",
        "offsetInBeginSection": 0,
        "offsetInEndSection": 9,
    }


def question(number, exact="yes", ideal=("It is.",), texts=("One.", "Two."), body=None, kind="yesno"):
    return {
        "id": f"5{number:023d}",
        "type": kind,
        "body": body or f"Is it number {number}?",
        "documents": ["http://www.ncbi.nlm.nih.gov/pubmed/1"],
        "concepts": [],
        "triples": [{"p": "x", "s": "y", "o": "z"}],
        "snippets": [snippet(text) for text in texts],
        "ideal_answer": ideal if isinstance(ideal, str | None) else list(ideal),
        "exact_answer": exact,
    }


def key(number):
    return f"5{number:023d}"


# Enough for rows in each of three drawn splits.
MANY = [question(number, "yes" if number % 3 else "no") for number in range(100, 160)]


@pytest.fixture
def training(put):
    def write(*questions, name="training13b.json"):
        put(name, {"questions": [*questions, *MANY]})

    return write


def test_a_row_by_hand(training, made):
    training(
        question(1, "Yes", ["First.", "Second."], ["p < 0.05 (n=3).", "x  y\n"], 'Is "A" ≥ B?'),
        question(2, [["TTN"]], kind="factoid"),
    )
    data = made("bioasq")
    row = data.row(key(1))
    assert row.pop("split") in ("train", "validation", "test")
    assert row == {
        "id": key(1),
        "question": 'Is "A" ≥ B?',
        "context": "p < 0.05 (n=3). x  y\n",
        "label": "yes",
        "rationale": "First.",
        "rationale_2": "Second.",
        "rationale_3": "",
    }
    assert data.card["dropped"] == {"question of another type (factoid, list, summary)": 1}
    assert data.card["noted"] == {"labels respelled (case, stop, blanks, list)": 1}
    assert data.card["rationales"] == {"rationale": 61, "rationale_2": 1, "rationale_3": 0}


@pytest.mark.parametrize(
    ("exact", "label"),
    [
        ("yes", "yes"),
        ("Yes.", "yes"),
        (" NO \n", "no"),
        (["no"], "no"),
        ([["Yes"]], "yes"),
        ('"yes"', "yes"),
    ],
)
def test_spellings_of_the_exact_answer(training, made, exact, label):
    training(question(1, exact))
    data = made("bioasq")
    assert data.row(key(1))["label"] == label
    assert data.card["noted"] == (
        {} if exact == label else {"labels respelled (case, stop, blanks, list)": 1}
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"exact_answer": ""}, "no exact answer"),
        ({"exact_answer": None}, "no exact answer"),
        ({"exact_answer": []}, "no exact answer"),
        ({"exact_answer": "\u200b"}, "no exact answer"),
        ({"exact_answer": ["yes", "no"]}, "several exact answers that differ"),
        ({"exact_answer": "unclear"}, "exact answer that is neither yes nor no"),
        ({"exact_answer": "yes and no"}, "exact answer that is neither yes nor no"),
        ({"ideal_answer": ""}, "no rationale"),
        ({"ideal_answer": None}, "no rationale"),
        ({"ideal_answer": [" ", "\u200b"]}, "no rationale"),
        ({"body": " "}, "no question"),
    ],
)
def test_a_row_without_gold_is_left_out_and_counted(training, made, change, reason):
    training(question(1) | change)
    data = made("bioasq")
    assert data.card["dropped"] == {reason: 1}
    assert len(data.rows) == len(MANY)


def test_fields_that_early_years_lack(training, made):
    bare = question(1, ideal="One text, not a list.")
    for name in ("snippets", "concepts", "triples"):
        del bare[name]
    training(bare)
    data = made("bioasq")
    row = data.row(key(1))
    assert (row["context"], row["rationale"]) == ("", "One text, not a list.")
    assert data.card["noted"] == {"questions without snippets": 1}


def test_repeated_snippets_and_many_ideal_answers_are_counted(training, made):
    training(question(1, ideal=["a", "", "b", "c", "d"], texts=["same", "other", "same", "\u200b"]))
    data = made("bioasq")
    row = data.row(key(1))
    assert row["context"] == "same other"
    assert [row["rationale"], row["rationale_2"], row["rationale_3"]] == ["a", "b", "c"]
    assert data.card["noted"] == {
        "ideal answers beyond the third, left out": 1,
        "snippets left out (empty, or the same text again in one question)": 2,
    }


def test_golden_batches_are_the_test_split_and_never_trained_on(training, put, made):
    """A year's training file holds the golden rows of the years before, under the same id or another."""
    training(question(1), question(2, body="Is  it golden?"), question(3))
    put(
        "Task13BGoldenEnriched/13B1_golden.json",
        {"questions": [question(1), question(9, kind="summary")]},
    )
    put("Task13BGoldenEnriched/13B2_golden.json", {"questions": [question(4, "no", body="Is it Golden?")]})
    data = made("bioasq")
    assert [row["id"] for row in data.rows if row["split"] == "test"] == [key(1), key(4)]
    assert {row["id"] for row in data.rows if row["split"] != "test"} == {key(3), *(q["id"] for q in MANY)}
    assert data.card["dropped"]["training question that a golden batch has too"] == 2
    assert [one["file"] for one in data.card["inputs"]] == [
        "training13b.json",
        "13B1_golden.json",
        "13B2_golden.json",
    ]


def test_drawn_splits_keep_one_question_together_and_follow_the_seed(training, made):
    twins = [question(number, body="Is it  ONE question?") for number in range(1, 9)]
    training(*twins)
    data = made("bioasq")
    assert len({data.row(one["id"])["split"] for one in twins}) == 1
    # 68 rows at 80 : 10 : 10, twins as one.
    assert data.card["rows"]["train"] > 3 * max(data.card["rows"]["validation"], data.card["rows"]["test"])
    assert made("bioasq", "again").rows == data.rows
    assert made("bioasq", "other", seed=1).card["rows"] != data.card["rows"]
    splits = data.splits("bioasq.yaml")
    assert len(splits.train) == data.card["rows"]["train"]


def test_an_id_that_stands_twice_gets_a_number(training, made):
    training(question(1), question(1, body="Is it another?"))
    data = made("bioasq")
    assert data.row(f"{key(1)}#2")["question"] == "Is it another?"
    assert data.card["noted"] == {"ids that stood before, now with #2, #3, ... at their end": 1}


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"snippets": [SECRET]}, ["is a JSON text, not an object"]),
        ({"snippets": SECRET}, ["'snippets'", "is text, not list"]),
        ({"exact_answer": 1}, ["is int, not text"]),
        ({"exact_answer": True}, ["is bool, not text"]),
        ({"body": [SECRET]}, ["'body'", "is list, not text"]),
        ({"id": 5}, ["'id'", "is int, not text"]),
    ],
)
def test_b012_a_value_of_another_kind_names_its_line(training, refused, change, parts):
    training(question(1) | change)
    refused("bioasq", "training13b.json line 3", *parts)


def test_a_file_that_is_no_task_b_file_is_refused(put, refused):
    put("training13b.json", {"articles": [{"abstractText": SECRET}]})
    refused("bioasq", "has no 'questions'")
