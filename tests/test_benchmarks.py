"""The benchmark runs, both sides compute the same, each program is compiled once; no time is asserted."""

import contextlib
import copy
import json
import math
import pathlib
import statistics
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import gpu, measure, sides, tables, workload
from r2d_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
TIMED = (
    "stage1",
    "stage2_gold",
    "stage2_sampled",
    "label_generation",
    "rationale_generation",
    "ended_rationale_generation",
)
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quick")
    # Not `start`: it compiles everything again, twice.
    parts = ",".join((*TIMED, "pipeline"))
    command = [sys.executable, "benchmarks/run.py", "--quick", "--parts", parts, "--output", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == (folder / "result.md").read_text().strip()
    return json.loads((folder / "result.json").read_text()), (folder / "result.md").read_text()


def test_a_quick_run_has_its_fields(quick):
    result, _ = quick
    assert result["schema_version"] == 1
    assert result["quick"] is True
    assert {"cpu", "cores", "memory_gib", "load", "load_after", "versions"} <= result["machine"].keys()
    assert all(result["machine"]["versions"][name] for name in ("jax", "torch", "transformers"))
    assert min(result["matmul_peak_gflops"].values()) > 0
    (case,) = result["cases"]
    assert (case["shape"], case["data"], case["rows"]["rows"]) == ("micro", "short", 64)
    assert case["rows"]["longest_label_tokens"] > 2
    assert set(case["parts"]) == {*TIMED, "label_decode_share", "shared_decode_share", "pipeline"}
    for name in TIMED:
        part = case["parts"][name]
        ratios = [
            peer / ours for ours, peer in zip(part["ours"]["values"], part["peer"]["values"], strict=True)
        ]
        assert part["ratio"]["values"] == pytest.approx(ratios)
        assert part["ratio"]["median"] == pytest.approx(statistics.median(ratios))
        assert min(part["ours"]["values"] + part["peer"]["values"]) > 0
    for name in TIMED[:3]:
        assert case["parts"][name]["ours_matmul_flops"][0] > 0
        assert case["parts"][name]["ours_share_of_matmul_peak"] > 0
    for side in ("ours", "peer"):
        assert case["parts"]["pipeline"][side]["batch_rows_per_sec"] > 0


def test_both_sides_have_the_same_losses_and_write_the_same_tokens(quick):
    (case,) = quick[0]["cases"]
    ours, peer = (case["same"]["losses"][side] for side in ("ours", "peer"))
    assert (
        ours.keys() == peer.keys() == {"stage1_rationale_loss", "stage2_label_loss", "stage2_rationale_loss"}
    )
    for name, value in ours.items():
        assert value == pytest.approx(peer[name], abs=1e-4)
        # Not the loss of a model that says nothing, nor one of some padding.
        assert 1.0 < value < 2 * math.log(512)
    for name, tokens in (
        ("label_generation", case["rows"]["longest_label_tokens"]),
        ("rationale_generation", 48),
        ("ended_rationale_generation", 48),
    ):
        written = case["same"]["written"][name]
        assert written["tokens"] == {"ours": tokens, "peer": tokens}
        # Neither one token over and over, nor other ones; a tie of rounding may part a row.
        assert written["different_tokens"] > 3
        assert written["equal_token_fraction"] > 0.9


def test_rows_end_where_they_may(quick):
    parts = quick[0]["cases"][0]["parts"]
    assert parts["rationale_generation"]["mean_tokens"] == 48
    assert 1 < parts["ended_rationale_generation"]["mean_tokens"] < 48, "all rows went to the limit"


def test_each_program_is_compiled_once_and_none_while_the_clock_runs(quick):
    (case,) = quick[0]["cases"]
    assert case["compiled_while_timing"] == {"stage1": 0, "stage2": 0}
    # One width of training batches; steps of stage 1, of stage 2, and of stage 2 again beside those that share the
    # encoder pass; the decoded rows are the longest and the first.
    assert case["expected_programs"] == {
        "loss_sums": 2,
        "train_step": 4,
        "_labels": 2,
        "_rationales": 2,
        "ended_rationales": 2,
    }
    assert {name: case["compiled"][name] for name in case["expected_programs"]} == case["expected_programs"]


def test_the_sampled_step_has_the_work_of_the_decode(quick):
    (case,) = quick[0]["cases"]
    gold, sampled = (case["parts"][f"stage2_{kind}"]["ours_matmul_flops"][0] for kind in ("gold", "sampled"))
    assert case["parts"]["stage1"]["ours_matmul_flops"][0] < gold < sampled


def test_the_table_says_what_was_measured_and_goes_between_the_markers(quick, tmp_path):
    result, table = quick
    assert "these figures mean nothing" in table
    for word in ("stage-1 step", "rationales, 48 tokens", "rows/s"):
        assert word in table
    page = tmp_path / "page.md"
    page.write_text(f"before\n{tables.START}\nold\n{tables.END}\nafter\n")
    for _ in range(2):
        tables.write_docs(page, table)
        text = page.read_text()
        assert text.startswith(f"before\n{tables.START}\n{table.strip()}\n{tables.END}\nafter")
    gpu_result = copy.deepcopy(result)
    gpu.add_utilisation(gpu_result, "NVIDIA H100 80GB HBM3")
    part = gpu_result["cases"][0]["parts"]["stage1"]
    assert part["ours_mfu"] == pytest.approx(part["ours_gflops_per_sec"] / 989e3)
    assert "| micro, short | stage2_sampled |" in gpu.utilisation_table(gpu_result)


def test_earlier_results_go_into_the_docs_unless_they_mean_nothing(quick, tmp_path, monkeypatch, capsys):
    import benchmarks.run

    page = tmp_path / "docs" / "performance.md"
    page.parent.mkdir()
    page.write_text(f"{tables.START}\nold\n{tables.END}\n")
    monkeypatch.setattr("benchmarks.run.ROOT", tmp_path)
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path in paths:
        path.write_text(json.dumps(quick[0] | {"quick": False}))
    assert benchmarks.run.main(["--docs-from", *map(str, paths)]) == 0
    assert page.read_text().count("### micro, short") == 2
    paths[1].write_text(json.dumps(quick[0]))
    assert benchmarks.run.main(["--docs-from", *map(str, paths)]) == 2
    assert "two.json: no result of a run" in capsys.readouterr().err
    assert page.read_text().count("### micro, short") == 2


def test_the_docs_have_the_markers():
    text = (ROOT / "docs" / "performance.md").read_text()
    assert text.count(tables.START) == text.count(tables.END) == 1


def test_picked_batches_stand_for_all():
    sizes = np.random.default_rng(0).permutation(np.repeat([10, 30, 50], [100, 70, 150]))
    picked = workload.at_quantiles(sizes.tolist(), 16)
    assert sizes[picked].tolist() == [10] * 5 + [30] * 3 + [50] * 8
    assert sizes[workload.at_quantiles(sizes.tolist(), 1)] == 30


def test_the_peer_takes_label_and_end_as_the_paper_has_it(tmp_path):
    """Its predicted labels, mixed by coins, against a plain argmax loop over whole passes."""
    from benchmarks import prepare
    from benchmarks.peer import Peer

    prepare.make(tmp_path, "micro", "short", rows=8)
    loaded = workload.Workload.load(tmp_path)
    peer = Peer(loaded, workload.Settings(batch_size=4, repeats=1, peer_threads=1))
    rows = loaded.rows[:4]
    # An embedding that ends labels at different places.
    with torch.no_grad():
        peer.model.shared.weight[workload.END_ID] *= 6
    peer.model.eval()
    expected = []
    for row in rows:
        prompt, written = torch.tensor([[*loaded.prompts["predict"], *row.question, 1]]), [0]
        while len(written) <= loaded.label_tokens and written[-1] != 1:
            logits = peer.model(input_ids=prompt, decoder_input_ids=torch.tensor([written])).logits
            written.append(int(logits[0, -1].argmax()))
        expected.append([token for token in written[1:] if token != 1])
    assert peer._mixed_labels(rows, 1.0) == (expected, 4)
    assert peer._mixed_labels(rows, 0.0) == ([row.label[:-1] for row in rows], 0)


def test_a_side_that_fails_says_why(tmp_path):
    with (
        sides.side("peer", tmp_path / "absent", workload.Settings(), tmp_path) as side,
        pytest.raises(sides.SideFailed, match=r"peer ended with 1 in facts:(.|\n)*FileNotFoundError"),
    ):
        side.call("facts")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--shapes", "huge"), "'huge' is none of micro, tiny, small"),
        (("--repeats", "0"), "'0' is not a whole number above 0"),
        (("--quick", "--write-docs"), "nothing worth writing"),
        (
            ("--shapes", "micro", "--data", "pubmedqa", "--pubmedqa", "absent.jsonl"),
            "absent.jsonl: no such file",
        ),
    ],
)
def test_mistakes_are_told(arguments, told, tmp_path, monkeypatch, capsys):
    from benchmarks.run import main

    # It sets this itself; here to be taken back.
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    try:
        code = main([*arguments, "--output", str(tmp_path)])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_without_a_gpu_it_says_so_in_one_line(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert gpu.main([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no NVIDIA GPU here" in line


def test_rows_of_pubmedqa_or_of_their_lengths(shared_data):
    from benchmarks import prepare

    real, named = prepare.pubmedqa_rows(shared_data / "pubmedqa" / "pqal.jsonl")
    assert (len(real), named) == (1000, "PubMedQA PQA-L")
    made = list(prepare._made_rows(1000))
    for words in (lambda row: len(row.question.split()), lambda row: len(row.rationale.split())):
        for share in (0.1, 0.5, 0.9):
            there, here = (np.quantile(list(map(words, rows)), share) for rows in (real, made))
            assert here == pytest.approx(there, rel=0.08)
    with pytest.raises(UserError, match="no JSONL"):
        prepare.pubmedqa_rows(ROOT / "README.md")


class Answering:
    """A side that answers at once, until it is asked for what it `lacks`."""

    def __init__(self, lacks):
        self.lacks = lacks

    def call(self, method, **_):
        if method == self.lacks:
            raise sides.SideFailed("gone")
        taken = {"secs": 1.0, "cpu_secs": 1.0, "mean_tokens": 1.0, "longest_tokens": 1, "ids": [[3]]}
        return {
            "facts": {"padding_fraction": 0.0},
            "check": {"loss": 1.0},
            "compiled": {"programs": {}},
            "flops": {"flops": [3e9]},
            "pipeline": {"batch_rows_per_sec": 2.0, "tokenised_rows_per_sec": 1.0},
            "memory": {"peak_bytes": 1},
        }.get(method, taken | {"widths": 1})


@pytest.fixture
def case_of(monkeypatch, tmp_path):
    """A case whose sides answer at once, and its list of what was kept and which sides were opened and closed."""

    def made(parts, lacks, **settings):
        seen = []

        @contextlib.contextmanager
        def answering(name, *_):
            seen.append(f"+{name}")
            try:
                yield Answering(lacks.get(name))
            finally:
                seen.append(f"-{name}")

        monkeypatch.setattr(measure, "side", answering)
        chosen = workload.Settings(repeats=1, generation_repeats=1, **settings)
        result = {}
        case = measure.Case(
            *(tmp_path, chosen, parts, tmp_path),
            peak_gflops=4.0,
            say=lambda text: None,
            keep=lambda: seen.append(sorted(result["parts"])),
        )
        return case, result, seen

    return made


def test_a_run_that_breaks_off_has_kept_what_it_measured(case_of):
    """Runs of over an hour were lost whole."""
    case, result, seen = case_of(["pipeline", "start"], {"ours": "step"})
    with pytest.raises(sides.SideFailed):
        case.run(result)
    assert [kept for kept in seen if kept and kept[0] not in "+-"][-1] == ["pipeline"]


def test_no_part_needs_the_memory_of_another(case_of):
    """After T5-small's largest steps the peer held 14 GiB and ours 8, so that generation did not fit into 24."""
    case, result, seen = case_of([*TIMED[:3], "label_generation"], {})
    case.run(result)
    both, alone = ["+ours", "+peer", "-peer", "-ours"], ["+ours", "-ours"]
    assert [one for one in seen if isinstance(one, str)] == both * 3 + alone
    assert {"stage1", "stage2_sampled", "shared_decode_share", "label_generation"} <= result["parts"].keys()


@pytest.mark.parametrize(
    ("lacks", "opened", "batches"), [("step", 2, "2 | 2 | 1.00"), ("pipeline", 1, "2 |  | ")]
)
def test_on_a_gpu_one_side_follows_the_other_and_a_peer_that_does_not_fit_takes_nothing_away(
    case_of, lacks, opened, batches
):
    """T5-large of both sides did not fit into 140 GiB together, and the peer alone not into 80."""
    case, result, seen = case_of(
        ["stage1", "label_generation", "pipeline"], {"peer": lacks}, alternating=False
    )
    with pytest.raises(sides.SideFailed):
        case.run(result)
    ours, peer = ["+ours", "-ours"], ["+peer", "-peer"]
    assert [one for one in seen if isinstance(one, str)] == ours * 2 + peer * opened
    assert result["parts"]["stage1"]["ours_share_of_matmul_peak"] == pytest.approx(0.75)
    versions = dict.fromkeys(("jax", "torch", "transformers"))
    facts = dict.fromkeys(("cpu", "cores", "memory_gib", "load", "load_after", "python", "commit"), "")
    rows = dict.fromkeys(
        ("mean_question_tokens", "mean_rationale_tokens", "longest_label_tokens", "weights"), 1
    )
    whole = {
        "created": "",
        "settings": {"batch_size": 4, "dtype": "bfloat16", "long_label_tokens": 6, "rationale_tokens": 48},
        "machine": facts | {"versions": versions},
        "matmul_peak_gflops": {"ours": 4.0, "peer": 4.0},
        "cases": [result | {"shape": "large", "data": "short", "rows": rows | {"rows": 1, "source": ""}}],
    }
    gpu.add_utilisation(whole, "NVIDIA H100 80GB HBM3")
    assert "| large, short | stage1 | 0.0 % | 75.0 % | 8 |  |" in gpu.utilisation_table(whole)
    table = tables.markdown(whole)
    assert "| stage-1 step | s | 1 (1 to 1) |  |  |  |  |" in table
    assert f"| batches alone | rows/s | {batches} | | |" in table
