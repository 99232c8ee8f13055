"""The shape of the code and its map, docs/architecture.md: imports go only downwards, names stay in their rooms."""

import ast
import dataclasses
import pathlib
import re
import subprocess
import sys

import pytest

from r2d_jax.data.features import Features
from r2d_jax.training.objectives import ENCODED, GIVEN_IDS, GIVEN_LENGTH, SAMPLED, SEED
from r2d_jax.training.r2dc import CONFIDENCE
from r2d_jax.training.steps import STOP

ROOT = pathlib.Path(__file__).parents[1]
FILES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "r2d_jax").rglob("*.py"))
}
# What each room may import beside itself; a room that is not here yet has to be added.
FOUNDATION = {
    "errors",
    "methods",
    "config",
    "config_check",
    "config_identity",
    "config_effect",
    "config_file",
}
DATA_AND_DEVICES = FOUNDATION | {"data", "runtime"}
ALLOWED = {
    "errors": set(),
    "methods": set(),
    "config": {"errors", "methods"},
    "config_check": {"errors", "methods", "config"},
    "config_identity": {"errors", "methods", "config"},
    "config_effect": {"errors", "methods", "config", "config_identity"},
    "config_file": {"errors", "methods", "config", "config_check", "config_identity"},
    "runtime": FOUNDATION,
    "data": FOUNDATION,
    "model": DATA_AND_DEVICES,
    "objective": DATA_AND_DEVICES | {"model"},
    "llm": DATA_AND_DEVICES,
    "evaluation": DATA_AND_DEVICES | {"model", "llm"},
    "rationales": DATA_AND_DEVICES | {"llm", "evaluation"},
    "serve": DATA_AND_DEVICES | {"model", "evaluation"},
    "training": DATA_AND_DEVICES | {"model", "objective", "evaluation"},
    "cli_calibrate": FOUNDATION | {"evaluation", "cli_options"},
    "cli_data": DATA_AND_DEVICES | {"model", "evaluation", "cli_options"},
    "cli_hub": FOUNDATION | {"evaluation", "cli_options"},
    "cli_options": FOUNDATION | {"llm"},
    "cli_serve": FOUNDATION | {"serve", "cli_options"},
    "cli_llm": DATA_AND_DEVICES | {"llm", "evaluation", "cli_options"},
    "cli_audit": DATA_AND_DEVICES | {"llm", "rationales", "cli_options"},
    "cli_rationales": DATA_AND_DEVICES | {"llm", "rationales", "cli_options", "cli_audit"},
    "__main__": {"cli"},
    "cli": DATA_AND_DEVICES
    | {
        "model",
        "objective",
        "evaluation",
        "training",
        "cli_calibrate",
        "cli_data",
        "cli_hub",
        "cli_llm",
        "cli_options",
        "cli_rationales",
        "cli_serve",
    },
}
# tensorflow takes the accelerator's memory; a pickle runs what its author wrote into it.
BANNED = {"tensorflow", "pickle", "cloudpickle", "dill"}
# Code (not comments or docstrings) that matches may stand only in files that match.
ONLY_IN = {
    r"'[^']*(SelfAttention|EncDecAttention|DenseReluDense|lm_head)": r"model/hf_format\w*\.py",
    r"'(explain: |predict: |given label)": r"data/prompts\.py",
    r"\bPartitionSpec\b|'(fsdp|tensor)'": r"runtime/mesh\.py",
    r"jax\.distributed|from jax import .*distributed": r"runtime/distributed\.py",
}


def is_docstring(node):
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def bare_code(source):
    """Source without comments and docstrings, all strings in single quotes."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            node.body = [inner for inner in node.body if not is_docstring(inner)] or [ast.Pass()]
    return ast.unparse(tree)


def imported(source):
    """Every module that is imported, in functions too, and by importlib."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and re.search("import_module|__import__", ast.unparse(node.func)):
            yield node.args[0].value if isinstance(node.args[0], ast.Constant) else "unknown"


def faults_of_imports(name, source):
    parts = pathlib.PurePath(name).with_suffix("").parts[1:]
    own = {"__init__": "the root"}.get(parts[0], parts[0])
    allowed = ALLOWED.get(own, set()) | {own}
    if own not in ALLOWED and own != "the root":
        yield f"{own} is no known room: add it to ALLOWED"
    for module in imported(source):
        top, *rest = module.split(".")
        if parts[-1] == "__init__":
            yield f"{name} imports {module}: importing one module must not load a whole room"
        if top in BANNED | {"", "unknown"}:
            yield f"{name} imports {module or 'relatively'}"
        elif top == "r2d_jax" and rest and rest[0] not in allowed | {"__version__"}:
            yield f"{own} imports {module}"


def faults_of_names(name, source):
    code = bare_code(source)
    for pattern, home in ONLY_IN.items():
        found = re.search(pattern, code)
        if found and not re.search(home + "$", name):
            yield f"{name} has {found.group()}, which belongs in {home}"


def faults_of_form(name, source):
    if len(source.splitlines()) > 400:
        yield f"{name} is over 400 lines"
    if re.fullmatch("(utils?|helpers?|common|misc)", pathlib.PurePath(name).stem):
        yield f"{name} says nothing by its name"
    first, *rest = (ast.get_docstring(ast.parse(source)) or "").splitlines() or [""]
    if not 30 < len(first) <= 120 or (rest and rest[0]):
        yield f"{name} does not start with one line that says what it is"


RULES = [faults_of_imports, faults_of_names, faults_of_form]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", FILES)
def test_the_code_keeps_its_shape(name, rule):
    assert not list(rule(name, FILES[name]))


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (faults_of_imports, "data/x.py", "from r2d_jax.runtime import mesh"),
        (faults_of_imports, "runtime/x.py", "import r2d_jax.data.schema"),
        (faults_of_imports, "model/x.py", "from r2d_jax import training"),
        (faults_of_imports, "evaluation/x.py", "def f():\n    from r2d_jax.training.run import run"),
        (
            faults_of_imports,
            "objective/x.py",
            "import importlib\nimportlib.import_module('r2d_jax.training')",
        ),
        (faults_of_imports, "errors.py", "from r2d_jax.config import Config"),
        (faults_of_imports, "model/x.py", "from . import t5"),
        (faults_of_imports, "model/x.py", "import pickle as p"),
        (faults_of_imports, "data/x.py", "try:\n    import tensorflow.io\nexcept ImportError:\n    pass"),
        (faults_of_imports, "attic/x.py", ""),
        (faults_of_imports, "data/__init__.py", "from r2d_jax.data import schema"),
        (faults_of_names, "model/layers.py", "NAME = 'block.0.layer.0.SelfAttention.q.weight'"),
        (faults_of_names, "training/x.py", "def f(x):\n    return f'explain: {x}'"),
        (faults_of_names, "model/x.py", "from jax.sharding import PartitionSpec as P"),
        (faults_of_names, "training/x.py", "size = mesh.shape['fsdp']"),
        (faults_of_names, "cli.py", "import jax\njax.distributed.initialize()"),
        (faults_of_names, "cli.py", "from jax import distributed"),
        (faults_of_form, "data/x.py", '"""Short."""'),
        (faults_of_form, "data/x.py", "x = 1"),
        (faults_of_form, "data/helpers.py", FILES["r2d_jax/errors.py"]),
        (faults_of_form, "data/x.py", FILES["r2d_jax/errors.py"] + "\n" * 400),
    ],
)
def test_a_broken_rule_is_seen(rule, name, source):
    assert list(rule(f"r2d_jax/{name}", source))


def test_comments_and_docstrings_may_say_anything():
    source = '"""Has explain: in it."""\n# fsdp\nclass A:\n    x: int = 1\n    """SelfAttention"""\n'
    assert not list(faults_of_names("r2d_jax/data/x.py", source))


PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def rows_of_page(*first):
    """Cells of the rows of the tables of docs/architecture.md whose heading begins with these cells."""
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, re.M):
        head, _, *rows = (
            [cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()
        )
        if tuple(head[: len(first)]) == first:
            yield from rows


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


def test_the_page_has_the_parts_and_what_they_may_import():
    page = {}
    for name, _, allowed in rows_of_page("part"):
        page[name.strip("`")] = set(quoted(allowed)) | (
            FOUNDATION if "base" in allowed.split(", ") else set()
        )
    assert page == ALLOWED


def test_files_that_the_page_names_are_there():
    named = [path for path in quoted(PAGE) if path.endswith(".py")]
    assert len(named) > 20
    for path in named:
        assert (ROOT / path).is_file() or (ROOT / "r2d_jax" / path).is_file(), path


def test_the_page_explains_every_axis_letter():
    explained = {letter for letters, _ in rows_of_page("letter") for letter in letters.split(", ")}
    for name, source in FILES.items():
        for shape in re.findall(r"\[[A-Z](?:, (?:[A-Z0-9]|\.\.\.))*\]", source):
            assert set(re.findall("[A-Z]", shape)) <= explained, f"{name}: {shape}"


def test_the_page_has_the_names_in_a_batch():
    names = {name for keys, *_ in rows_of_page("key") for name in quoted(keys)}
    arrays = {field.name for field in dataclasses.fields(Features) if not field.name.startswith("cut_")}
    added = {"row_weight", "row", SEED, GIVEN_IDS, GIVEN_LENGTH, SAMPLED, CONFIDENCE, ENCODED, STOP}
    assert names == arrays | added


# Of those that are slow to import; torch is there in the environments of tests and of many users.
SLOW = {"matplotlib", "pandas", "rouge_score", "sacrebleu", "scipy", "sklearn", "torch", "transformers"}
FIRST_STEP = """
import importlib.util, pathlib, sys
from rich.console import Console
import r2d_jax.training.run
from r2d_jax.runtime.reporting import Reporter

here = pathlib.Path(sys.argv[1])
reporter = Reporter(here, "stage 1", console=Console(), total_steps=1, start_step=0, tensorboard=True)
reporter.scalars(1, {"train/loss": 1.0})
reporter.close()
assert list((here / "tensorboard").iterdir())
print({name for name in sys.argv[2:] if name in sys.modules})
# Whoever wants it afterwards has it.
assert importlib.util.find_spec("torch")
"""


def test_a_run_imports_nothing_slow_before_its_first_step(tmp_path):
    pytest.importorskip("torch")
    command = [sys.executable, "-c", FIRST_STEP, str(tmp_path), *SLOW]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert ended.stdout.strip() == "set()"
