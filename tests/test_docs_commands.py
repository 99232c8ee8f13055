"""Every command of README.md and docs/: run as written, or what is done instead and why; pages and their links."""

import json
import os
import re
import shutil
import subprocess
import time

import docs_kinds
import pytest
from docs_cases import (
    PAGES,
    ROOT,
    blocks,
    commands,
    commands_of,
    free_port,
    missing_lines,
    name_of,
    one_device,
    programs,
    run_blocks,
    words,
)
from time_left import need_time

TUTORIAL = ROOT / "docs" / "tutorial.md"
# The commands of the tutorial that are not run: the environment of these tests stands in its place.
INSTALLED = ["python3 -m venv .venv", ".venv/bin/pip install", ". .venv/bin/activate"]

# Page, command (regular expressions, the first that fits counts), what is done, and why it is not simply run.
CASES = [
    (r"docs/howto\.md", r"cat >|mkdir |cp |sed |head ", "run", ""),
    (
        r"docs/howto\.md",
        r"r2d (predict|import|calibrate|export|push|rationales audit|data check) ",
        "run",
        "",
    ),
    (r"docs/howto\.md", r"r2d run --config config.yaml --workdir runs/first$", "run", ""),
    (r"docs/(data_check|text)\.md", r"r2d data check rows.jsonl ", "run", ""),
    (r"docs/faithfulness\.md", r"r2d report ", "run", ""),
    (r"docs/rationales\.md", r"r2d rationales generate .*--dry-run", "run", ""),
    (
        r"",
        r"r2d (run|compare) ",
        "parsed",
        "trains for minutes to hours; tests/test_run.py and test_compare.py do",
    ),
    (r"", r"r2d compile ", "parsed", "compiles for minutes; tests/test_topology.py does"),
    (
        r"",
        r"r2d (eval|predict|calibrate|export|import|push) ",
        "parsed",
        "its model needs a long run; docs/howto.md has one",
    ),
    (r"", r"r2d serve ", "parsed", "runs until it is stopped; the tutorial starts and stops one"),
    (r"", r"r2d doctor", "parsed", "asks the machine of these tests, which has no GPU"),
    (r"", r"r2d data prepare ", "parsed", "the original files are not here; tests/test_named_*.py have some"),
    (r"", r"r2d data (check|tfds) ", "parsed", "its rows are the reader's; other pages run it"),
    (
        r"",
        r"(OPENAI_API_KEY=none )?r2d (judge|zero-shot|rationales generate) ",
        "parsed",
        "there is no LLM here; tests/test_llm.py has a stand-in",
    ),
    (r"", r"r2d rationales audit ", "parsed", "reads what an LLM wrote; docs/howto.md runs it on other rows"),
    (
        r"",
        r"launch/(tpu_pod|gke|local_two_process|debug_gpu)\.sh|(CONFIG=\S+ .*)?launch/slurm_gpu\.sbatch",
        "dry run",
        "starts machines, or installs for minutes; tests/test_launch*.py run it against stand-ins",
    ),
    (
        r"README\.md",
        r"\./(launch/quickstart|tests/run)\.sh",
        "help",
        "installs and works for minutes; tests/test_scripts.py",
    ),
    (r"", r"export ", "export", ""),
    (r"", r"(taskset|OMP_WAIT_POLICY|python benchmarks/)", "benchmark", "measures for minutes to hours"),
    (r"", r"(\.venv(-gpu)?/bin/)?pip install ", "packages", "changes the environment of these tests"),
    (r"docs/serving\.md", r"curl ", "ask", ""),
    (r"", r"\. \.venv(-gpu)?/bin/activate", "nothing", "the environment of these tests stands in its place"),
    (r"docs/howto\.md", r"python docs/build_api\.py", "nothing", "tests/test_api_reference.py runs it"),
    (r"docs/launch\.md", r"(gcloud|kubectl|docker) ", "nothing", "needs an account, a cluster or a registry"),
    (r"docs/launch\.md", r"python3\.12 -m venv", "nothing", "that Python may not be here"),
    (r"README\.md", r"python3 -m venv", "nothing", "the environment of these tests stands in its place"),
    (r"docs/huggingface\.md", r"hf auth login", "nothing", "asks for a token of the Hub"),
    (
        r"docs/llm\.md",
        r"(vllm serve|ollama pull) ",
        "nothing",
        "programs of others, with weights of gigabytes",
    ),
]


def fits(case, page, command):
    flat = re.sub(r"\s*\\\n\s*", " ", command)
    return re.match(case[0], page) and re.match(case[1], flat)


def case_of(page, command):
    """What is done, and why."""
    for case in CASES:
        if fits(case, page, command):
            return case[2:]
    raise AssertionError(f"{page}: `{command}` is in no line of CASES: say there how it is tested")


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """What a user has: `r2d` and `python` on the path, one device."""
    home = tmp_path_factory.mktemp("docs")
    return one_device(
        PATH=f"{programs(home / 'bin')}{os.pathsep}{os.environ['PATH']}",
        PYTHONPATH=str(ROOT),
        R2D_COMPILE_CACHE=os.environ.get("R2D_COMPILE_CACHE") or str(home / "compiled"),
    )


def need_curl():
    if shutil.which("curl") is None:
        pytest.skip("NO CURL: pages that ask a server are not run on this machine")


@pytest.fixture(scope="session")
def tutorial(tmp_path_factory, environment):
    """The folder of the tutorial after all its commands, and what each block of them printed."""
    need_curl()
    # Of pages that go on from it as well.
    need_time("the tutorial's commands")
    clone = tmp_path_factory.mktemp("tutorial") / "clone"
    clone.mkdir()
    codes = [block.code for block in blocks(TUTORIAL)]
    codes[0] = "".join(line for line in codes[0].splitlines(True) if not line.startswith(tuple(INSTALLED)))
    port = free_port()
    if port != 8000:
        codes = [
            code.replace("r2d serve", f"r2d serve --port {port}").replace(":8000", f":{port}")
            for code in codes
        ]
    return clone.parent / "triage-tutorial", run_blocks(codes, clone, environment)


@pytest.mark.slow
def test_tutorial_runs_as_written(tutorial):
    """What a reader is promised: the damage is found, the model is good, and silent where nurses do not agree."""
    folder, printed = tutorial
    checked = next(text for text in printed if "label-spellings" in text)
    assert "exit code 1" in checked
    metrics = json.loads((folder / "runs/first/evaluation/metrics.json").read_text())
    assert metrics["macro_f1"] > 0.85
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert {row["id"]: row["abstained"] for row in rows} == {
        "n1": False,
        "n2": False,
        "n3": True,
        "n4": False,
    }
    labels = {row["id"]: row["label"] for row in rows}
    assert (labels["n1"], labels["n2"], labels["n4"]) == ("emergency", "same day", "emergency")
    answered = json.loads(next(text for text in printed if '"intended_use"' in text))
    assert (answered["abstained"], answered["label"]) == (True, labels["n3"])
    assert printed[-1].strip().endswith("stopped")


@pytest.mark.slow
def test_tutorial_shows_what_is_printed(tutorial):
    _, printed = tutorial
    for block, text in zip(blocks(TUTORIAL), printed, strict=True):
        assert not missing_lines(block.shown or "", text, "same day|routine"), text


@pytest.mark.slow
def test_tutorial_installs_what_there_is(tutorial):
    first = list(commands(next(blocks(TUTORIAL)).code))
    left_out = [command for command in first if command.startswith(tuple(INSTALLED))]
    assert len(left_out) == len(INSTALLED)
    docs_kinds.known_packages(words(left_out[1]))


@pytest.fixture
def prepared(tutorial):
    """The folder of the tutorial with the files that other pages take for granted."""
    folder, _ = tutorial
    if not (folder / "runs" / "triage").exists():
        (folder / "runs" / "triage").symlink_to("first")
    for path in ("path/to", "path/of/a"):
        (folder / path).mkdir(parents=True, exist_ok=True)
    for path in ("path/to/t5", "path/of/a/t5"):
        if not (folder / path).exists():
            (folder / path).symlink_to(folder / "triage-model")
    lines = [
        {
            "id": str(number),
            "split": split,
            "question": f"Since {number} days",
            "context": f"Pulse {60 + number}",
            "label": label,
            "rationale": f"With pulse {60 + number} it is {label}.",
        }
        for number in range(12)
        for split, label in [("train" if number < 8 else "test", "routine" if number % 2 else "urgent")]
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_command_that_is_nowhere_listed_is_seen():
    for command in ("r2d dance --all", "rm -rf /", "curl https://example.org", "python setup.py install"):
        with pytest.raises(AssertionError, match="no line of CASES"):
            case_of("docs/howto.md", command)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("r2d run --config configs/quickstart.yaml --workdir w stage2.max_stepps=3", "max_stepps"),
        ("r2d run --config configs/quickstartt.yaml --workdir w", "quickstartt"),
        ("r2d predict --model m --input i", "output"),
        ("r2d compare --config configs/compare_triage.yaml --workdir w --only nothing", "nothing"),
        ("r2d eval --model m --output o evaluation.triage.first=lowest", "first"),
        ("r2d data chekc rows.jsonl", "chekc"),
        ("r2d serve --model m --prot 8000", "--prot"),
    ],
)
def test_a_wrong_command_does_not_parse(wrong, said, tmp_path):
    with pytest.raises(Exception, match=said):
        docs_kinds.parsed(words(wrong), tmp_path)


WITH_COMMANDS = [page for page in PAGES if page != TUTORIAL and list(blocks(page))]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_commands_of_a_page(page, request, environment, monkeypatch, tmp_path):
    """In their order; an `export` holds from there on."""
    found = commands_of(page)
    cases = [case_of(name_of(page), command)[0] for command in found]
    # A page with nothing to run needs no trained model.
    folder = request.getfixturevalue("prepared") if "run" in cases else tmp_path
    if "ask" in cases:
        need_curl()
        (tmp_path / "notes.csv").write_text("id,question\n1,fever\n2,cough\n")
        with docs_kinds.a_server() as address:
            ask(
                [command for command, kind in zip(found, cases, strict=True) if kind == "ask"],
                address,
                tmp_path,
            )
    set_here = dict(environment)
    for command, kind in zip(found, cases, strict=True):
        here = words(command)
        if "r2d" in here[:1] and kind in ("run", "parsed"):
            docs_kinds.parsed(here, folder)
        match kind:
            case "run":
                shell(command, folder, environment)
            case "dry run":
                docs_kinds.dry_run(command, set_here, tmp_path)
            case "help":
                docs_kinds.told(here, environment)
            case "export":
                set_here |= dict(word.split("=", 1) for word in here[1:])
            case "benchmark":
                docs_kinds.benchmark_parsed(here, monkeypatch)
            case "packages":
                docs_kinds.known_packages(here)
            case _:
                assert kind in ("parsed", "ask", "nothing"), kind


def shell(command, folder, environment):
    ended = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}"
    return ended.stdout


def ask(requests, address, folder):
    """The requests of docs/serving.md, one after the other; ID is the one that the upload got."""
    upload = ""
    for request in requests:
        request = request.replace("localhost:8000", address).replace("uploads/ID", f"uploads/{upload}")
        request = request.replace("curl -s", "curl -sS --fail-with-body")
        told = shell(request, folder, os.environ)
        if "/api/uploads" not in request:
            assert json.loads(told)["label"] in ("urgent", "not urgent")
        elif "--data-binary" in request:
            upload = json.loads(told)["id"]
        elif "# progress" in request:
            for _ in range(100):
                if json.loads(told)["state"] == "done":
                    break
                time.sleep(0.1)
                told = shell(request, folder, os.environ)
            assert json.loads(told)["state"] == "done"
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 2


def test_nobody_is_told_to_install_r2d_jax_from_an_index():
    """It is released on none: whoever took the name there would be installed."""
    folders = ("r2d_jax", "launch", "benchmarks", "configs")
    files = [*PAGES, *(path for name in folders for path in (ROOT / name).rglob("*.*"))]
    for path in files:
        if path.suffix in (".md", ".py", ".sh", ".sbatch", ".yaml"):
            told = re.search(r"pip install [^\n]*['\" ]r2d_jax\[", path.read_text(encoding="utf-8"))
            assert told is None, f"{path}: {told}"


def test_every_case_is_used():
    pages = [(name_of(page), command) for page in WITH_COMMANDS for command in commands_of(page)]
    used = {next(i for i, case in enumerate(CASES) if fits(case, page, command)) for page, command in pages}
    assert used == set(range(len(CASES))), [CASES[i] for i in set(range(len(CASES))) - used]


def test_the_index_has_every_page():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in PAGES:
        if page.parent == ROOT / "docs" and page.name != "README.md":
            assert f"({page.name})" in index, page.name
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in ("docs/README.md", "docs/tutorial.md", "docs/howto.md"):
        assert f"({page})" in front


def anchor(heading):
    """As GitHub makes it."""
    text = re.sub(r"[^\w\- ]", "", re.sub(r"`|\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower())
    return text.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, part = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if part:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            assert part in map(anchor, headings), link
