"""ROUGE-L by hand, and the sums of corpus BLEU against sacrebleu."""

import time

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from r2d_jax.errors import UserError
from r2d_jax.evaluation.overlap import bleu, bleu_rows, corpus_bleu, rouge_l_rows

OUTPUTS = ["the pain is severe and new", "no fever", "", "rate 12, stable", "the the the"]
GOLDS = ["the pain is new and severe", "no fever at all", "cough", "", "a pulse of 125"]


def test_rouge_l_by_hand():
    found = rouge_l_rows(OUTPUTS, GOLDS)
    # "the pain is ... new" and "the pain is severe": 4 of 6; "no fever": 2 of 2 and 2 of 4.
    assert found.tolist() == pytest.approx([4 / 6, 2 * 1.0 * 0.5 / 1.5, 0.0, 0.0, 0.0])


def test_rouge_l_reads_words_not_characters():
    assert rouge_l_rows(["Urgent!"], ["urgent"]).tolist() == [1.0]
    assert rouge_l_rows(["12"], ["125"]).tolist() == [0.0]
    with pytest.raises(UserError):
        rouge_l_rows(["a"], [])


@given(
    st.lists(
        st.tuples(st.text("ab -Ä.\n", max_size=24), st.text("ab -Ä.\n", max_size=24)), min_size=1, max_size=6
    )
)
def test_rouge_l_is_that_of_the_package(pairs):
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    wanted = [scorer.score(gold, output)["rougeL"].fmeasure for output, gold in pairs]
    assert rouge_l_rows(*zip(*pairs, strict=True)).tolist() == wanted


def test_rouge_l_of_long_texts_is_quick():
    """50 million cells, were the table of texts of 10,000 and 5,000 words filled cell by cell."""
    words = [f"w{number % 97}" for number in range(10_000)]
    began = time.process_time()
    assert rouge_l_rows([" ".join(words)], [" ".join(words[:5000])]).tolist() == [pytest.approx(2 / 3)]
    assert time.process_time() - began < 2


def test_summed_statistics_give_the_corpus_bleu():
    scores, statistics = bleu_rows(OUTPUTS, GOLDS)
    assert statistics.shape == (5, 10)
    assert corpus_bleu(statistics.sum(axis=0)) == pytest.approx(bleu(OUTPUTS, GOLDS)["corpus"])
    assert float(np.mean(scores)) == bleu(OUTPUTS, GOLDS)["mean_sentence"]
    some = [0, 1, 1]
    expected = sacrebleu.corpus_bleu([OUTPUTS[i] for i in some], [[GOLDS[i] for i in some]]).score
    assert corpus_bleu(statistics[some].sum(axis=0)) == pytest.approx(expected)
