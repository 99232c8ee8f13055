"""What is done for each row does not handle every label again, and gives what it gave when it did."""

import collections
import re

import numpy as np

from r2d_jax.data import mentions
from r2d_jax.data.mentions import rationale_names_label
from r2d_jax.evaluation import evaluate
from r2d_jax.evaluation.evaluate import prediction_row
from r2d_jax.evaluation.predict import Prediction

WORDS = ["acute", "renal", "non", "urgent", "type", "2", "12", "A+", "(b)", "ÄRA", "straße", "-1", "e.g."]


def by_one_pattern(rationale, label, label_set):
    """The definition: all labels in one pattern, the longest first."""
    given = mentions._key(label)
    keys = sorted({key for key in (given, *map(mentions._key, label_set)) if key})
    if not keys:
        return "none"
    pattern = re.compile("|".join(mentions._pattern(key) for key in sorted(keys, key=len, reverse=True)))
    named = {mentions._key(match.group()) for match in pattern.finditer(mentions._comparable(rationale))}
    return "label" if given in named else "other" if named else "none"


def phrase(rng, most):
    words = rng.choice(WORDS, rng.integers(1, most + 1))
    return "".join(word + str(rng.choice([" ", "-", "  ", "\u2011", "."])) for word in words).strip(" .-")


def test_a_rationale_names_what_a_pattern_of_all_labels_finds():
    rng = np.random.default_rng(0)
    seen = collections.Counter()
    for _ in range(60):
        labels = [phrase(rng, 3) for _ in range(rng.integers(0, 12))]
        for _ in range(12):
            rationale = " ".join([phrase(rng, 4), str(rng.choice(["", *labels])), phrase(rng, 4)])
            label = str(rng.choice([*labels, phrase(rng, 2), "", "."]))
            expected = by_one_pattern(rationale, label, labels)
            assert rationale_names_label(rationale, label, labels) == expected, (rationale, label, labels)
            seen[expected] += 1
    assert min(seen.values()) > 40, seen
    assert len(seen) == 3


def counted(monkeypatch, module, name):
    """Calls of a module's function from now on, in a list that grows."""
    calls, function = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda text: calls.append(text) or function(text))
    return calls


def many(prefix):
    return tuple(f"{prefix} {number}" for number in range(1000))


def test_labels_are_made_comparable_once_for_all_rows(monkeypatch):
    keys = counted(monkeypatch, mentions, "_key")
    compared = counted(monkeypatch, evaluate, "normalise_label")
    labels = many("finding")
    for row in range(50):
        assert rationale_names_label(f"So it is finding {row}.", labels[row], labels) == "label"
        assert prediction_row("", Prediction(f" finding  {row} ", True, 0.5), labels)["label_valid"]
        assert not prediction_row("", Prediction("finding", True, 0.5), labels)["label_valid"]
    assert 1000 < len(keys) < 1200
    assert 1000 < len(compared) < 1200


def test_each_label_set_is_its_own():
    for labels in (["a", "b"], ("b",), ["a"], ()):
        for text in "ab":
            valid = prediction_row("", Prediction(text, True, 0.5), labels)["label_valid"]
            assert valid == (text in labels if labels else None)
            assert rationale_names_label(text, "b", labels) == by_one_pattern(text, "b", labels)
