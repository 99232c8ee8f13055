"""Checkpoints: complete or ignored, restored into today's layout, weights alone, faults named."""

import hashlib
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from r2d_jax.config import MeshConfig, OptimizerConfig, T5Config
from r2d_jax.errors import UserError
from r2d_jax.model.parameters import T5Factory, flatten, unflatten
from r2d_jax.runtime import checksums
from r2d_jax.runtime.checkpoint import StageCheckpoints
from r2d_jax.runtime.checkpoint_files import best_step, complete_steps, restore_params, save_params
from r2d_jax.runtime.checksums import checksum
from r2d_jax.runtime.mesh import make_mesh, tree_shardings, with_shardings
from r2d_jax.training.optimizer import make_optimizer
from r2d_jax.training.state import abstract_state, fresh_state
from r2d_jax.training.workdir import Workdir

# Nearly all of the time goes into compiling, and what is compared was compiled alike.
pytestmark = pytest.mark.usefixtures("compiled_quickly")

SHAPE = T5Config(vocab_size=64, d_model=16, d_ff=24, d_kv=8, num_heads=2, num_layers=1, num_decoder_layers=2)
FACTORY = T5Factory(SHAPE)
HASH = "0123abcd"
OPTIMIZER = make_optimizer(OptimizerConfig(), 10)


@pytest.fixture(scope="module")
def state():
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    fresh = fresh_state(FACTORY.init(jax.random.key(0)), OPTIMIZER, mesh, 0)
    gradients = jax.tree.map(jnp.ones_like, fresh.params)
    _, opt_state = OPTIMIZER.update(gradients, fresh.opt_state, fresh.params)
    return fresh._replace(opt_state=opt_state)


def targets(mesh):
    wanted = abstract_state(FACTORY.abstract_params, OPTIMIZER, mesh)
    return wanted.params, wanted.opt_state


def one_device():
    axes = (jax.sharding.AxisType.Auto,) * 3
    return jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"), devices=jax.devices()[:1], axis_types=axes)


def save(folder, state, *steps):
    checkpoints = StageCheckpoints(folder, HASH)
    for step in steps:
        checkpoints.save_latest(
            step, state.params, state.opt_state, {"best_score": 0.5, "last_eval_step": step}
        )
    checkpoints.close()


def assert_equal_trees(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("layout", ["one device", "8x1x1", "2x2x2"])
def test_a_restore_is_bit_equal_in_any_layout_and_typed(tmp_path, state, layout, recwarn):
    """B053, B061: saved on 1x4x2 devices."""
    save(tmp_path, state, 7)
    mesh = {
        "one device": one_device,
        "8x1x1": lambda: make_mesh(MeshConfig()),
        "2x2x2": lambda: make_mesh(MeshConfig(2, 2, 2)),
    }[layout]()
    step, params, opt_state, progress, objective_state = StageCheckpoints(tmp_path, HASH).restore_latest(
        print, *targets(mesh)
    )
    assert (step, objective_state) == (7, ())
    assert progress == {"best_score": 0.5, "last_eval_step": 7}
    assert_equal_trees(params, state.params)
    assert_equal_trees(opt_state, state.opt_state)
    assert {leaf.sharding.mesh.shape_tuple for leaf in jax.tree.leaves(params)} == {mesh.shape_tuple}
    assert not [warning for warning in recwarn if "layout" in str(warning.message)]
    OPTIMIZER.update(jax.tree.map(jnp.ones_like, params), opt_state, params)


def test_the_two_newest_are_kept_and_a_stored_step_is_not_saved_twice(tmp_path, state):
    """B055."""
    save(tmp_path, state, 1, 2, 3)
    assert complete_steps(tmp_path / "latest") == [2, 3]
    before = (tmp_path / "latest" / "3" / "_CHECKPOINT_METADATA").stat().st_mtime_ns
    save(tmp_path, state, 3)
    assert (tmp_path / "latest" / "3" / "_CHECKPOINT_METADATA").stat().st_mtime_ns == before


def test_half_written_and_foreign_folders_are_passed_over(tmp_path, state):
    """B058: valid step 10, leftover temporary folder, empty folder 30."""
    save(tmp_path, state, 10)
    (tmp_path / "latest" / "30").mkdir()
    (tmp_path / "latest" / "20.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "latest" / "notes").mkdir()
    # All but the file that is written last.
    shutil.copytree(tmp_path / "latest" / "10", tmp_path / "latest" / "40")
    (tmp_path / "latest" / "40" / "_CHECKPOINT_METADATA").unlink()
    checkpoints = StageCheckpoints(tmp_path, HASH)
    assert checkpoints.latest_step() == 10
    assert checkpoints.half_written() == [tmp_path / "latest" / "30", tmp_path / "latest" / "40"]
    # Orbax removes the leftover folder in the background; two that do so at once can meet.
    checkpoints.close()
    save(tmp_path, state, 12)
    assert StageCheckpoints(tmp_path, HASH).latest_step() == 12


def test_foreign_folders_do_not_count_among_those_that_are_kept(tmp_path, state):
    save(tmp_path, state, 1, 2)
    for foreign in (30, 40):
        (tmp_path / "latest" / str(foreign)).mkdir()
    save(tmp_path, state, 3)
    assert complete_steps(tmp_path / "latest") == [2, 3]
    # Whose they are is not known, so they stay; but a step of the same number is written over one.
    assert (tmp_path / "latest" / "40").is_dir()
    save(tmp_path, state, 30, 31, 32)
    assert complete_steps(tmp_path / "latest") == [31, 32]


def test_best_is_apart_from_latest(tmp_path, state):
    checkpoints = StageCheckpoints(tmp_path, HASH)
    checkpoints.save_best(4, state.params, {"score": 1})
    checkpoints.save_best(8, state.params, {"score": 2})
    for step in (10, 12, 14):
        checkpoints.save_latest(step, state.params, state.opt_state, {})
    checkpoints.close()
    assert best_step(tmp_path) == 8
    assert complete_steps(tmp_path / "best") == [8]
    assert complete_steps(tmp_path / "latest") == [12, 14]


def test_the_weights_of_a_step_that_is_saved_twice_are_summed_once(tmp_path, state, monkeypatch):
    """As the best and as what the run goes on from; T5-large has 3 GB of them."""
    summed = []

    def counted(tree):
        summed.append(len(jax.tree.leaves(tree)))
        return checksum(tree)

    monkeypatch.setattr("r2d_jax.runtime.checkpoint_files.checksum", counted)
    checkpoints, count = StageCheckpoints(tmp_path, HASH), len(jax.tree.leaves(state.params))
    other = jax.tree.map(jnp.zeros_like, state.params)
    for step, params in ((4, state.params), (8, other)):
        checkpoints.save_latest(step, params, state.opt_state, {})
        checkpoints.save_best(step, params, {})
    assert summed.count(count) == 2
    # Of a step that was not the last to be saved.
    checkpoints.save_best(4, state.params, {})
    checkpoints.close()
    assert summed.count(count) == 3
    for folder, wanted in (("latest/4", state.params), ("latest/8", other), ("best/4", state.params)):
        assert_equal_trees(restore_params(tmp_path / folder, targets(one_device())[0]), wanted)


def test_weights_are_read_without_the_optimiser(tmp_path, state):
    """B059."""
    save(tmp_path, state, 5)
    folder = tmp_path / "latest" / "5"
    for file in (folder / "opt_state").rglob("*"):
        if file.is_file():
            file.unlink()
    params = restore_params(folder, targets(one_device())[0])
    assert_equal_trees(params, state.params)
    assert checksum(params) == checksum(state.params)


def test_another_shape_is_refused_by_name(tmp_path, state):
    """B060: 2 decoder layers into 3, and a wrong size."""
    save_params(tmp_path / "weights", state.params)
    deeper = T5Factory(T5Config(**{**vars_of(SHAPE), "num_decoder_layers": 3, "d_ff": 32}))
    with pytest.raises(UserError) as error:
        restore_params(tmp_path / "weights", with_shardings(deeper.abstract_params, one_device()))
    assert "missing decoder/blocks/2/cross_attention/k/kernel (16, 16)" in str(error.value)
    assert "encoder/blocks/0/feed_forward/wi/kernel is (16, 24), not (16, 32)" in str(error.value)


def test_weights_that_the_model_has_not_are_refused_by_name(tmp_path, state):
    """B060: a block or a head too many would be left out without a word."""
    save_params(tmp_path / "weights", state.params)
    shallower = T5Factory(T5Config(**{**vars_of(SHAPE), "num_decoder_layers": 1}))
    with pytest.raises(UserError) as error:
        restore_params(tmp_path / "weights", with_shardings(shallower.abstract_params, one_device()))
    told = re.findall(r"unexpected (\S+) \(", str(error.value))
    assert told == [name for name in flatten(state.params) if name.startswith("decoder/blocks/1/")]
    assert not re.search(r"missing|, not", str(error.value))


def test_a_relative_folder_stays_where_it_was(tmp_path, state, monkeypatch):
    """B056: Orbax takes absolute paths alone, and a program may change its folder."""
    monkeypatch.chdir(tmp_path)
    folder = pathlib.Path("runs/one")
    workdir = Workdir(folder)
    save(folder, state, 3)
    save_params(pathlib.Path("weights"), state.params)
    wanted = targets(one_device())
    step, *_ = StageCheckpoints(folder, HASH).restore_latest(print, *wanted)
    assert step == 3
    for relative in (pathlib.Path("weights"), folder / "latest" / "3"):
        assert checksum(restore_params(relative, wanted[0])) == checksum(state.params)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert workdir.path == tmp_path / "runs" / "one"


def test_a_training_state_of_another_shape_is_refused_by_name(tmp_path, state):
    save(tmp_path, state, 5)
    deeper = T5Factory(T5Config(**{**vars_of(SHAPE), "num_decoder_layers": 3}))
    wanted = with_shardings(deeper.abstract_params, one_device())
    with pytest.raises(UserError, match="missing decoder/blocks/2/cross_attention/k/kernel"):
        StageCheckpoints(tmp_path, HASH).restore_latest(print, wanted, targets(one_device())[1])


def flip_a_bit(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def halved(data):
    return data[: len(data) // 2]


def a_bit_flipped(data):
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


DAMAGES = {
    "description": ("_CHECKPOINT_METADATA", lambda data: bytes(len(data))),
    "list of weights": ("params/_METADATA", halved),
    "manifest": ("opt_state/manifest.ocdbt", lambda data: b""),
    "values cut": ("params/ocdbt.process_0/d/*", halved),
    # In the values themselves, of which Orbax keeps no checksum.
    "a flipped bit": ("params/ocdbt.process_0/d/*", a_bit_flipped),
}


def spoil(folder, damage):
    pattern, how = DAMAGES[damage]
    (file,) = folder.glob(pattern)
    file.write_bytes(how(file.read_bytes()))


def on_one_device(state):
    """There the values have a file of their own."""
    return jax.device_put(state, jax.tree.map(lambda _: jax.sharding.NamedSharding(one_device(), P()), state))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(tmp_path, state, damage):
    """It stopped the run with advice that did not help, or a traceback; a flipped bit was trained on in silence."""
    state = on_one_device(state)
    save(tmp_path, state, 4, 8)
    spoil(tmp_path / "latest" / "8", damage)
    told = []
    checkpoints = StageCheckpoints(tmp_path, HASH)
    step, params, opt_state, progress, _ = checkpoints.restore_latest(told.append, *targets(one_device()))
    assert (step, progress["last_eval_step"]) == (4, 4)
    assert_equal_trees(params, state.params)
    assert_equal_trees(opt_state, state.opt_state)
    assert len(told) == 1
    assert told[0].startswith(f"warning: {tmp_path / 'latest' / '8'} is passed over: ")
    # The same step again takes the place of the damaged one.
    checkpoints.save_latest(8, state.params, state.opt_state, {"last_eval_step": 8})
    checkpoints.close()
    assert StageCheckpoints(tmp_path, HASH).restore_latest(print, *targets(one_device()))[0] == 8


def test_where_no_checkpoint_is_whole_nothing_is_trained(tmp_path, state):
    save(tmp_path, state, 4, 8)
    for step in (4, 8):
        (tmp_path / "latest" / str(step) / "params" / "_METADATA").write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint in it can be read\. Restore it from a copy"):
        StageCheckpoints(tmp_path, HASH).restore_latest(print, *targets(one_device()))


def test_damaged_weights_are_refused_and_a_lack_of_memory_is_no_damage(tmp_path, state, monkeypatch):
    state = on_one_device(state)
    save_params(tmp_path / "weights", state.params)
    wanted = targets(one_device())[0]
    spoil(tmp_path / "weights", "a flipped bit")
    with pytest.raises(UserError, match="its params are not what was written"):
        restore_params(tmp_path / "weights", wanted)
    save_params(tmp_path / "weights", state.params)

    def short(*_):
        raise ValueError("load failed") from jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr("r2d_jax.runtime.checkpoint_files.ocp.load_checkpointables", short)
    with pytest.raises(ValueError, match="load failed"):
        restore_params(tmp_path / "weights", wanted)


def test_the_checksum_is_that_of_any_layout_and_sees_what_changed_places(state):
    """Against a count by hand: words times odd numbers in order, modulo 2^32."""
    values = np.array([[1.5, -2.0, 0.0], [3.25, 1e-30, 7.0]], np.float32)
    words = values.view(np.uint32).ravel().astype(object)
    total = sum(int(word) * (2 * place + 1) for place, word in enumerate(words)) % 2**32
    digest = hashlib.sha256(f"['w'] float32 (2, 3) {total}\n".encode()).hexdigest()[:16]
    assert checksum({"w": jnp.asarray(values)}) == digest
    assert checksum({"w": jnp.asarray(values[:, [1, 0, 2]])}) != digest
    assert checksum({"w": jnp.asarray(values).astype(jnp.bfloat16)}) != digest
    assert checksum({"w": jnp.array([True, False])}) != checksum({"w": jnp.array([False, True])})
    spread = jax.device_put(state.params, tree_shardings(state.params, make_mesh(MeshConfig(2, 2, 2))))
    assert checksum(spread) == checksum(jax.device_get(state.params)) == checksum(state.params)


def test_what_is_not_finite_is_found_in_any_layout_by_a_program_for_each_shape(state):
    """One for each shape on each of eight devices took eleven seconds to compile."""
    mesh = make_mesh(MeshConfig(2, 2, 2))
    params = jax.tree.map(np.array, jax.device_get(state.params))
    params["encoder"]["final_norm"]["scale"][-1] = np.inf
    spread = jax.device_put(params, tree_shardings(params, mesh))
    kinds = {(leaf.shape, leaf.sharding) for leaf in jax.tree.leaves(spread)}
    before = checksums._is_unsound._cache_size()
    assert checksums.not_finite(spread) == ["encoder/final_norm/scale"]
    assert checksums._is_unsound._cache_size() <= before + len(kinds)
    assert checksums.not_finite(jax.device_put(state.params, tree_shardings(params, mesh))) == []


def test_a_checkpoint_of_another_config_is_refused(tmp_path, state):
    save(tmp_path, state, 5)
    with pytest.raises(UserError, match=f"another config .hash {HASH}, here other"):
        StageCheckpoints(tmp_path, "other").restore_latest(print, *targets(one_device()))


def vars_of(shape):
    return {name: getattr(shape, name) for name in shape.__dataclass_fields__}


def test_weights_on_the_host_are_summed_one_array_after_the_other(monkeypatch):
    """Those of `r2d import` may be more than a GPU holds."""
    seen, parts = [], checksums._parts

    def counted(array):
        seen.append(sum(there.shape == (1237,) for there in jax.live_arrays()))
        return parts(array)

    monkeypatch.setattr(checksums, "_parts", counted)
    weights = {str(number): np.full(1237, number, np.float32) for number in range(6)}
    assert checksum(weights) == checksum(jax.tree.map(jnp.asarray, weights))
    assert max(seen[:6]) <= 2


def test_the_checksum_depends_on_every_weight(state):
    """B046: on the last bit of each, and on which of them it is."""
    flat = {name: np.array(leaf) for name, leaf in flatten(state.params).items()}
    assert len(flat) > 20
    found = {checksum(unflatten(flat))}
    assert found == {checksum(state.params)}
    for name, leaf in flat.items():
        changed = leaf.copy()
        changed.reshape(-1)[-1] = np.nextafter(changed.reshape(-1)[-1], np.float32(9))
        found.add(checksum(unflatten(flat | {name: changed})))
    assert len(found) == 1 + len(flat)
    block = "encoder/blocks/0/attention"
    swapped = {f"{block}/q/kernel": flat[f"{block}/k/kernel"], f"{block}/k/kernel": flat[f"{block}/q/kernel"]}
    assert checksum(unflatten(flat | swapped)) not in found
