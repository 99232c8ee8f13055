"""Compiling for TPU slices that are not here: shapes, traffic by hand, faults, and one real compile by libtpu."""

import importlib.util
import json
import math
import subprocess
import sys

import pytest

pytest_plugins = ["cli_cases"]

import jax
import jax.numpy as jnp
from cli_cases import ROOT

from r2d_jax.config import MeshConfig
from r2d_jax.config_file import load_config
from r2d_jax.errors import UserError
from r2d_jax.model.known_shapes import known_shape
from r2d_jax.model.parameters import T5Factory
from r2d_jax.runtime.mesh import make_mesh
from r2d_jax.training import topology as topology_module
from r2d_jax.training.objectives import LABEL_WEIGHT
from r2d_jax.training.topology import chip_of, out_of_memory, planned_memory, run_shapes, topology_devices
from r2d_jax.training.traffic import collective_traffic
from r2d_jax.training.work import matmul_flops

# Published sizes in millions of weights, the 1.1 and Flan models with a head of their own.
SIZES = {
    "google-t5/t5-small": 60.5,
    "google-t5/t5-base": 222.9,
    "google-t5/t5-large": 737.7,
    "google/flan-t5-small": 77.0,
    "google/flan-t5-base": 247.6,
    "google/flan-t5-large": 783.2,
    "google/flan-t5-xl": 2849.8,
    "google/flan-t5-xxl": 11135.3,
}


@pytest.mark.parametrize(("name", "millions"), SIZES.items())
def test_known_shapes_have_the_published_number_of_weights(name, millions):
    leaves = jax.tree.leaves(T5Factory(known_shape(name)).abstract_params)
    assert sum(math.prod(leaf.shape) for leaf in leaves) / 1e6 == pytest.approx(millions, abs=0.1)


def test_an_unknown_name_has_no_shape():
    assert known_shape("google/mt5-base") is None
    assert known_shape("t5-huge") is None


def test_traffic_by_hand():
    text = """
      %a = f32[8,128]{1,0} all-reduce(f32[8,128]{1,0} %x), replica_groups={}
      %b = (bf16[4,2]{1,0}, bf16[32,2]{1,0}) all-gather-start(bf16[4,2]{1,0} %y), dimensions={0}
      %c = bf16[32,2]{1,0} all-gather-done((bf16[4,2]{1,0}, bf16[32,2]{1,0}) %b)
      %d = (f32[]{:T(128)}, /*index=1*/f32[10]{0}) all-reduce(f32[] %p, f32[10]{0} %q), to_apply=%add
      %e = pred[16]{0} all-to-all(pred[16]{0} %m)
      %f = f32[8,128]{1,0} add(f32[8,128]{1,0} %a, f32[8,128]{1,0} %a)
      %g = f32[4]{0} reduce-scatter(%f), replica_groups=mesh['x'=8,'y'=2] {'x'}, to_apply=%add
      %h = f32[4]{0} reduce-scatter(%g), replica_groups=[2,4]<=[8], to_apply=%add
      %i = f32[4]{0} reduce-scatter(%h), replica_groups={{0,1},{2,3}}, to_apply=%add
    """
    assert collective_traffic(text) == {
        "all-gather": (1, 32 * 2 * 2),
        "all-reduce": (2, 8 * 128 * 4 + 4 + 40),
        "all-to-all": (1, 16),
        "reduce-scatter": (3, 16 * (8 + 4 + 2)),
    }


@pytest.mark.parametrize(
    ("operation", "size"),
    [
        ("(f32[8]{0}, f32[2]{0:T(256)}) all-reduce-start(f32[8]{0} %x, f32[2]{0} %y), to_apply=%add", 40),
        ("f32[8]{0} all-reduce-start(f32[8]{0} %x), to_apply=%add", 32),
        ("((f32[4]{0}, f32[2]{0}), (f32[32]{0}, f32[16]{0})) all-gather-start(%x, %y), dimensions={0}", 192),
        ("(bf16[4,2]{1,0:T(8,128)(2,1)}, bf16[32,2]{1,0}, u32[], u32[]) all-gather-start(%x)", 128),
        ("(f32[4]{0}, f32[4]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x)", 16),
        ("((f32[4]{0}, f32[4]{0}), (f32[4]{0}, f32[4]{0}), u32[]) all-to-all-start(%x, %y)", 32),
        ("((f32[8]{0}, f32[16]{0}), (f32[2]{0}, f32[4]{0}), u32[]) reduce-scatter-start(%x, %y)", 96),
    ],
)
def test_traffic_that_is_started_counts_every_array_once(operation, size):
    """Of several arrays in one operation the largest alone was counted."""
    ((_, traffic),) = collective_traffic(f"  %a = {operation}").items()
    assert traffic == (1, size)


LOOPS = """
HloModule m

%limit (p: (s32[])) -> pred[] {
  %most = s32[]{:T(128)} constant(5)
  ROOT %go = pred[] compare(%i, %most), direction=LT
}

%fused (q: f32[2]) -> f32[8] {
  ROOT %w = f32[8]{0} all-gather(%q), channel_id=7, replica_groups={}
}

%clone (q: f32[2]) -> f32[8] {
  ROOT %w = f32[8]{0} all-gather(%q), channel_id=7, replica_groups={}
}

%body (p: (s32[])) -> (s32[]) {
  %a = f32[8]{0} fusion(%x), kind=kCustom, calls=%fused
  %b = f32[8]{0} fusion(%x), kind=kCustom, calls=%clone
}

ENTRY %main (x: f32[2]) -> f32[] {
  %loop = (s32[]{:T(128)}) while(%t), condition=%limit, body=%body, metadata={}
  %once = f32[]{:T(128)} all-reduce(%y), channel_id=9, to_apply=%add
}
"""


def test_traffic_in_loops_counts_as_often_as_they_turn_and_once_by_channel():
    assert collective_traffic(LOOPS) == {"all-gather": (5, 5 * 32), "all-reduce": (1, 4)}


def test_work_by_hand():
    def step(weight, x):
        def body(carry, _):
            return jax.checkpoint(lambda y: jnp.tanh(y @ weight) @ weight)(carry), None

        once = jax.lax.scan(body, x, length=3)[0]
        again = jax.lax.while_loop(
            lambda loop: (loop[0] < 10) & (loop[1][0, 0] < 1) & (jnp.sum(loop[1] > 0) < 2),
            lambda loop: (loop[0] + 1, loop[1] @ weight),
            (jnp.int32(0), once),
        )[1]
        again = jax.lax.while_loop(lambda y: y[0, 0] < 1, lambda y: y @ weight, again)
        return jnp.sum(jax.lax.cond(x[0, 0] > 0, lambda: again @ weight, lambda: again))

    weight, x = jax.ShapeDtypeStruct((8, 8), jnp.float32), jax.ShapeDtypeStruct((4, 8), jnp.float32)
    product = 2 * 4 * 8 * 8
    assert matmul_flops(jax.jit(step), weight, x) == product * (2 * 3 + 10 + 1 + 1)

    def loss(weight, x):
        return jnp.sum(jax.checkpoint(lambda y: jnp.tanh(y @ weight) @ weight)(x))

    # Two products forward, the first again, two each for the gradients of both, but not that of x.
    assert matmul_flops(jax.grad(loss), weight, x) == product * (2 + 1 + 2 * 2 - 1)


def test_memory_is_that_of_the_fullest_moment(libtpu):
    """The sum said 17.5 GiB of 16 of a program that takes 11.4."""
    one = jax.sharding.SingleDeviceSharding(topology_devices("v5e:2x2")[0])

    def program(x, total):
        for _ in range(4):
            y = jnp.tanh(x @ x)
            # What is made of x, and x: two arrays are alive at once, of the four that there are.
            total = total + jnp.sum(y @ y.T)
            x = y
        return total

    size = 8192 * 8192 * 2
    arguments = [jax.ShapeDtypeStruct((8192, 8192), jnp.bfloat16)] * 2
    jitted = jax.jit(program, in_shardings=one, out_shardings=one, donate_argnums=1)
    memory = planned_memory(jitted.lower(*arguments).compile())
    assert (memory.arguments, memory.outputs) == (2 * size, 0)
    assert memory.temporaries == pytest.approx(2 * size, rel=0.1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Used 38.32G of 15.75G hbm.",
            "needs 38.32G of HBM",
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
            "(18.07G) exceeds available HBM (15.75G).",
            "needs 18.07G beside its arguments of HBM, a chip has 15.75G",
        ),
    ],
)
def test_too_little_memory_is_advice_however_the_compiler_says_it(text, told):
    assert told in str(out_of_memory("stage-1 step", text))
    assert out_of_memory("stage-1 step", "INTERNAL: mosaic failed") is None


def test_prompts_fill_the_input_limit():
    config = load_config(ROOT / "configs" / "pubmedqa_t5_large.yaml")
    shapes = run_shapes(config.data)
    # given label (4) + label (8) + explain (5) + end.
    assert (shapes.question, shapes.label, shapes.rationale) == (1024 - 18, 8, 256)


def programs_of(monkeypatch, *overrides):
    """What would be compiled for eight chips, by name: the step's context in place of a step, and the arguments."""
    monkeypatch.setattr(topology_module, "topology_devices", lambda _: jax.devices())
    monkeypatch.setattr(topology_module, "make_train_step", lambda context, *_: context)
    monkeypatch.setattr(topology_module, "_compiled", lambda name, mesh, *program: (name, program))
    config = load_config(
        ROOT / "configs" / "debug_cpu.yaml", ["evaluation.batch_size=16", "mesh.data=8", *overrides]
    )
    return dict(topology_module.compile_programs(config, "v5e:2x4", lambda _: None))


def test_a_method_without_rationales_has_no_decode_of_them(monkeypatch):
    labels = ["stage-2 step", "label encode", "label decode"]
    assert list(programs_of(monkeypatch, "method=sft")) == labels
    assert list(programs_of(monkeypatch, "method=dss")) == [*labels, "rationale decode"]


def test_decodes_are_the_programs_that_a_prediction_runs(monkeypatch):
    """A label decode with its own encoder pass, which nothing runs, was compiled in their place."""
    programs = programs_of(monkeypatch)
    names = {name: program[0].__name__ for name, program in programs.items() if name.endswith("code")}
    assert names == {
        "label encode": "_questions",
        "label decode": "_labels",
        "rationale decode": "_rationales",
    }
    encoded, (ids, lengths) = programs["label decode"][2], programs["rationale decode"][3:]
    width = encoded.mask.shape[1]
    assert (encoded.states.shape, encoded.mask.shape) == ((16, width, 32), (16, width))
    assert width > programs["label encode"][2]["question_ids"].shape[1]
    assert (ids.shape[0], lengths.shape) == (16, (16,))


def test_weights_of_labels_are_part_of_the_batch_of_stage_2_alone(monkeypatch):
    programs = programs_of(monkeypatch, "stage2.class_weights=balanced")
    (_, state, first), (_, _, second) = (programs[f"stage-{number} step"] for number in (1, 2))
    assert (LABEL_WEIGHT in first, LABEL_WEIGHT in second) == (False, True)
    assert all(LABEL_WEIGHT not in programs_of(monkeypatch)[f"stage-{n} step"][2] for n in (1, 2))
    # The vocabulary is trained, of 600 tokens, whatever model.shape says.
    assert state.params["embedding"].shape == (640, 32)


def test_a_constrained_label_decode_has_a_tree_of_labels_in_step_and_decode(monkeypatch):
    found = []

    def decoded(*_, trie, max_tokens, **limits):
        found.append((trie, max_tokens))
        return jnp.zeros(())

    monkeypatch.setattr("r2d_jax.evaluation.predict.greedy_decode", decoded)
    for kind in ("free", "constrained"):
        programs = programs_of(monkeypatch, f"label_decode={kind}", "data.label_limit_tokens=6")
        trie = programs["stage-2 step"][0].label_trie
        for name in ("label decode", "rationale decode"):
            decode, *arguments = programs[name]
            jax.eval_shape(decode, *arguments)
        assert found[-2:] == [(trie, 6), (None, 64)]
        assert (trie is None) == (kind == "free")
    # As many ends as labels, and none is longer than there is room for.
    assert (int((trie.tokens == 1).sum()), trie.depth) == (100, 6)


@pytest.mark.parametrize("topology", ["", "v5e", "v5e:2", "v9:2x4", "v5e:2x4x", "v5e-8"])
def test_faulty_topologies(topology):
    with pytest.raises(UserError, match="--topology"):
        chip_of(topology)


@pytest.fixture(scope="module")
def libtpu():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("TPU COMPILE NOT CHECKED: libtpu, of the extra [tpu], is not installed")


@pytest.mark.parametrize(
    ("topology", "axes"),
    [("v5p:4x4x4", (-1, 32, 1)), ("v5e:16x16", (-1, 8, 1)), ("v5e:8x8", (-1, 16, 1)), ("v5e:4x4", (2, 4, 2))],
)
def test_axes_need_not_be_dimensions_of_the_torus(libtpu, topology, axes):
    devices = topology_devices(topology)
    mesh = make_mesh(MeshConfig(*axes), devices)
    assert sorted(device.id for device in mesh.devices.flat) == sorted(device.id for device in devices)
    assert mesh.devices.shape[1:] == axes[1:]


@pytest.mark.slow
def test_the_real_steps_compile_for_eight_chips_without_gathering_the_batch(libtpu, tmp_path):
    """The first layout tried gathered the logits of the whole batch on every chip: 3.2 GB for this model."""
    command = [sys.executable, "-m", "r2d_jax", "compile", "--config", "configs/debug_cpu.yaml"]
    command += [
        *("--topology", "v5e:2x4", "--output", tmp_path / "found.json"),
        *("mesh.data=1", "mesh.fsdp=8", "evaluation.batch_size=16", "tokenizer.train_vocab_size=32128"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=500)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["chips"] == 8
    assert [program["name"] for program in found["programs"]] == [
        "stage-1 step",
        "stage-2 step",
        "label encode",
        "label decode",
        "rationale decode",
    ]
    stage1, stage2 = found["programs"][:2]
    # An eighth of weights and two moments in float32, and what does not divide.
    assert stage1["memory"]["arguments"] == pytest.approx(3 * 4 * found["weights"] / 8, rel=0.3)
    whole_logits = 16 * 64 * 32128 * 4
    for program in (stage1, stage2):
        traffic = sum(kind["bytes"] for kind in program["collectives"].values())
        assert 0 < traffic < whole_logits
        assert program["flops"] > 0
        memory = program["memory"]
        assert program["peak_bytes"] == sum(memory.values())
        assert 0 < memory["temporaries"] < 2 * whole_logits
    assert stage2["flops"] > stage1["flops"]
    for word in ("stage-2 step", "peak GiB", "collectives"):
        assert word in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--topology", "v5e:3x5"), "libtpu knows no v5e:3x5"),
        (("--topology", "v5e:2x4", "mesh.data=3"), "does not fit 8 device"),
        (("--topology", "v5e:2x4", "stage1.batch_size=12"), "rows do not divide by 8. Set 8 or 16"),
        (("--topology", "v5e:2x4", "--utilisation", "0"), "is not a valid share"),
    ],
)
def test_faults_are_told_in_one_line(libtpu, r2d, arguments, told):
    r2d("compile", "--config", ROOT / "configs" / "debug_cpu.yaml", *arguments).refused(told)


def test_a_folder_here_has_its_own_shape_whatever_it_is_called(tmp_path, monkeypatch):
    """Any folder whose last part was a published name was compiled as that model."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine" / "t5-large"
    folder.mkdir(parents=True)
    sizes = {"d_model": 16, "d_ff": 32, "d_kv": 4, "num_heads": 2, "num_layers": 3, "vocab_size": 384}
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", **sizes}))

    def shape_of(init):
        return topology_module.model_shape(load_config(None, ["data.source=triage", f"model.init={init}"]))

    for init in ("mine/t5-large", folder):
        assert (shape_of(init).d_model, shape_of(init).num_layers) == (16, 3)
    assert shape_of("google-t5/t5-large").d_model == 1024
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json"):
        shape_of(folder)
    with pytest.raises(UserError, match="'mine/other' is neither here nor a published T5"):
        shape_of("mine/other")
