"""Word overlap of generated and gold rationales; in: N texts of each, out: BLEU and ROUGE-L figures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from r2d_jax.data.mentions import check_same_rows, fold_white_space
from r2d_jax.errors import UserError

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU


def bleu(predicted: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """BLEU by sacrebleu, 0 to 100, of plain text with one reference per row.

    White space, line breaks included, is folded on both sides first, so that it never changes a score.

    Args:
        predicted: N generated texts.
        references: N gold texts.

    Returns:
        corpus: BLEU of the whole corpus, exponential smoothing; signature states the settings.
        mean_sentence: mean of the rows' sentence BLEU; sentence_signature states the settings.
        empty_predictions, empty_references: counts; such rows score 0 and stay in both figures.
        rows: N.

    Raises:
        UserError: row counts differ, no rows, or an item is not a text (nested references).
    """
    from sacrebleu.metrics import BLEU

    rows = check_same_rows(predictions=predicted, references=references)
    for name, column in (("predictions", predicted), ("references", references)):
        if isinstance(column, str) or not all(isinstance(text, str) for text in column):
            raise UserError(name, "must be a flat list of texts", "Give one text per row, without nesting.")
    outputs, golds = _folded(predicted), _folded(references)
    corpus_scorer = BLEU()
    sentence_scorer = _sentence_scorer()
    scores, _ = _bleu_rows(sentence_scorer, outputs, golds)
    return {
        "corpus": float(corpus_scorer.corpus_score(outputs, [_padded(golds)]).score),
        "signature": str(corpus_scorer.get_signature()),
        "mean_sentence": float(np.mean(scores)),
        "sentence_signature": str(sentence_scorer.get_signature()),
        "empty_predictions": outputs.count(""),
        "empty_references": golds.count(""),
        "rows": rows,
    }


def _folded(texts: Sequence[str]) -> list[str]:
    return [fold_white_space(text) for text in texts]


def _padded(references: Sequence[str]) -> list[str]:
    # The library rejects "" as a reference; a space has no tokens either, and keeps the row in the corpus.
    return [text or " " for text in references]


def _sentence_scorer() -> "BLEU":
    from sacrebleu.metrics import BLEU

    # Without the effective order a text of fewer than four tokens scores 0 even when it is identical.
    return BLEU(effective_order=True)


def bleu_rows(predicted: Sequence[str], references: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """BLEU row by row, for resampling.

    Returns:
        sentence BLEU float64 [N], 0 to 100, and int64 [N, 10]: matches and totals of 1- to 4-grams, length
        of output and of reference. Their sums over rows give the corpus BLEU through `corpus_bleu`.
    """
    return _bleu_rows(_sentence_scorer(), _folded(predicted), _folded(references))


def _bleu_rows(scorer: "BLEU", outputs: Sequence[str], golds: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    scores = [
        scorer.sentence_score(output, [gold]) for output, gold in zip(outputs, _padded(golds), strict=True)
    ]
    statistics = [[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in scores]
    return np.array([one.score for one in scores]), np.array(statistics, np.int64).reshape(-1, 10)


def corpus_bleu(totals: np.ndarray) -> float:
    """Corpus BLEU, 0 to 100, of summed statistics int64 [10] from `bleu_rows`."""
    from sacrebleu.metrics import BLEU

    counts = [int(value) for value in totals]
    return float(
        BLEU.compute_bleu(
            correct=counts[:4], total=counts[4:8], sys_len=counts[8], ref_len=counts[9], smooth_method="exp"
        ).score
    )


def rouge_l_rows(predicted: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """ROUGE-L F1 of each row, float64 [N], 0 to 1, by rouge-score without stemming.

    The package keeps only the letters a to z and digits, in lower case; text in other scripts scores 0.

    Raises:
        UserError: row counts differ, or no rows.
    """
    from rouge_score.scoring import fmeasure
    from rouge_score.tokenizers import DefaultTokenizer

    check_same_rows(predictions=predicted, references=references)
    tokens = DefaultTokenizer(use_stemmer=False).tokenize
    scores = []
    for output, gold in zip(map(tokens, predicted), map(tokens, references), strict=True):
        common = _common_length(output, gold)
        scores.append(fmeasure(common / len(output), common / len(gold)) if common else 0.0)
    return np.array(scores, np.float64)


def _common_length(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence, by whole rows of its table as bits (Crochemore et al. 2001).

    The package fills the table cell by cell, which takes many seconds and a gigabyte for two texts of 10,000 words.
    """
    places: dict[str, int] = {}
    for place, token in enumerate(one):
        places[token] = places.get(token, 0) | 1 << place
    every = (1 << len(one)) - 1
    row = every
    for token in other:
        matches = row & places.get(token, 0)
        row = ((row + matches) | (row - matches)) & every
    return len(one) - row.bit_count()
