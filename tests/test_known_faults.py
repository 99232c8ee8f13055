"""Faults of the table in docs/known_faults.md that no other test guards against, and the table itself."""

import ast
import pathlib
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from t5_cases import SMALL, random_weights

from r2d_jax.config import EvaluationConfig, MeshConfig, OptimizerConfig, Stage1Config, Stage2Config, T5Config
from r2d_jax.config_file import load_config
from r2d_jax.data.features import FeatureEncoder
from r2d_jax.data.prompts import PromptBuilder, PromptTokens
from r2d_jax.data.schema import Example
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import Preempted, UserError
from r2d_jax.evaluation.convert import export_folder
from r2d_jax.evaluation.evaluate import evaluate_rows
from r2d_jax.evaluation.predict import Prediction, Predictor
from r2d_jax.model.greedy import Decoded
from r2d_jax.model.parameters import T5Factory
from r2d_jax.model.t5 import shift_right
from r2d_jax.runtime.mesh import make_mesh, put_flag, shard_batch
from r2d_jax.runtime.stop_signal import StopSignal
from r2d_jax.training import objectives, run, steps
from r2d_jax.training.loop import Progress, Selection, train
from r2d_jax.training.optimizer import make_optimizer
from r2d_jax.training.state import abstract_state, fresh_state

# Nearly all of the time goes into compiling, and what is compared was compiled alike.
pytestmark = pytest.mark.usefixtures("compiled_quickly")

ROOT = pathlib.Path(__file__).parents[1]
SHAPE = T5Config(**SMALL, num_decoder_layers=1)
ROWS, WIDTH = 8, 6


def batch_of_ones():
    ids = np.full((ROWS, WIDTH), 5, np.int32)
    lengths = np.full(ROWS, WIDTH, np.int32)
    names = ("question", "label", "rationale")
    arrays = {f"{name}_ids": ids.copy() for name in names} | {
        f"{name}_length": lengths.copy() for name in names
    }
    return arrays | {"row_weight": np.ones(ROWS, np.float32)}


def step_of(dtype, mesh):
    """A stage-1 step, a state for it, and a batch."""
    factory = T5Factory(SHAPE, dtype)
    tokens = PromptTokens((5, 6), (7, 6), (8, 6), (9,))
    context = objectives.StepContext(factory, PromptBuilder(tokens, WIDTH), SHAPE.vocab_size)
    config = Stage1Config(max_steps=4, batch_size=ROWS, optimizer=OptimizerConfig(learning_rate=1e-3))
    step_fn = steps.make_train_step(context, objectives.stage1_objective(context), config, mesh)
    optimizer = make_optimizer(config.optimizer, config.max_steps)
    params = jax.tree.map(jnp.asarray, random_weights(SHAPE))
    return step_fn, fresh_state(params, optimizer, mesh, 0), shard_batch(batch_of_ones(), mesh)


def test_float16_is_refused_everywhere(tmp_path):
    """B031: larger T5 models overflow in it."""
    with pytest.raises(UserError, match=r"compute_dtype.*float32"):
        load_config(None, ["data.source=triage", "model.compute_dtype=float16"])
    with pytest.raises(UserError, match=r"float16.*Use float32, bfloat16 or int8"):
        export_folder(tmp_path, tmp_path / "out", dtype="float16", overwrite=False)


def test_weights_and_moments_stay_float32_where_activations_are_bfloat16():
    """B032: an update of 0.001 to a weight of 1 is lost in bfloat16."""
    mesh = make_mesh(MeshConfig())
    step_fn, state, batch = step_of("bfloat16", mesh)
    after, metrics = jax.eval_shape(step_fn, state, batch)
    floats = [
        leaf.dtype for leaf in jax.tree.leaves((after, metrics)) if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    assert len(floats) > 40
    assert set(floats) == {jnp.dtype("float32")}


def test_decoder_inputs_are_shifted_once():
    """B036: exactly [pad, t1, t2] for [t1, t2, end]."""
    shifted = shift_right(jnp.array([[7, 8, 1], [9, 1, 0]], jnp.int32))
    assert shifted.tolist() == [[0, 7, 8], [0, 9, 1]]


def test_the_state_holds_each_buffer_once_and_gives_it_away():
    """B049: a tied embedding held twice cannot be donated, and a donated state must not be used again."""
    step_fn, state, batch = step_of("float32", make_mesh(MeshConfig()))
    leaves = jax.tree.leaves(state)
    buffers = [shard.data.unsafe_buffer_pointer() for leaf in leaves for shard in leaf.addressable_shards]
    assert len(set(buffers)) == len(buffers)
    assert [name for name in state.params if "head" in name] == []
    after, _ = step_fn(state, batch)
    assert any(leaf.is_deleted() for leaf in leaves)
    again, _ = step_fn(after, batch)
    assert int(again.step) == 2


def test_no_state_holds_a_random_key():
    """B063: keys in checkpoints break restores; here randomness follows from seed and step."""
    optimizer = make_optimizer(OptimizerConfig(), 10)
    abstract = abstract_state(T5Factory(SHAPE).abstract_params, optimizer, make_mesh(MeshConfig()))
    kinds = {leaf.dtype for leaf in jax.tree.leaves(abstract)}
    assert kinds == {jnp.dtype("float32"), jnp.dtype("int32")}


def test_devices_share_the_rows_of_a_batch_without_gap_or_overlap():
    """B080: every process makes the same global batch and places the rows of its own devices."""
    batch = {"row": np.arange(32, dtype=np.int32)}
    placed = shard_batch(batch, make_mesh(MeshConfig()))["row"]
    parts = [np.asarray(shard.data).tolist() for shard in placed.addressable_shards]
    assert len(parts) == len(jax.devices()) > 1
    assert sorted(row for part in parts for row in part) == list(range(32))


def test_a_stop_that_one_device_is_told_of_is_known_on_all():
    """Devices along the tensor axis hold the same rows, and may belong to processes that are told different things."""
    mesh = make_mesh(MeshConfig(2, 2, 2))
    step_fn, state, batch = step_of("float32", mesh)
    flag = put_flag(False, mesh)
    parts = [shard.data for shard in flag.addressable_shards]
    parts[-1] = parts[-1] + 1
    told = jax.make_array_from_single_device_arrays(flag.shape, flag.sharding, parts)
    metrics = step_fn(state, batch | {steps.STOP: told})[1]
    assert [int(shard.data) for shard in metrics[steps.STOP].addressable_shards] == [1] * len(parts)


def test_a_rationale_never_changes_the_label():
    """B087: the label is what the label decode gives, whatever the rationale concludes."""
    tokenizer = Tokenizer.train(["predict: explain: given label: yes no", "so the answer is no"], 300)
    encoder = FeatureEncoder(load_config(None, ["data.source=triage"]).data, tokenizer, ["yes", "no"])
    predictor = Predictor.of(T5Factory(SHAPE), encoder, 16, "given_label", make_mesh(MeshConfig()))

    def decoded(text):
        ids = [*tokenizer.encode(text), 1]
        ones = np.ones(ROWS)
        return Decoded(np.array([ids] * ROWS), np.full(ROWS, len(ids) - 1), ones > 0, -ones)

    predictor.programs.__dict__["encode_questions"] = lambda params, batch: batch

    predictor.programs.__dict__["decode_labels"] = lambda params, batch: decoded("yes")
    predictor.programs.__dict__["decode_rationales"] = lambda *_: decoded("no, so the answer is no")
    ((prediction,),) = predictor.predict(None, predictor.features_of(["why?"]), batch_size=ROWS)
    assert (prediction.label, prediction.rationale) == ("yes", "no, so the answer is no")


class Recorder:
    """Stands for checkpoints and for the reporter: keeps the steps that are saved."""

    stage = "stage1"

    def __init__(self):
        self.saved, self.best = [], []

    def save_latest(self, step, *_):
        # A step that is saved already is not saved again.
        if self.saved[-1:] != [step]:
            self.saved.append(step)

    def save_best(self, step, *_):
        self.best.append(step)

    def __getattr__(self, name):
        return lambda *_: None


def run_loop(
    losses, told, *, stop_in_evaluation=False, patience_evals=9, log_every_steps=1, broken="loss", score=1.0
):
    """The training loop over steps of these losses, with an evaluation and a save at every second.

    broken="grad_norm" gives each of these values to the norm of the gradients instead, beside a sound loss.
    """
    stop, given = StopSignal(), iter(losses)

    def step_fn(state, batch):
        after = types.SimpleNamespace(step=state.step + 1, params=None, opt_state=None, objective_state=())
        sound = {"loss": jnp.float32(1.0), "grad_norm": jnp.float32(1.0)}
        return after, sound | {broken: jnp.float32(next(given)), steps.STOP: jnp.int32(0)}

    def evaluate(params, step, check_stop):
        stop.requested = stop_in_evaluation
        check_stop()
        return {"score": score**step}

    config = Stage2Config(
        max_steps=len(losses),
        batch_size=ROWS,
        eval_every_steps=2,
        save_every_steps=2,
        log_every_steps=log_every_steps,
        patience_evals=patience_evals,
    )
    state = types.SimpleNamespace(step=0, params=None, opt_state=None, objective_state=())
    train(
        config,
        step_fn=step_fn,
        batches=lambda start: iter([batch_of_ones() for _ in losses]),
        evaluate=evaluate,
        selection=Selection("score", higher_is_better=True),
        state=state,
        progress=Progress(),
        checkpoints=told,
        reporter=told,
        mesh=make_mesh(MeshConfig()),
        stop=stop,
    )


def test_the_first_loss_that_is_not_finite_ends_the_run():
    """B031: the message names stage and step, and nothing is saved from there on."""
    sound, broken = Recorder(), Recorder()
    run_loop([2.0, 1.5, 1.2, 1.1], sound)
    assert sound.saved == [2, 4]
    with pytest.raises(UserError, match=r"stage1, step 4: the loss is not finite"):
        run_loop([2.0, 1.5, 1.2, float("nan"), 1.0, 1.0], broken)
    assert broken.saved == [2]


@pytest.mark.parametrize("broken", ["loss", "grad_norm"])
def test_what_is_not_finite_is_not_saved_between_two_logs(broken):
    """An evaluation forgot the steps since the last log, and the checkpoint after it held broken weights."""
    told = Recorder()
    # The third is the first of two since the evaluation before; the fourth is finite again.
    with pytest.raises(UserError, match=r"stage1, step 3: .* is not finite"):
        run_loop([2.0, 1.5, float("nan"), 1.0, 1.0, 1.0], told, log_every_steps=6, broken=broken, score=0.5)
    assert (told.saved, told.best) == ([2], [2])


def test_the_last_step_is_evaluated_and_patience_ends_a_run_at_once():
    """All scores are ties: each moves the best checkpoint, and none but the first is an improvement."""
    whole, impatient = Recorder(), Recorder()
    run_loop([2.0] * 5, whole)
    assert (whole.best, whole.saved) == ([2, 4, 5], [2, 4, 5])
    run_loop([2.0] * 9, impatient, patience_evals=2)
    assert (impatient.best, impatient.saved) == ([2, 4, 6], [2, 4, 6])


def test_a_stop_during_an_evaluation_saves_first():
    """B065: a signal was only looked at between steps, so that evaluations lost it."""
    told = Recorder()
    with pytest.raises(Preempted, match="stopped at step 2"):
        run_loop([2.0, 1.5, 1.2, 1.1], told, stop_in_evaluation=True)
    assert told.saved == [2]


def test_a_test_evaluation_looks_at_the_stop_between_batches_and_around_the_scoring(tmp_path):
    """B065: two batches, then BERTScore and intervals, which may take minutes."""
    rows = [Example(str(row), "fever", "rash", {}) for row in range(2)]
    predictor = types.SimpleNamespace(
        predict=lambda *_, **__: iter([[Prediction("rash", True, 0.5)]] * 2),
        explains=False,
        programs=types.SimpleNamespace(label_trie=None),
    )
    card = types.SimpleNamespace(labels=("rash", "cough"))
    model = types.SimpleNamespace(card=card, params=None, source="a model")
    settings, stops = EvaluationConfig(probabilities=False, resamples=0), []
    evaluate_rows(
        model,
        predictor,
        rows,
        None,
        None,
        settings=settings,
        folder=tmp_path,
        check_stop=lambda: stops.append(1),
    )
    assert len(stops) == 4


@pytest.mark.parametrize("part", ["_calibrated", "evaluate_rows"])
def test_a_stop_after_the_training_ends_the_run_unfinished(monkeypatch, part):
    """B065: the signal is held back then, so that only what looks at it can end the run."""
    stop = StopSignal()

    def stopped(*positional, check_stop=None, **_):
        look = check_stop or positional[-1]
        look()
        stop.requested = True
        look()

    prepared = types.SimpleNamespace(
        mesh=None, splits=types.SimpleNamespace(test=()), test=None, sources={2: None}, predictor=lambda: None
    )
    for name, value in {
        "start": prepared,
        "stage_configs": {},
        "StopSignal": stop,
        "load_model": types.SimpleNamespace(source="a model"),
        "load_calibration": None,
        "_has_export": False,
        "_calibrated": None,
        "evaluate_rows": None,
    }.items():
        monkeypatch.setattr(run, name, lambda *_, value=value, **__: value)
    monkeypatch.setattr(run, part, stopped)
    monkeypatch.setattr(run, "export_model", lambda *_, **__: pytest.fail("went on"))
    workdir = types.SimpleNamespace(finished=False, path=None, evaluation=None)
    with pytest.raises(Preempted, match="stopped during the test evaluation"):
        run._run(types.SimpleNamespace(evaluation=None), workdir, Console(quiet=True), None)


def rows_of_the_table():
    text = (ROOT / "docs" / "known_faults.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if row[0] != "source" and not row[0].startswith("---")]


def test_every_test_that_the_table_names_is_there():
    names = {
        f"{path.name}::{node.name}"
        for path in (ROOT / "tests").glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    rows = rows_of_the_table()
    # A row goes with its fault only.
    assert len(rows) == 91
    for source, fault, here, guard in rows:
        assert re.match(r"[\w.-]+/[\w.-]+#\d+", source), source
        assert fault
        assert here
        named = re.findall(r"`(test_\w+\.py::\w+)`", guard)
        assert [name for name in named if name not in names] == [], source
        assert named or guard.startswith(("cannot occur", "no test")), (source, guard)
    assert len({row[0] for row in rows}) == len(rows)


def test_the_readme_links_the_table():
    assert "(docs/known_faults.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
