"""ECQA; in: the three CSV files that its authors' script makes, out: questions with options and explanations."""

from collections.abc import Iterator

from r2d_jax.data.mentions import is_blank
from r2d_jax.data.named.contract import Job, NamedDataset, NamedRow, SourceFile, joined, text_of

_PARTS = {"train": "train", "validation": "val", "test": "test"}
_QUESTION = "{} Choices: (A) {} (B) {} (C) {} (D) {} (E) {}"


def _convert(job: Job) -> Iterator[NamedRow]:
    for split, key in _PARTS.items():
        for where, cells in job.rows(key, split):
            options = [text_of(cells, f"q_op{number}", where) for number in range(1, 6)]
            label = text_of(cells, "q_ans", where)
            if not is_blank(label) and label not in options:
                job.tally.drop("answer that is none of the options")
                continue
            yield NamedRow(
                place=where,
                row_id=text_of(cells, "q_no", where),
                split=split,
                question=joined(_QUESTION, text_of(cells, "q_text", where), *options),
                context="",
                label=label,
                rationales={
                    "rationale": text_of(cells, "taskB", where),
                    "positive_properties": text_of(cells, "taskA_pos", where),
                    "negative_properties": text_of(cells, "taskA_neg", where),
                },
            )


ECQA = NamedDataset(
    name="ecqa",
    title="ECQA, explanations for CommonsenseQA",
    task="label: the right one of five options, as text; rationale: a human free-flow explanation",
    published_rows="about 11,000 (7,598 train, 1,090 validation, 2,194 test as others count them)",
    download="github.com/dair-iitd/ECQA-Dataset: with the CommonsenseQA files beside it, its generate_data.py writes "
    "cqa_data_train.csv, cqa_data_val.csv, cqa_data_test.csv.",
    licence="CDLA-Sharing-1.0 (LICENSE.md of github.com/dair-iitd/ECQA-Dataset, as others quote it); the first "
    "version of its ReadMe said CC BY-SA 4.0",
    caveats=(
        "Both licences ask to pass rows on under the same terms only; look at the repository before you do. "
        "CommonsenseQA has a licence of its own.",
        "Labels are words, most of them rare: macro-F1 over them says little, accuracy says more. Every question "
        "shows its label among the options.",
        "Not clinical: it is here to compare with published self-rationalising models.",
    ),
    citation="Aggarwal, Mandowara, Agrawal, Khandelwal, Singla, Garg: Explanations for CommonsenseQA: New Dataset and "
    "Models. ACL-IJCNLP 2021.",
    conversions=(
        "question = 'q_text Choices: (A) q_op1 (B) q_op2 (C) q_op3 (D) q_op4 (E) q_op5', id = q_no",
        "label = q_ans as written, not its letter; a row whose answer is none of its options is left out",
        "rationale = taskB; positive_properties = taskA_pos, negative_properties = taskA_neg, for use as other "
        "rationale sources; all as written, line breaks too",
        "split: as published (val is validation)",
    ),
    files=tuple(SourceFile(key, (f"cqa_data_{key}.csv",), ".csv") for key in _PARTS.values()),
    splits=("train", "validation", "test"),
    labels=None,
    convert=_convert,
    rationales=("rationale", "positive_properties", "negative_properties"),
)
