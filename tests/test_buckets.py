"""Length buckets: what is chosen, that rows fit, and that batches lose nothing by being trimmed."""

import itertools
import json

import numpy as np
import pytest

from r2d_jax.config_file import load_config
from r2d_jax.data import buckets as shapes
from r2d_jax.data.buckets import Bucket, bucket_of_rows, choose_buckets, padding_fraction
from r2d_jax.data.features import Features
from r2d_jax.data.pipeline import train_batches
from r2d_jax.errors import UserError
from r2d_jax.runtime.mesh import make_mesh
from r2d_jax.training.prepare import prepare
from r2d_jax.training.workdir import Workdir

FULL = Bucket(96, 48)


def lengths(rows=2000, seed=0):
    rng = np.random.default_rng(seed)
    return (
        np.clip(rng.normal(38, 9, rows), 10, 96).astype(np.int32),
        np.clip(rng.normal(31, 5, rows), 5, 48).astype(np.int32),
    )


def features(question, rationale):
    def ids(sizes, width):
        return np.where(np.arange(width) < sizes[:, None], np.arange(1, len(sizes) + 1)[:, None], 0).astype(
            np.int32
        )

    label = np.ones((len(question), 2), np.int32)
    return Features(
        ids(question, FULL.question),
        question,
        label,
        label[:, 0],
        ids(rationale, FULL.rationale),
        rationale,
        0,
        0,
    )


def padded_cost(buckets, question, rationale, prompt_tokens=8):
    kind = bucket_of_rows(buckets, question, rationale)
    return sum(2 * (buckets[k].question + prompt_tokens) + buckets[k].rationale for k in kind)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_buckets_hold_every_row_and_more_of_them_pad_no_more(count):
    question, rationale = lengths()
    buckets = choose_buckets(question, rationale, full=FULL, count=count, prompt_tokens=8)
    assert buckets[-1] == FULL
    assert 1 <= len(buckets) <= count
    kind = bucket_of_rows(buckets, question, rationale)
    for number, bucket in enumerate(buckets):
        assert bucket.holds(question, rationale)[kind == number].all()
        assert (bucket.question + 8) % 8 == 0 or bucket == FULL
        assert bucket.rationale % 8 == 0
    if count > 1:
        fewer = choose_buckets(question, rationale, full=FULL, count=count - 1, prompt_tokens=8)
        assert padded_cost(buckets, question, rationale) <= padded_cost(fewer, question, rationale)


def test_two_buckets_are_the_best_pair():
    """Greedy choice of one further shape is the best of all, found here by trying every shape."""
    question, rationale = lengths(300)
    chosen = choose_buckets(question, rationale, full=FULL, count=2, prompt_tokens=8)
    every = [(Bucket(q, t), FULL) for q in range(8, 97, 8) for t in range(8, 49, 8)]
    best = min(padded_cost(pair, question, rationale) for pair in every)
    assert padded_cost(chosen, question, rationale) == best


def test_a_token_of_a_question_counts_as_two_of_a_rationale():
    """Short questions save 160 for each of 100 rows, short rationales 80 for each of 150."""
    question, rationale = (np.repeat(sizes, [100, 150]).astype(np.int32) for sizes in ((8, 88), (88, 8)))
    chosen = choose_buckets(question, rationale, full=Bucket(88, 88), count=2, prompt_tokens=8)
    assert chosen == (Bucket(8, 88), Bucket(88, 88))


def test_rows_of_one_size_need_one_shape():
    same = np.full(50, 24, np.int32)
    assert choose_buckets(same, same, full=Bucket(24, 24), count=4, prompt_tokens=8) == (Bucket(24, 24),)


def test_a_further_shape_saves_more_steps_than_its_compilation_takes():
    """Half the rows cost 40, the others 232: a shape for the first saves 0.41 of the steps, 20 of 49 but not of 48."""
    question, rationale = (np.tile([few, many], 50).astype(np.int32) for few, many in ((8, 88), (8, 40)))

    def chosen(steps):
        return choose_buckets(question, rationale, full=Bucket(88, 40), count=4, prompt_tokens=8, steps=steps)

    assert chosen(48) == (Bucket(88, 40),)
    assert chosen(49) == chosen(None) == (Bucket(8, 8), Bucket(88, 40))


def test_b051_the_padding_share_is_that_of_the_batches():
    question, rationale = lengths(640)
    data = features(question, rationale)
    for count in (1, 4):
        buckets = choose_buckets(question, rationale, full=FULL, count=count, prompt_tokens=8)
        share = padding_fraction(buckets, question, rationale)
        real = cells = 0
        for batch in itertools.islice(train_batches(data, 16, seed=0, buckets=buckets), 40):
            for name in ("question_ids", "rationale_ids"):
                real += int((batch[name] > 0).sum())
                cells += batch[name].size
        # Rows of two buckets in one batch are padded to the larger.
        assert share <= 1 - real / cells + 0.001
        assert abs(share - (1 - real / cells)) < (0.03 if count > 1 else 0.01)


def test_trimming_takes_padding_only_and_keeps_every_row():
    question, rationale = lengths(640)
    data = features(question, rationale)
    buckets = choose_buckets(question, rationale, full=FULL, count=4, prompt_tokens=8)
    assert len(buckets) > 2
    seen, shapes = [], set()
    for batch in itertools.islice(train_batches(data, 16, seed=0, buckets=buckets), 40):
        shapes.add((batch["question_ids"].shape[1], batch["rationale_ids"].shape[1]))
        for name in ("question", "rationale"):
            np.testing.assert_array_equal((batch[f"{name}_ids"] > 0).sum(axis=1), batch[f"{name}_length"])
        seen += (batch["question_ids"][:, 0] - 1).tolist()
    assert shapes <= {(bucket.question, bucket.rationale) for bucket in buckets}
    # 40 batches are a window and a part of the next; the first 32 hold 512 of 640 rows, none twice.
    assert len(set(seen[:512])) == 512


def test_a_pass_holds_every_row_once_when_it_ends_with_a_window():
    question, rationale = lengths(512)
    buckets = choose_buckets(question, rationale, full=FULL, count=4, prompt_tokens=8)
    batches = itertools.islice(train_batches(features(question, rationale), 16, seed=3, buckets=buckets), 32)
    rows = np.concatenate([batch["question_ids"][:, 0] for batch in batches])
    assert sorted(rows) == list(range(1, 513))


def test_most_batches_hold_one_bucket_and_their_order_is_random():
    question, rationale = lengths(6000)
    buckets = choose_buckets(question, rationale, full=FULL, count=4, prompt_tokens=8)
    kind = bucket_of_rows(buckets, question, rationale)
    mixed, largest = 0, []
    for batch in itertools.islice(
        train_batches(features(question, rationale), 16, seed=0, buckets=buckets), 320
    ):
        kinds = kind[batch["question_ids"][:, 0] - 1]
        mixed += len(set(kinds.tolist())) > 1
        largest.append(kinds.max())
    assert mixed <= 320 * (len(buckets) - 1) / 32
    steps = np.diff(largest[:32])
    assert (steps < 0).sum() > 5
    assert (steps > 0).sum() > 5


def test_the_order_of_shapes_is_another_for_each_seed_and_each_window():
    question, rationale = lengths(6000)
    data = features(question, rationale)
    buckets = choose_buckets(question, rationale, full=FULL, count=4, prompt_tokens=8)

    def shapes_of(seed):
        batches = itertools.islice(train_batches(data, 16, seed=seed, buckets=buckets), 64)
        widths = [
            batch["question_ids"].shape[1] * 1000 + batch["rationale_ids"].shape[1] for batch in batches
        ]
        return np.array(widths).reshape(2, 32)

    one, other = shapes_of(0), shapes_of(1)
    for first, second in ((one[0], other[0]), (one[1], other[1]), (one[0], one[1])):
        assert np.mean(first == second) < 0.7


@pytest.mark.parametrize("start", [1, 31, 32, 50])
def test_going_on_gives_the_same_trimmed_batches(start):
    question, rationale = lengths(100)
    data = features(question, rationale)
    buckets = choose_buckets(question, rationale, full=FULL, count=3, prompt_tokens=8)

    def batches(first, count):
        return list(
            itertools.islice(train_batches(data, 8, seed=1, start_step=first, buckets=buckets), count)
        )

    for one, other in zip(batches(0, start + 6)[start:], batches(start, 6), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_a_run_goes_on_with_the_shapes_that_it_began_with(tmp_path, monkeypatch):
    """Another version chose others, and a resumed run repeated rows and left rows out without a word."""
    size = ["data.triage.train_rows=200", "data.triage.validation_rows=8", "data.triage.test_rows=8"]
    config = load_config(None, ["data.source=triage", "data.length_buckets=4", *size])

    def chosen(name):
        stages = prepare(config, Workdir(tmp_path / name), make_mesh(config.mesh)).stages
        return {number: stage.buckets for number, stage in stages.items()}

    begun = chosen("run")
    assert len(begun[1]) > 1
    monkeypatch.setattr(shapes, "_STEPS_OF_A_COMPILATION", 10**9)
    assert chosen("run") == begun
    assert [len(stage) for stage in chosen("another").values()] == [1, 1]
    state = tmp_path / "run" / "run.json"
    marks = json.loads(state.read_text())
    marks["batch_widths"]["2"][-1][0] += 8
    state.write_text(json.dumps(marks))
    with pytest.raises(UserError, match=r"stage 2: began with batches of other widths"):
        chosen("run")
