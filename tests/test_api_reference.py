"""The API reference: it builds without a warning, and every public docstring of the package is in it."""

import ast
import html
import os
import re
import subprocess
import sys

import pytest
from docs_cases import ROOT

pytest.importorskip("pdoc")
pytest_plugins = ["chromium"]
# To import the command is to run it.
MODULES = sorted(path for path in (ROOT / "r2d_jax").rglob("*.py") if path.name != "__main__.py")
# Leaves a trace of what was loaded.
BUILD = """
import runpy, sys
sys.argv = ["build_api.py", sys.argv[1]]
runpy.run_path("docs/build_api.py", run_name="__main__")
assert not {"tensorflow", "torch"} & set(sys.modules), "an import that the reference does not need"
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    ended = subprocess.run(
        [sys.executable, "-c", BUILD, folder],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return folder


def name_of(path):
    return path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__")


def public(node, prefix=""):
    """Name and docstring of public functions and classes, and of the methods of these."""
    for one in node.body:
        if isinstance(one, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) and one.name[0] != "_":
            yield prefix + one.name, ast.get_docstring(one)
            if isinstance(one, ast.ClassDef):
                yield from public(one, f"{prefix}{one.name}.")


def plain(text):
    """Letters and digits alone: marks of Markdown and HTML are not compared."""
    return re.sub(r"[^a-z0-9]", "", html.unescape(re.sub(r"<[^>]*>", "", text)).lower())


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_public_docstring_is_in_its_page(path, built):
    page = (built / f"{name_of(path)}.html").read_text(encoding="utf-8")
    whole, tree = plain(page), ast.parse(path.read_text(encoding="utf-8"))
    assert plain(html.escape(ast.get_docstring(tree).splitlines()[0])) in whole
    for name, docstring in public(tree):
        assert docstring, f"{name} has no docstring"
        assert f'id="{name}"' in page, f"{name} is not in the reference"
        first = docstring.partition("\n\n")[0]
        assert plain(html.escape(first)) in whole, f"the docstring of {name} is not in the reference"


def test_settings_are_explained(built):
    """The strings below the fields of config.py are what a user looks for."""
    page = plain((built / "r2d_jax" / "config.html").read_text(encoding="utf-8"))
    assert plain("Stop after this many evaluations in a row without a better score.") in page


def test_the_page_in_a_browser(built, browser):
    browser.open(built / "r2d_jax" / "config.html")
    assert browser.value("document.querySelector('#Config .docstring').innerText").startswith("One run")
    assert browser.value("document.body.scrollWidth <= window.innerWidth")
    assert not browser.messages
    assert not [one for one in browser.requests if not one.startswith(("file:", "data:"))]
