"""Compiling for TPU slices that are not here: shapes, traffic by hand, faults, and one real compile by libtpu."""

import importlib.util
import json
import math
import subprocess
import sys

import pytest

pytest_plugins = ["cli_cases"]
pytest.register_assert_rewrite("cli_cases")

import jax
from cli_cases import ROOT

from r2d_jax.config_file import load_config
from r2d_jax.errors import UserError
from r2d_jax.model.known_shapes import known_shape
from r2d_jax.model.parameters import T5Factory
from r2d_jax.training.topology import chip_of, collectives, run_shapes

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
      %d = (f32[]{:T(128)}, f32[10]{0}) all-reduce(f32[] %p, f32[10]{0} %q), to_apply=%add
      %e = pred[16]{0} all-to-all(pred[16]{0} %m)
      %f = f32[8,128]{1,0} add(f32[8,128]{1,0} %a, f32[8,128]{1,0} %a)
    """
    assert collectives(text) == {
        "all-gather": (1, 32 * 2 * 2),
        "all-reduce": (2, 8 * 128 * 4 + 4 + 40),
        "all-to-all": (1, 16),
    }


def test_prompts_fill_the_input_limit():
    config = load_config(ROOT / "configs" / "pubmedqa_t5_large.yaml")
    shapes = run_shapes(config.data)
    # given label (4) + label (8) + explain (5) + end.
    assert (shapes.question, shapes.label, shapes.rationale) == (1024 - 18, 8, 256)


@pytest.mark.parametrize("topology", ["", "v5e", "v5e:2", "v9:2x4", "v5e:2x4x", "v5e-8"])
def test_faulty_topologies(topology):
    with pytest.raises(UserError, match="--topology"):
        chip_of(topology)


@pytest.fixture(scope="module")
def libtpu():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("TPU COMPILE NOT CHECKED: libtpu is not installed; pip install 'r2d_jax[tpu]'")


def compiled(*arguments):
    command = [
        sys.executable,
        "-m",
        "r2d_jax.cli",
        "compile",
        "--config",
        "configs/debug_cpu.yaml",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=500)


def test_the_real_steps_compile_for_eight_chips_without_gathering_the_batch(libtpu, tmp_path):
    """The first layout tried gathered the logits of the whole batch on every chip: 3.2 GB for this model."""
    ended = compiled(
        *("--topology", "v5e:2x4", "--output", tmp_path / "found.json"),
        *("mesh.data=1", "mesh.fsdp=8", "evaluation.batch_size=16"),
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["chips"] == 8
    assert [program["name"] for program in found["programs"]] == [
        "stage-1 step",
        "stage-2 step",
        "label decode",
        "rationale decode",
    ]
    stage1, stage2 = found["programs"][:2]
    # An eighth of weights and two moments in float32, and what does not divide.
    assert stage1["memory"]["arguments"] == pytest.approx(3 * 4 * found["weights"] / 8, rel=0.3)
    whole_logits = 16 * 64 * 32128 * 4
    for program in (stage1, stage2):
        traffic = sum(size for _, size in program["collectives"].values())
        assert 0 < traffic < whole_logits
        assert program["flops"] > 0
    assert stage2["flops"] > stage1["flops"]
    for word in ("stage-2 step", "of HBM", "collectives"):
        assert word in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--topology", "v5e:3x5"), "libtpu knows no v5e:3x5"),
        (("--topology", "v5e:2x4", "mesh.data=3"), "does not fit 8 device"),
        (("--topology", "v5e:2x4", "stage1.batch_size=12"), "rows do not divide by 8. Set 8 or 16"),
        (("--topology", "v5e:2x4", "--utilisation", "0"), "no share"),
    ],
)
def test_faults_are_told_in_one_line(libtpu, arguments, told):
    ended = compiled(*arguments)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert told in line
