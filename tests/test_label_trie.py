"""label_decode=constrained: only labels of the set come out, the same as torch's generate gives under the same rule."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest_plugins = ["cli_cases"]

from cli_cases import as_lines
from t5_cases import SMALL, TOLERANCE, random_weights

from r2d_jax.config import ColumnsConfig, DataConfig, MeshConfig, Stage2Config, T5Config
from r2d_jax.config_file import load_config
from r2d_jax.data.features import FeatureEncoder
from r2d_jax.data.schema import Example
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError
from r2d_jax.evaluation.export import export_model
from r2d_jax.evaluation.export_readme import usage_text
from r2d_jax.evaluation.model_folder import LoadedModel, ModelCard, read_card
from r2d_jax.evaluation.predict import Predictor
from r2d_jax.model.greedy import greedy_decode
from r2d_jax.model.hf_format import write_hf_folder
from r2d_jax.model.label_trie import LabelTrie, label_trie
from r2d_jax.model.parameters import T5Factory, flatten, unflatten
from r2d_jax.model.t5 import shift_right
from r2d_jax.runtime.mesh import batch_sharding, jit_on_mesh, make_mesh, shard_batch
from r2d_jax.runtime.run_files import MODEL_CARD
from r2d_jax.training.objectives import GIVEN_IDS, GIVEN_LENGTH, SAMPLED, StepContext, stage2_objective
from r2d_jax.training.prepare import prepare
from r2d_jax.training.r2dc import r2dc_objective
from r2d_jax.training.workdir import Workdir

END, LIMIT, ROWS = 1, 8, 48


# Nearly all of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("compiled_quickly")


# The tree itself


def random_labels(seed, count, vocab=40, longest=6):
    rng = np.random.default_rng(seed)
    made = {tuple(rng.integers(2, vocab, rng.integers(1, longest + 1)).tolist()) for _ in range(count)}
    return sorted(made)


SETS = {
    "one": [(7,)],
    "beginnings of others": [(5,), (5, 6), (5, 6, 7), (5, 6, 7, 8)],
    "shared words": [(a, b, c) for a in (9, 4) for b in (4, 9, 30) for c in (4, 5)] + [(4, 9)],
    "hundreds": random_labels(0, 400),
}


def following(labels, written):
    """Tokens by which what is written goes on to a label; labels with their end token."""
    size = len(written)
    return sorted({ids[size] for ids in labels if len(ids) > size and list(ids[:size]) == list(written)})


def with_end(labels):
    return [[*ids, END] for ids in labels]


def test_a_tree_worked_out_by_hand():
    """Labels 5, 5 6, 5 7 and 8. Level by level: 5, 8; 5 end, 5 6, 5 7, 8 end; 5 6 end, 5 7 end."""
    trie = LabelTrie.of([(8,), (5, 7), (5,), (5, 6)])
    assert trie.tokens.tolist() == [5, 8, 1, 6, 7, 1, 1, 1]
    assert trie.first.tolist() == [0, 2, 5, 6, 6, 7, 8, 8, 8, 8]
    assert (trie.width, trie.depth) == (3, 3)


@pytest.mark.parametrize("name", SETS)
def test_each_step_takes_the_likeliest_token_that_leads_to_a_label(name):
    labels, trie = with_end(SETS[name]), LabelTrie.of(SETS[name])
    best, rng = jax.jit(trie.best), np.random.default_rng(1)
    written, nodes = [[] for _ in range(64)], np.asarray(trie.start(64))
    for _ in range(trie.depth):
        # Whole numbers, so that many are equal.
        logits = rng.integers(0, 4, (64, 40)).astype(np.float32)
        tokens, highest, reached = map(np.asarray, best(logits, nodes))
        nodes = reached
        for row, ids in enumerate(written):
            if ids[-1:] != [END]:
                expected = max(following(labels, ids), key=logits[row].__getitem__)
                assert (tokens[row], highest[row]) == (expected, logits[row, expected])
                ids.append(int(tokens[row]))
    assert all(ids in labels for ids in written)
    assert len(set(map(tuple, written))) >= min(len(labels), 8)


def test_the_tree_is_as_large_as_the_labels_and_knows_no_vocabulary():
    labels = random_labels(2, 3000, vocab=32_000, longest=12)
    trie = LabelTrie.of(labels)
    assert trie.first.size + trie.tokens.size <= 2 * sum(map(len, with_end(labels))) + 2
    assert trie.width == len({ids[0] for ids in labels})
    assert trie.depth == 13


class Spelled:
    """A tokenizer that does not tell upper from lower case."""

    def encode(self, text):
        return [ord(char) for char in text.lower()]


def test_labels_that_have_the_same_tokens_are_refused():
    with pytest.raises(UserError, match=r"'Yes', 'YES': have the same tokens.*data.label_map"):
        label_trie(["Yes", "no", "YES"], Spelled())
    with pytest.raises(UserError, match=r"labels \(3 characters\), \(3 characters\): have the same tokens"):
        label_trie(["Yes", "no", "YES"], Spelled(), hide_labels=True)
    assert label_trie(["yes", "no", "no"], Spelled()).depth == 4
    for labels in ([], [(5,), (5,)]):
        with pytest.raises(ValueError, match="labels"):
            LabelTrie.of(labels)


def test_a_label_beyond_the_limit_is_refused():
    with pytest.raises(ValueError, match="4 tokens does not fit into 3"):
        greedy_decode(None, None, None, max_tokens=3, vocab_limit=40, trie=LabelTrie.of([(5, 6, 7)]))
    tokenizer = Tokenizer.train(["urgent", "not at all urgent"], 150)
    with pytest.raises(UserError, match="label_limit_tokens is 2"):
        FeatureEncoder(DataConfig(label_limit_tokens=2), tokenizer, ["urgent", "not at all urgent"])


# Against torch


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same weights here and in torch, and prompts [B, S] with their mask."""

    factory: T5Factory
    params: dict
    torch_model: object
    ids: np.ndarray
    mask: np.ndarray

    def labels(self, trie):
        def decode(params, ids, mask):
            model = self.factory.merge(params)
            encoded = model.encode(ids, mask)
            return greedy_decode(model, encoded, mask, max_tokens=LIMIT, vocab_limit=195, trie=trie)

        return jax.device_get(jax.jit(decode)(self.params, self.ids, self.mask))

    def torch_labels(self, labels):
        """Ids [B, LIMIT] of torch's generate under prefix_allowed_tokens_fn, without the start token."""
        torch = pytest.importorskip("torch")

        def allowed(row, written):
            return following(labels, written[1:].tolist()) or [0]

        with torch.no_grad():
            out = self.torch_model.generate(
                torch.tensor(self.ids, dtype=torch.long),
                attention_mask=torch.tensor(self.mask, dtype=torch.long),
                max_new_tokens=LIMIT,
                do_sample=False,
                num_beams=1,
                prefix_allowed_tokens_fn=allowed,
            ).numpy()[:, 1:]
        return np.pad(out, ((0, 0), (0, LIMIT - out.shape[1])))

    def torch_confidence(self, token_ids):
        """Mean log-probability [B] of what is written, end token included, among the allowed part of all 200 ids."""
        torch = pytest.importorskip("torch")
        given = np.asarray(shift_right(jnp.asarray(token_ids)))
        with torch.no_grad():
            logits = self.torch_model(
                input_ids=torch.tensor(self.ids, dtype=torch.long),
                attention_mask=torch.tensor(self.mask, dtype=torch.long),
                decoder_input_ids=torch.tensor(given, dtype=torch.long),
            ).logits[..., :195]
        log_probs = torch.log_softmax(logits, -1).numpy()
        taken = np.take_along_axis(log_probs, token_ids[..., None], axis=-1)[..., 0]
        ends = [ids.index(END) + 1 for ids in token_ids.tolist()]
        return np.array([row[:end].mean() for row, end in zip(taken, ends, strict=True)])


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    shape = T5Config(
        **SMALL | {"vocab_size": 200},
        num_decoder_layers=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    flat = flatten(random_weights(shape, seed=5))
    # So that a share of free texts ends within the limit.
    flat["head"][END] *= 2.5
    params = unflatten(flat)
    folder = tmp_path_factory.mktemp("pair") / "export"
    write_hf_folder(folder, shape, params, generation={})
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")
    rng = np.random.default_rng(6)
    lengths = rng.integers(2, 24, ROWS)
    mask = (np.arange(24) < lengths[:, None]).astype(np.int32)
    ids = (rng.integers(2, 195, (ROWS, 24)) * mask).astype(np.int32)
    return Pair(T5Factory(shape), params, model.eval(), ids, mask)


@pytest.fixture(scope="module")
def free(pair):
    return pair.labels(None)


def test_labels_equal_torchs_among_hundreds(pair, free):
    """The set has random labels, beginnings of others, and what half of the rows write freely."""
    own = [
        tuple(ids[:length].tolist())
        for ids, length, ends in zip(free.token_ids, free.lengths, free.finished, strict=True)
        if ends and length
    ]
    own = sorted(set(own))[::2]
    assert len(own) > 2
    beginnings = [ids[:-1] for ids in own if len(ids) > 1]
    label_set = sorted({*random_labels(3, 300, vocab=195), *own, *beginnings})
    found = pair.labels(LabelTrie.of(label_set))
    np.testing.assert_array_equal(found.token_ids, pair.torch_labels(with_end(label_set)))
    assert found.finished.all()
    written = [
        tuple(ids[:length].tolist()) for ids, length in zip(found.token_ids, found.lengths, strict=True)
    ]
    assert set(written) <= set(label_set)
    assert len(set(written)) > 8
    np.testing.assert_allclose(found.mean_log_prob, pair.torch_confidence(found.token_ids), atol=TOLERANCE)
    # Who writes a label anyway writes the same one, as sure as before.
    same = (found.token_ids == free.token_ids).all(axis=1)
    kept = [ends and tuple(ids[:length]) in own for ids, length, ends in zip(*free[:3], strict=True)]
    assert 0 < sum(kept) < ROWS
    assert same[np.array(kept)].all()
    assert not same.all()
    np.testing.assert_allclose(found.mean_log_prob[same], free.mean_log_prob[same], atol=1e-5)


def test_a_set_of_one_label_gives_it_always_and_tells_how_unlikely_it_is(pair, free):
    found = pair.labels(LabelTrie.of([(190, 12, 77)]))
    assert found.token_ids.tolist() == [[190, 12, 77, END, 0, 0, 0, 0]] * ROWS
    assert found.lengths.tolist() == [3] * ROWS
    np.testing.assert_allclose(found.mean_log_prob, pair.torch_confidence(found.token_ids), atol=TOLERANCE)
    assert found.mean_log_prob.mean() < free.mean_log_prob.mean() - 1


# As text, on eight devices, in training and in files

WORDS = ["acute", "chronic", "renal", "cardiac", "failure", "pain", "type 2", "not otherwise given"]
LABELS = tuple(
    sorted({*WORDS, *(f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS[2:6] if a != b)})
)


@pytest.fixture(scope="module")
def made():
    """A tokenizer, a model with random weights, and 16 rows."""
    tokenizer = Tokenizer.train(["predict: explain: given label: , 0123456789", *WORDS * 4], 200)
    encoder = FeatureEncoder(DataConfig(), tokenizer, LABELS)
    rng = np.random.default_rng(4)
    examples = [
        Example(str(row), " ".join(rng.choice(WORDS, rng.integers(1, 12))), LABELS[row], {})
        for row in range(16)
    ]
    shape = T5Config(**SMALL | {"vocab_size": -(-tokenizer.size // 8) * 8}, num_decoder_layers=1)
    card = ModelCard(
        shape=shape,
        labels=LABELS,
        label_tokens=encoder.label_tokens,
        input_limit_tokens=128,
        rationale_tokens=8,
        compute_dtype="float32",
        tokenizer_fingerprint=tokenizer.fingerprint,
        columns=ColumnsConfig(id="id"),
        rationale_prompt="none",
    )
    return LoadedModel(card, T5Factory(shape), random_weights(shape), tokenizer, "made"), encoder, examples


@pytest.fixture(scope="module")
def predicted(made):
    """Labels of the rows, decoded on one device."""
    return labels_on(made, make_mesh(MeshConfig(), jax.devices()[:1]))


def labels_on(made, mesh):
    model, encoder, examples = made
    trie = label_trie(LABELS, model.tokenizer)
    predictor = Predictor.of(model.factory, encoder, 8, "none", mesh, trie)
    features = predictor.features_of([example.question for example in examples])
    (batch,) = predictor.predict(model.params, features, len(examples))
    return batch


def test_devices_give_the_same_labels(made, predicted):
    assert len(LABELS) > 200
    assert {row.label for row in predicted} <= set(LABELS)
    assert len({row.label for row in predicted}) > 3
    spread = labels_on(made, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    assert [row.label for row in spread] == [row.label for row in predicted]
    assert all(row.label_finished for row in spread)
    for one, other in zip(spread, predicted, strict=True):
        assert one.label_confidence == pytest.approx(other.label_confidence, rel=1e-4)


@pytest.mark.parametrize("make_objective", [stage2_objective, r2dc_objective])
def test_labels_sampled_in_training_are_of_the_set(made, predicted, make_objective):
    """The decode of a stage-2 step on eight devices, when each row takes the predicted label."""
    model, encoder, examples = made
    shapes = encoder.shapes(rows := encoder.encode(examples, None))
    config = Stage2Config(max_steps=20, transition_fraction=0.05, max_sampling_probability=1.0)
    prompts, trie = encoder.prompts, label_trie(LABELS, model.tokenizer)
    context = StepContext(model.factory, prompts, model.tokenizer.size, label_trie=trie)
    objective, mesh = make_objective(context, config), make_mesh(MeshConfig())
    # Far above tau a label is used whatever its confidence.
    objective_state = objective.init_state()._replace(tau=jnp.float32(-100)) if objective.update_state else ()
    batch = encoder.features(rows, shapes).batch(np.arange(16)) | {"row": np.arange(16, dtype=np.int32)}

    def draw(params, batch):
        batch |= {"seed": jnp.int32(0)}
        return objective.draw(model.factory.merge(params), batch, jnp.int32(10), objective_state)

    drawn = jit_on_mesh(draw, mesh, in_shardings=(None, batch_sharding(mesh)))(
        model.params, shard_batch(batch, mesh)
    )
    drawn = jax.device_get({name: drawn[name] for name in (GIVEN_IDS, GIVEN_LENGTH, SAMPLED)})
    assert drawn[SAMPLED].all()
    given = [
        model.tokenizer.decode(ids[:length].tolist())
        for ids, length in zip(drawn[GIVEN_IDS], drawn[GIVEN_LENGTH], strict=True)
    ]
    assert given == [row.label for row in predicted]
    assert given != [example.label for example in examples]


@pytest.fixture(scope="module")
def exported(made, tmp_path_factory):
    """A model folder, rows with labels, and their questions."""
    model, _, examples = made
    home = tmp_path_factory.mktemp("exported")
    export_model(model, home / "model")
    rows = [
        {"id": one.row_id, "question": one.question, "label": one.label, "rationale": "r"} for one in examples
    ]
    (home / "rows.jsonl").write_text(as_lines(rows), encoding="utf-8")
    return home


def test_predict_and_eval_write_labels_of_the_set_only(exported, predicted, r2d, tmp_path):
    files = ("--model", exported / "model", "--input", exported / "rows.jsonl", "--batch-size", 16)
    decode = ("--label-decode", "constrained")
    r2d("predict", *files, "--output", tmp_path / "out.jsonl", *decode).done("16 predictions")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == [row.label for row in predicted]
    assert all(row["label_valid"] and row["label_finished"] for row in rows)
    r2d("eval", *files, "--output", tmp_path / "eval", *decode).done()
    metrics = json.loads((tmp_path / "eval/metrics.json").read_text())
    assert (metrics["invalid_fraction"], metrics["label_limit_fraction"]) == (0, 0)
    assert metrics["label_decode"] == "constrained"
    # The card says free, and such weights then write no label.
    r2d("eval", *files, "--output", tmp_path / "free").done()
    metrics = json.loads((tmp_path / "free/metrics.json").read_text())
    assert metrics["label_decode"] == "free"
    assert metrics["invalid_fraction"] > 0.5


def test_the_code_of_the_card_gives_the_same_labels_in_torch(made, exported, predicted, monkeypatch):
    torch = pytest.importorskip("torch")
    model, _, examples = made
    constrained = dataclasses.replace(model.card, label_decode="constrained")
    cards = {
        "free": usage_text(model.card, model.tokenizer),
        "constrained": usage_text(constrained, model.tokenizer),
    }
    code = {
        name: [part.split("```")[0] for part in text.split("```python\n")[1:]] for name, text in cards.items()
    }
    monkeypatch.chdir(exported / "model")
    assert [len(blocks) for blocks in code.values()] == [2, 1]
    assert cards["free"] in (exported / "model/README.md").read_text(encoding="utf-8")
    with torch.no_grad():
        for example, row in zip(examples[:6], predicted, strict=False):
            for blocks in code.values():
                told = []
                found = {"print": told.append}
                for block in blocks:
                    exec(compile(block.replace('"..."', repr(example.question)), "README", "exec"), found)
                assert found["decode"](found["label"]) == row.label
                assert len(told) == 1
    assert "none of these labels" not in cards["constrained"]
    assert "prefix_allowed" not in usage_text(dataclasses.replace(model.card, labels=()), model.tokenizer)


def test_what_cannot_be_constrained_is_told_before_the_weights_are_read(exported, r2d, tmp_path, made):
    card = made[0].card
    (tmp_path / MODEL_CARD).write_text(dataclasses.replace(card, labels=()).to_json(), encoding="utf-8")
    files = ("--model", tmp_path, "--input", exported / "rows.jsonl", "--output", tmp_path / "out")
    for command in ("predict", "eval"):
        told = r2d(command, *files, "--label-decode", "constrained")
        told.refused("--label-decode: constrained needs a label set", "Use free")
        r2d(command, *files, "--label-decode", "strict").refused(
            "'strict' is not known", "free or constrained"
        )
    assert not (tmp_path / "out").exists()


def test_a_run_hands_its_label_decode_on(tmp_path):
    size = ["data.triage.train_rows=40", "data.triage.validation_rows=8", "data.triage.test_rows=8"]
    prepared = {}
    for decode in ("free", "constrained"):
        config = load_config(None, ["data.source=triage", *size, f"label_decode={decode}"])
        prepared[decode] = prepare(config, Workdir(tmp_path / decode), make_mesh(config.mesh))
        assert read_card(tmp_path / decode).label_decode == decode
    run = prepared["constrained"]
    assert run.context.label_trie is run.predictor().programs.label_trie is run.label_trie
    assert run.label_trie.depth == run.shapes.label
    assert prepared["free"].context.label_trie is None
    assert prepared["free"].predictor().programs.label_trie is None


def test_a_card_of_an_older_folder_is_free(made, tmp_path):
    written = json.loads(dataclasses.replace(made[0].card, label_decode="constrained").to_json())
    assert written.pop("label_decode") == "constrained"
    (tmp_path / MODEL_CARD).write_text(json.dumps(written), encoding="utf-8")
    assert read_card(tmp_path).label_decode == "free"
