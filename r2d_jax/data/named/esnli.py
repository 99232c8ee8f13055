"""e-SNLI; in: its four CSV files, out: premise and hypothesis with up to three human explanations."""

from collections.abc import Iterator

from r2d_jax.data.mentions import is_blank
from r2d_jax.data.named.contract import RATIONALES, Job, NamedDataset, NamedRow, SourceFile, joined, text_of

_NO_GOLD = ("", "-")
_PARTS = (("train", "train_1"), ("train", "train_2"), ("validation", "dev"), ("test", "test"))
_COLUMNS = ("Explanation_1", "Explanation_2", "Explanation_3")


def _convert(job: Job) -> Iterator[NamedRow]:
    for split, key in _PARTS:
        for where, cells in job.rows(key, split):
            label = text_of(cells, "gold_label", where)
            if label.strip() in _NO_GOLD:
                job.tally.drop("no gold label")
                continue
            # Train rows have one explanation, and so no columns for more.
            names = _COLUMNS[:1] if split == "train" else _COLUMNS
            texts = [text for name in names if not is_blank(text := text_of(cells, name, where))]
            sentences = [text_of(cells, name, where) for name in ("Sentence1", "Sentence2")]
            yield NamedRow(
                place=where,
                row_id=text_of(cells, "pairID", where),
                split=split,
                question=joined("Premise: {} Hypothesis: {}", *sentences),
                context="",
                label=label,
                rationales=dict(zip(RATIONALES, [*texts, "", "", ""], strict=False)),
            )


ESNLI = NamedDataset(
    name="esnli",
    title="e-SNLI",
    task="label: entailment, neutral or contradiction; rationale: a crowd worker's explanation",
    published_rows="549,367 train, 9,842 validation, 9,824 test (as others count them)",
    download="github.com/OanaMariaCamburu/e-SNLI, folder dataset/: esnli_train_1.csv, esnli_train_2.csv, "
    "esnli_dev.csv, esnli_test.csv.",
    licence="MIT terms, without that name (LICENSE of github.com/OanaMariaCamburu/e-SNLI)",
    caveats=(
        "The sentences are SNLI's (CC BY-SA 4.0 by its card on the Hub; premises are captions from Flickr30k).",
        "Explanations in train are one a row; some follow a template that the label gives away.",
        "Not clinical: it is here to compare with published self-rationalising models.",
    ),
    citation="Camburu, Rocktäschel, Lukasiewicz, Blunsom: e-SNLI: Natural Language Inference with Natural Language "
    "Explanations. NeurIPS 2018.",
    conversions=(
        "question = 'Premise: Sentence1 Hypothesis: Sentence2', label = gold_label, id = pairID, as written",
        "rationale = Explanation_1; in validation and test rationale_2 and rationale_3 = Explanation_2 and "
        "Explanation_3, empty ones left out and the next one moved up",
        "rows whose gold_label is empty or - are left out; marked and highlighted columns are left out",
        "split: as published (dev is validation)",
    ),
    files=tuple(SourceFile(key, (f"esnli_{key}.csv",), ".csv") for _, key in _PARTS),
    splits=("train", "validation", "test"),
    labels=("entailment", "neutral", "contradiction"),
    convert=_convert,
    rationales=RATIONALES,
)
