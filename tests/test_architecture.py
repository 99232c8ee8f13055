"""The shape of the code: imports go only downwards, names stay in their rooms, files stay short."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "r2d_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
# Lowest first; a room may import its own and lower ones. data and runtime do not know each other.
ORDER = [
    "errors",
    "config",
    "config_file",
    "data",
    "runtime",
    "model",
    "objective",
    "evaluation",
    "training",
    "cli",
]


def room_of(module):
    return module.split(".")[1]


def module_of(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_only_downwards(path):
    if path.name == "__init__.py":
        assert not list(imports(path))
        return
    room = room_of(module_of(path))
    for name in imports(path):
        if name.startswith("r2d_jax."):
            other = room_of(name)
            assert ORDER.index(other) <= ORDER.index(room), f"{room} imports {name}"
            assert {room, other} != {"data", "runtime"}, f"{room} imports {name}"
        assert name.split(".")[0] not in ("tensorflow", "pickle", "cloudpickle", "dill"), name


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_are_short_and_start_with_one_line_about_themselves(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    first = ast.get_docstring(ast.parse(text)).splitlines()[0]
    assert len(first) > 30
    assert path.stem not in ("utils", "util", "helpers", "common", "misc")


ONLY_IN = {
    "SelfAttention": "model/hf_format.py",
    "lm_head.weight": "model/hf_format.py",
    "given label": "data/prompts.py",
    "explain: ": "data/prompts.py",
    "PartitionSpec(": "runtime/mesh.py",
    "jax.distributed.": "runtime/distributed.py",
}


@pytest.mark.parametrize("text", ONLY_IN)
def test_names_stay_in_their_room(text):
    holders = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        # Code and string values count, comments and docstrings do not.
        if text in code_of(node)
    }
    assert holders <= {ONLY_IN[text]}


def code_of(node):
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
        return "" if node.value.endswith('."""') or node.value.count(" ") > 8 else node.value
    return ast.unparse(node) if isinstance(node, ast.Call | ast.Attribute) else ""
