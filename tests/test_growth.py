"""The growth benchmark runs and its fits are right on made numbers; no time is asserted."""

import json
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as ET

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import growth, growth_fit, growth_plots, growth_tables
from benchmarks.tables import END, START
from r2d_jax.training.work import count_products, matmul_flops

ROOT = pathlib.Path(__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}"
SIZES = [64, 128, 256, 512, 1024, 2048]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("growth")
    command = [sys.executable, "benchmarks/growth.py", "--quick", "--output", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == (folder / "result.md").read_text().strip()
    return folder, {axis: json.loads((folder / f"{axis}.json").read_text()) for axis in growth_tables.AXES}


def test_a_quick_run_has_its_fields(quick):
    _, results = quick
    parts = {
        "length": {"label_decode"},
        "labels": set(list(growth_tables.PARTS)[3:12]),
        "batch": {"stage1"},
        "rows": set(list(growth_tables.PARTS)[12:]) | {"features"},
    }
    for axis, result in results.items():
        assert (result["schema_version"], result["axis"], result["quick"]) == (1, axis, True)
        assert {"cpu", "load", "load_after", "commit", "versions"} <= result["machine"].keys()
        assert set(result["parts"]) == parts[axis]
        for point in result["points"]:
            assert point["x"] in result["plan"][axis]
            assert min(point["secs"]) > 0
            assert point["process_bytes"] > 2**20
    for axis in ("length", "batch"):
        for point in results[axis]["points"]:
            assert min(point["planned_bytes"], point["attention_flops"], point["weight_flops"]) > 0
            assert point["bytes"] is not None or sys.platform != "linux"
    way = results["rows"]["parts"]
    assert {part for part in way if way[part]["time"]["holds"] is not None} == {"before_batches", "batches"}
    assert way["before_batches"]["memory"] is not None or sys.platform != "linux"


def test_only_attention_has_operations_that_are_not_linear(quick):
    points = quick[1]["length"]["points"]
    sizes = [point["x"] for point in points]
    micro = growth.QUICK
    # Two products over S x S of 2 heads of 8 in the one encoder layer; a decode's attention on one CPU is sums.
    for point in points:
        assert point["attention_flops"] == 2 * 2 * micro.length_batch * 2 * 8 * point["x"] ** 2
    assert np.diff([point["attention_flops"] for point in points], 2) == pytest.approx(
        [2 * (sizes[1] - sizes[0]) ** 2 * 4 * micro.length_batch * 2 * 8]
    )
    found = quick[1]["length"]["parts"]["label_decode"]
    assert found["operations"]["off_line"] < 1e-12
    assert set(found["fit"]) == {"a", "b", "c", "quadratic_share", "worst_relative_error"}


def test_the_plots_are_there_with_their_text_and_the_same_each_time(quick, tmp_path):
    folder, results = quick
    for axis, result in results.items():
        drawn = (folder / f"{axis}.svg").read_bytes()
        root = ET.fromstring(drawn)
        assert root.tag == f"{SVG}svg"
        texts = {"".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")}
        assert {
            growth_tables.UNITS[axis],
            "ms per example",
            "Time per example",
            "Memory per example",
        } <= texts
        assert {growth_tables.PARTS[part] for part in result["parts"]} <= texts
        assert b"<dc:date>" not in drawn
    growth_plots.draw(result, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == drawn


def test_the_table_names_each_part_and_where_its_plot_lies(quick):
    table = growth_tables.markdown(list(quick[1].values()), "growth/")
    assert table.count("these figures mean nothing") == 4
    for axis, result in quick[1].items():
        assert f"(growth/{axis}.svg)" in table
        for part in result["parts"]:
            assert f"| {growth_tables.PARTS[part]} |" in table


def test_the_fit_finds_the_numbers_it_was_made_from():
    for a, b, c in ((2e-3, 1e-5, 3e-8), (1e-3, 0.0, 1e-9), (0.0, 1e-5, 0.0)):
        found = growth_fit.quadratic(SIZES, [a + b * size + c * size**2 for size in SIZES])
        assert found == pytest.approx((a, b, c), rel=1e-6, abs=1e-15)
    # What falls would need a negative term; none is given.
    assert min(growth_fit.quadratic(SIZES, [1 / size for size in SIZES])) >= 0


def test_the_exponent_is_that_of_the_upper_half():
    values = [7.0, 7.0, 7.0, 2.0 * 512**1.7, 2.0 * 1024**1.7, 2.0 * 2048**1.7]
    assert growth_fit.exponent(SIZES, values) == pytest.approx(1.7)
    assert growth_fit.exponent([10, 1000], [5, 5]) == pytest.approx(0)
    assert growth_fit.off_line([1, 2, 4], [3, 5, 9]) == pytest.approx(0)
    assert growth_fit.off_line([1, 2, 3], [1, 4, 9]) == pytest.approx(0.25)


def made(part, size, secs, bytes_, rows=10, **more):
    return {"part": part, "x": size, "rows": rows, "secs": secs, "bytes": bytes_, **more}


def test_verdicts_of_made_numbers():
    # Of the seconds the median counts, of bytes what is above the floor, of the sizes 4 and 8.
    made_points = [made("features", size, [99.0, size**1.5, 0.0], 2**20 * size) for size in (4, 8, 1, 2)]
    made_points += [made("report", size, [1.0], 2**10 * size**3) for size in (1, 2, 4, 8)]
    found = growth_fit.judged("labels", made_points)
    assert found["features"] == {
        "time": {"exponent": pytest.approx(1.5), "limit": 1.0, "holds": False},
        "memory": {"exponent": pytest.approx(1.0), "limit": 1.0, "holds": True},
    }
    assert found["report"]["memory"]["exponent"] == pytest.approx(0.0)
    planned = [made("stage1", size, [1.0], None, size, planned_bytes=2**20 * size**2) for size in (8, 16)]
    found = growth_fit.judged("batch", planned)["stage1"]
    assert found["time"]["exponent"] == pytest.approx(-1.0)
    assert found["memory"] == found["planned_memory"]
    assert (found["memory"]["exponent"], found["memory"]["holds"]) == (pytest.approx(1.0), False)
    single = growth_fit.judged("batch", planned[:1])["stage1"]
    assert (single["time"]["exponent"], single["time"]["holds"]) == (None, None)


def test_the_share_of_the_quadratic_term():
    points = [made("label_decode", size, [10 * (size + size**2 / 512)], 0) for size in SIZES]
    fit = growth_fit.judged("length", points)["label_decode"]["fit"]
    assert fit["quadratic_share"] == {str(size): pytest.approx(size / (size + 512)) for size in SIZES}
    assert fit["worst_relative_error"] < 1e-6


def test_operations_are_counted_by_kind():
    def program(x, table):
        def body(total, _):
            return total + jnp.einsum("bsk,btk->bst", x, x).sum(), None

        scores = jax.lax.cond(x[0, 0, 0] > 0, lambda: (x @ table).sum(), lambda: 0.0)
        return scores + jax.lax.scan(body, 0.0, None, length=3)[0]

    arguments = jnp.ones((2, 5, 4)), jnp.ones((4, 7))
    found = count_products(jax.make_jaxpr(program)(*arguments).jaxpr)
    assert sum(found) == matmul_flops(program, *arguments)
    assert found == (3 * 2 * 2 * 5 * 5 * 4, 2 * 2 * 5 * 4 * 7)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--axes", "depth"), "'depth' is none of length, labels, batch, rows"),
        (("--rows", "1000,0"), "'0' is not a whole number above 0"),
        (("--quick", "--write-docs"), "nothing worth writing"),
        (("--axes", "rows", "--write-docs", "--output", "{empty}"), "no figures of length, labels, batch"),
        (("--output", "{file}"), "File exists"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, told, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    places = {"empty": tmp_path / "empty", "file": tmp_path / "file"}
    try:
        code = growth.main([argument.format(**places) for argument in arguments])
    except SystemExit as ended:
        code = ended.code
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert told in line


def test_a_point_that_fails_says_why(tmp_path):
    point, environment = growth.QUICK.points("length")[:1], growth._environment(growth.QUICK, tmp_path)
    with pytest.raises(growth.SideFailed, match=r"length 64 ended with 1:(.|\n)*FileNotFoundError"):
        growth._process(tmp_path, growth.QUICK, point, environment)


def test_the_docs_have_the_markers():
    text = growth.PAGE.read_text(encoding="utf-8")
    assert text.count(START) == text.count(END) == 1
