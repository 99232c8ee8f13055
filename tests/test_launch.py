"""The launchers against stand-ins for gcloud, kubectl, Slurm and nvidia-smi, which note their calls and answer as
the real ones; the workers of a TPU slice are folders in which the real launch/tpu_worker.sh runs."""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
from ruamel.yaml import YAML
from test_scripts import executable

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
# What the launchers may use; nothing else is on their PATH.
SYSTEM = (
    "bash env sed tr cat git mktemp rm rmdir ln dirname basename date sleep head tail mkdir mv cp tar gzip ls touch",
    "flock setsid nohup",
)
SECRET = "hf_never_shown"
LAPTOP = ["tpu_pod.sh", "gke.sh", "cloud.sh"]
ODD = [
    'data.columns.rationales={default: "my col"}',
    "a=it's",
    "b=$HOME `date` \\ \\$x",
    "c=é ü 心",
    "d=* ? [a] ~ & | ; < > # !",
    'e="',
    "f=",
    "g= two  blanks ",
]

GCLOUD = """
import json, os, pathlib, shutil, subprocess, sys, time
here, words = pathlib.Path(os.environ["CLOUD"]), sys.argv[1:]
with (here / "calls").open("a") as file:
    file.write(json.dumps(["gcloud", *words]) + "\\n")
def value(flag, default=None):
    return words[words.index(flag) + 1] if flag in words else default
def error(text, code=1):
    print(f"ERROR: (gcloud) {text}", file=sys.stderr)
    sys.exit(code)
def answer(name, missing):
    file = here / name
    if not file.exists():
        error(missing)
    first, *others = file.read_text().split()
    if others:
        file.write_text("\\n".join(others))
    print(first)
if (here / "broken").exists():
    error("PERMISSION_DENIED: Permission 'tpu.nodes.get' denied")
workers = sorted(here.glob("w-*"))
match words[:2]:
    case ["storage", "cat"]:
        file = here / "bucket" / words[2].removeprefix("gs://")
        if not file.exists():
            error("The following URLs matched no objects or files:\\n" + words[2])
        print(file.read_text())
        sys.exit()
what = words[3] if words[2] in ("queued-resources", "tpu-vm") else ""
match words[2], what:
    case "queued-resources", "describe":
        answer("slice", "NOT_FOUND: Resource 'projects/p/locations/z/queuedResources/r2d' was not found")
    case "tpu-vm", "describe":
        answer("node", "NOT_FOUND: Resource 'projects/p/locations/z/nodes/r2d' was not found")
    case "queued-resources", "create":
        if (here / "slice").exists():
            error("ALREADY_EXISTS: Resource already exists")
        (here / "slice").write_text((here / "next").read_text() if (here / "next").exists() else "ACTIVE")
        (here / "node").write_text("READY")
    case "queued-resources", "delete":
        if "--force" not in words:
            error("deleting a queued resource is not supported when state is ACTIVE")
        (here / "slice").unlink()
        (here / "node").unlink(missing_ok=True)
        for worker in workers:
            end = time.monotonic() + 10
            while (worker / "r2d/job.lock").exists() and not (worker / "r2d/job.exit").exists():
                assert time.monotonic() < end
                time.sleep(0.05)
            shutil.rmtree(worker / "r2d", ignore_errors=True)
    case "tpu-vm", ("scp" | "ssh"):
        chosen = value("--worker")
        for number, worker in enumerate(workers):
            if chosen not in ("all", str(number)):
                continue
            if what == "scp":
                target = worker / words[5].split(":")[1]
                shutil.copy(words[4], target)
                continue
            print(f"SSH: Attempting to connect to worker {number}...", file=sys.stderr)
            environment = os.environ | {"HOME": str(worker), "WORKER": worker.name}
            code = subprocess.run(["bash", "-c", value("--command")], cwd=worker, env=environment).returncode
            if code:
                error(f"Command execution on worker {number} failed with return code {code}", 1)
"""

# Runs as r2d on a worker: does what the file "does" says for this run, line by line of runs.
R2D = """
import json, os, pathlib, signal, sys, time
here, worker = pathlib.Path(os.environ["CLOUD"]), os.environ.get("WORKER", "alone")
with (here / "jobs").open("a") as file:
    file.write(json.dumps([worker, *sys.argv[1:]]) + "\\n")
mine = here / f"runs-{worker}"
count = int(mine.read_text()) + 1 if mine.exists() else 1
mine.write_text(str(count))
plans = [file for file in (here / f"does-{worker}", here / "does") if file.exists()]
plan = plans[0].read_text().splitlines() if plans else ["0"]
for word in plan[min(count, len(plan)) - 1].split():
    if word.startswith(("slice=", "node=")):
        if worker == "w-0":
            name, state = word.split("=")
            (here / name).write_text(state)
    elif word == "done":
        if worker == "w-0":
            folder = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
            folder.mkdir(parents=True)
            (folder / "run.json").write_text(json.dumps({"stage1_done": True, "run_done": True}, indent=2))
    elif word in ("wait", "stubborn"):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75) if word == "wait" else None)
        print("waiting", flush=True)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            time.sleep(0.05)
    else:
        print(f"code {word}", flush=True)
        sys.exit(int(word))
"""

# A mount is a link; the daemon that lives on must not hold the lock of the job.
GCSFUSE = """
bucket="${@: -2:1}" folder="${@: -1}"
if [ "$bucket" = forbidden ]; then echo "Error: permission denied" >&2; exit 1; fi
mkdir -p "$CLOUD/bucket/$bucket"
rmdir "$folder"
ln -s "$CLOUD/bucket/$bucket" "$folder"
sleep 8 >/dev/null 2>&1 </dev/null &
"""

PYTHON = """
if [ "$1" = -c ]; then exec "{python}" -I -S "$@"; fi
folder="${{!#}}"
mkdir -p "$folder/bin"
touch "$folder/pyvenv.cfg"
cp "{r2d}" "$folder/bin/r2d"
cp "{pip}" "$folder/bin/python"
"""


def program(path, code):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable} -IS\n{code}")
    path.chmod(0o755)
    return path


class Cloud:
    """A project of its own under git, stand-ins of the programs, and two workers."""

    def __init__(self, folder):
        self.folder, self.root = folder, folder / "the project"
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in " ".join(SYSTEM).split():
            found = shutil.which(name)
            if not found:
                pytest.skip(f"{name} IS ABSENT: the launchers are not tested on this machine")
            (self.bin / name).symlink_to(found)
        shutil.copytree(LAUNCH, self.root / "launch")
        shutil.copytree(ROOT / "configs", self.root / "configs")
        for name in ("requirements.txt", "setup.cfg"):
            shutil.copy(ROOT / name, self.root / name)
        self.r2d = program(folder / "r2d", R2D)
        pip = executable(folder / "pip", f'echo "pip $PWD $*" >>"{folder}/installed"; echo Python 3.12.0')
        self.python = executable(
            folder / "python", PYTHON.format(python=sys.executable, r2d=self.r2d, pip=pip)
        )
        executable(self.bin / "hostname", 'echo "${WORKER:-laptop}"')
        for number in (0, 1):
            (folder / f"w-{number}").mkdir()
        self.values = {}

    def stub(self, name, code):
        """A bash stand-in that notes its words, then runs the code."""
        note = f"""
words=$("{sys.executable}" -IS -c 'import json, sys; print(json.dumps(sys.argv[1:]))' {name} "$@")
printf '%s\\n' "$words" >>"{self.folder}/calls"
"""
        executable(self.bin / name, note + code)

    def commit(self):
        def git(*words):
            subprocess.run(["git", "-C", self.root, *words], check=True, env=self.environment(), timeout=30)

        git("init", "--quiet")
        git("add", ".")
        git("commit", "--quiet", "--message", "all")

    def environment(self, **values):
        who = {
            f"GIT_{role}_{what}": "a@b.c" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        return {
            "PATH": str(self.bin),
            "HOME": str(self.folder),
            "CLOUD": str(self.folder),
            "PYTHON": str(self.python),
            "LC_ALL": "C.UTF-8",
            "HF_TOKEN": SECRET,
            "GIT_CONFIG_GLOBAL": "/dev/null",
            **who,
            **self.values,
            **values,
        }

    def call(self, script, *words, stdin="", **values):
        result = subprocess.run(
            [self.root / "launch" / script, *words],
            cwd=self.folder,
            env=self.environment(**values),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert SECRET not in result.stdout + result.stderr
        return result

    def begin(self, script, *words, **values):
        return subprocess.Popen(
            [self.root / "launch" / script, *words],
            env=self.environment(**values),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def notes(self, name):
        file = self.folder / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def changes(self):
        """The calls of gcloud that change something."""
        return [
            words[4]
            for words in self.notes("calls")
            if words[3] == "queued-resources" and words[4] in ("create", "delete")
        ]

    def write(self, **files):
        for name, text in files.items():
            (self.folder / name).write_text(text)

    def wait_for(self, test):
        end = time.monotonic() + 15
        while not test():
            assert time.monotonic() < end, "did not come"
            time.sleep(0.05)


POD = {
    "TPU_NAME": "r2d",
    "PROJECT": "my-project",
    "ZONE": "us-west4-a",
    "ACCELERATOR_TYPE": "v5litepod-16",
    "CONFIG": "configs/debug_cpu.yaml",
    "WORKDIR": "gs://my-bucket/runs/first",
    "PAUSE": "0",
}
GKE = {
    "JOB_NAME": "r2d",
    "IMAGE": "us-docker.pkg.dev/my-project/r2d/r2d:1",
    "CONFIG": "configs/published.yaml",
    "WORKDIR": "gs://my-bucket/runs/first",
    "TPU_ACCELERATOR": "tpu-v5-lite-podslice",
    "TPU_TOPOLOGY": "4x4",
}
SLURM = {"CONFIG": "configs/published.yaml", "WORKDIR": "/scratch/a b/first", "TIME": "04:00:00"}
POD_COMMANDS = ["create", "setup", "run", "status", "logs", "stop", "resume", "delete"]


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A slice that is set up, to copy from; the tests of setup make their own."""
    cloud = Cloud(tmp_path_factory.mktemp("prepared"))
    program(cloud.bin / "gcloud", GCLOUD)
    cloud.commit()
    cloud.write(slice="ACTIVE", node="READY")
    result = cloud.call("tpu_pod.sh", "setup", **POD)
    assert result.returncode == 0, result.stderr
    return cloud


@pytest.fixture
def pod(cloud, prepared):
    """gcloud and a slice of two workers that is there, without code."""
    program(cloud.bin / "gcloud", GCLOUD)
    cloud.stub("gcsfuse", GCSFUSE)
    executable(cloud.bin / "mountpoint", '[ -L "$2" ]')
    shutil.copytree(prepared.root / ".git", cloud.root / ".git")
    cloud.values = dict(POD)
    cloud.write(slice="ACTIVE", node="READY")
    return cloud


@pytest.fixture
def ready(pod, prepared):
    """The same, set up."""
    for name in ("w-0", "w-1"):
        shutil.copytree(prepared.folder / name / "r2d", pod.folder / name / "r2d")
    return pod


def one_line(result, *parts, code=2):
    assert result.returncode == code, result.stdout + result.stderr
    (line,) = result.stderr.splitlines()
    for part in parts:
        assert part in line
    return line


# ---- all launchers

SCRIPTS = [
    "tpu_pod.sh",
    "tpu_worker.sh",
    "gke.sh",
    "slurm_gpu.sbatch",
    "local_two_process.sh",
    "debug_gpu.sh",
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_every_flag_and_the_layers_of_restart(script):
    result = subprocess.run([LAUNCH / script, "--help"], capture_output=True, text=True, timeout=30)
    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: launch/{script}")
    assert "estart" in result.stdout
    assert "--dry-run" in result.stdout
    text = (LAUNCH / script).read_text()
    lists = re.findall(r'(?:VALUES|SWITCHES)="([A-Z_\s]+)"|read_flags "([A-Z_\s]+)"', text)
    for name in " ".join(one + other for one, other in lists).split():
        assert re.search(rf"\b{name}\b", result.stdout), name


def test_shellcheck_finds_nothing_in_the_batch_script():
    shellcheck = pathlib.Path(sys.executable).parent / "shellcheck"
    result = subprocess.run(
        [shellcheck, "--external-sources", LAUNCH / "slurm_gpu.sbatch"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("script", LAPTOP)
def test_a_laptop_needs_no_newer_bash_and_no_gnu_tools(script):
    text = (LAUNCH / script).read_text()
    for word in (
        "mapfile", "readarray", "declare -A", "local -n", "wait -n", "&>>", "|&", "sed -i", "readlink -f",
        "realpath", "date -d", "grep -P", "stat -c", "timeout ", ",,}", "^^}", "@Q}",
    ):  # fmt: skip
        assert word not in text, word
    # Before bash 4.4 an empty array is an unbound variable; these are never empty.
    for name in re.findall(r'(?<!\+)"\$\{(\w+)\[@\]\}"', text):
        assert name in ("place", "name", "kind", "settings", "kubectl", "values"), name


def test_quoting_gives_back_every_word(cloud):
    script = 'script=x program=x; . "$1"; shift; eval "words=($(quoted "$@"))"; printf "%s\\0" "${words[@]}"'
    words = [*ODD, "", "\n", "two\nlines\n", "-n", "plain/1.2:x=y"]
    result = subprocess.run(
        ["bash", "-c", script, "bash", LAUNCH / "cloud.sh", *words],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.stdout.split("\0")[:-1] == words


@pytest.mark.parametrize(
    ("script", "words", "values"),
    [
        *[("tpu_pod.sh", [command], POD) for command in POD_COMMANDS],
        *[("gke.sh", [command], GKE) for command in ("apply", "status", "logs", "delete")],
        ("slurm_gpu.sbatch", [], SLURM),
        ("local_two_process.sh", [], {}),
        ("debug_gpu.sh", [], {}),
    ],
)
def test_a_dry_run_prints_commands_and_runs_none(cloud, script, words, values):
    names = ["gcloud", "kubectl", "sbatch", "srun", "scontrol", "nvidia-smi", "ssh", "r2d"]
    for name in names:
        cloud.stub(name, "exit 1")
    takes = words in ([], ["run"], ["resume"], ["apply"])
    odd = [ODD[0]] if takes and script != "local_two_process.sh" else []
    result = cloud.call(script, *words, "--dry-run", *odd, **values)
    assert (result.returncode, result.stderr) == (0, "")
    assert cloud.notes("calls") == []
    assert not (cloud.folder / "installed").exists()
    assert not (cloud.root / "runs").exists()
    lines = [shlex.split(line, comments=True) for line in result.stdout.splitlines()]
    assert lines
    flat = [word for line in lines for word in line]
    assert any(name in word for word in flat for name in names)
    if odd and script != "tpu_pod.sh":
        assert odd[0] in flat
    # What is pasted is checked by bash.
    assert subprocess.run(["bash", "-n"], input=result.stdout, text=True, timeout=30).returncode == 0


@pytest.mark.parametrize(
    ("script", "words", "missing", "example"),
    [
        ("tpu_pod.sh", ["create"], "TPU_NAME, PROJECT, ZONE, ACCELERATOR_TYPE.", "--zone us-west4-a"),
        ("tpu_pod.sh", ["run"], "ACCELERATOR_TYPE, CONFIG, WORKDIR.", "--workdir gs://my-bucket/runs/first"),
        ("tpu_pod.sh", ["resume"], "TPU_NAME, PROJECT, ZONE, ACC", "--config configs/"),
        *[("tpu_pod.sh", [command], "TPU_NAME, PROJECT, ZONE.", "--tpu-name r2d") for command in
          ("setup", "status", "logs", "stop", "delete")],
        ("gke.sh", ["apply", "--job-name", "x"], "IMAGE, CONFIG, WORKDIR, TPU_ACCELERATOR, TPU", "--tpu-topology 4x4"),
        ("gke.sh", ["status"], "JOB_NAME.", "--job-name r2d"),
        ("slurm_gpu.sbatch", [], "CONFIG, WORKDIR, TIME.", "--time 04:00:00"),
    ],
)  # fmt: skip
def test_what_is_missing_is_told_in_one_line_before_anything_is_done(cloud, script, words, missing, example):
    for name in ("gcloud", "kubectl", "sbatch"):
        cloud.stub(name, "exit 1")
    line = one_line(cloud.call(script, *words), "not set: ", missing, example)
    assert line.startswith("error: launch/")
    assert cloud.notes("calls") == []


@pytest.mark.parametrize(
    ("script", "words", "part"),
    [
        ("tpu_pod.sh", ["fly"], "has no command fly"),
        ("tpu_pod.sh", ["create", "--colour", "red"], "no option --colour"),
        ("tpu_pod.sh", ["create", "--zone"], "--zone has no value"),
        ("tpu_pod.sh", ["create", "--zone", "--spot"], "--zone has no value"),
        ("tpu_pod.sh", ["create", "--spot=maybe"], "--spot takes no value"),
        ("tpu_pod.sh", ["create", "--tpu-name", "My_TPU"], "TPU_NAME=My_TPU"),
        ("tpu_pod.sh", ["create", "--zone", "us-west4"], "An example: us-west4-a"),
        ("tpu_pod.sh", ["create", "--accelerator-type", "v9q-8"], "RUNTIME_VERSION: not known for v9q-8"),
        ("tpu_pod.sh", ["create", "--workdir", "runs/x"], "v5litepod-16 has several hosts"),
        ("tpu_pod.sh", ["run", "--workdir", "runs/x"], "Use a bucket"),
        ("tpu_pod.sh", ["resume", "--workdir", "runs/x", "--accelerator-type", "v4-8"], "For resume use a bucket"),
        ("tpu_pod.sh", ["run", "--workdir", "gs://my-bucket"], "gs://my-bucket/runs/first"),
        ("tpu_pod.sh", ["run", "--config", "absent.yaml"], "there is no such file"),
        ("tpu_pod.sh", ["run", "seed"], "is no KEY=VALUE"),
        ("tpu_pod.sh", ["status", "seed=1"], "takes no seed=1"),
        ("tpu_pod.sh", ["resume", "--attempts", "some"], "ATTEMPTS=some"),
        ("gke.sh", ["apply", "--tpu-topology", "4by4"], "TPU_TOPOLOGY=4by4"),
        ("gke.sh", ["apply", "--chips-per-host", "3"], "its 16 chips are not hosts of CHIPS_PER_HOST=3"),
        ("gke.sh", ["apply", "--workdir", "/tmp/x"], "WORKDIR=/tmp/x"),
        ("gke.sh", ["apply", "a=b\nc"], "one line in a manifest"),
        ("gke.sh", ["render", "--job-name", "R2D"], "JOB_NAME=R2D"),
        ("slurm_gpu.sbatch", ["--nodes", "two"], "NODES=two"),
        ("slurm_gpu.sbatch", ["--config", "absent.yaml"], "there is no such file"),
        ("slurm_gpu.sbatch", [], "there is no r2d in it"),
        ("local_two_process.sh", ["--venv", "absent"], "is not installed"),
        ("debug_gpu.sh", ["--gpu", "first"], "GPU=first"),
        ("tpu_worker.sh", ["fly"], "no command fly"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(cloud, script, words, part):
    for name in ("gcloud", "kubectl", "sbatch"):
        cloud.stub(name, "exit 1")
    values = {"tpu_pod.sh": POD, "gke.sh": GKE, "slurm_gpu.sbatch": SLURM}.get(script, {})
    one_line(cloud.call(script, *words, **values), part)
    assert cloud.notes("calls") == []


def test_a_switch_that_is_no_is_not_taken_for_yes(cloud):
    result = cloud.call("tpu_pod.sh", "create", "--dry-run", **POD, SPOT="no")
    assert "--spot" not in result.stdout
    assert "--spot" in cloud.call("tpu_pod.sh", "create", "--dry-run", **POD, SPOT="yes").stdout
    one_line(cloud.call("tpu_pod.sh", "create", **POD, SPOT="perhaps"), "SPOT=perhaps")


@pytest.mark.parametrize(
    ("script", "words", "values", "name"),
    [
        ("tpu_pod.sh", ["create"], POD, "gcloud"),
        ("gke.sh", ["apply"], GKE, "kubectl"),
        ("debug_gpu.sh", [], {}, "nvidia-smi"),
    ],
)
def test_a_program_that_is_not_there_is_named(cloud, script, words, values, name):
    one_line(cloud.call(script, *words, **values), f"{name} is not installed")


# ---- tpu_pod.sh


def test_create_waits_until_the_slice_is_there(pod):
    (pod.folder / "slice").unlink()
    pod.write(next="WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE")
    values = {"SPOT": "yes", "SERVICE_ACCOUNT": "a@b.c", "VALID_UNTIL": "6h"}
    result = pod.call("tpu_pod.sh", "create", **values)
    assert result.returncode == 0, result.stderr
    assert [line.split(": ")[1] for line in result.stdout.splitlines()] == [
        "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE",
    ]  # fmt: skip
    (words,) = [words for words in pod.notes("calls") if words[4] == "create"]
    assert words == shlex.split(
        "gcloud compute tpus queued-resources create r2d --node-id r2d --project my-project --zone us-west4-a "
        "--accelerator-type v5litepod-16 --runtime-version v2-alpha-tpuv5-lite --service-account a@b.c "
        "--valid-until-duration 6h --spot"
    )


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("v6e-8", "v2-alpha-tpuv6e"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v4-8", "tpu-ubuntu2204-base"),
        ("v5litepod-8", "v2-alpha-tpuv5-lite"),
    ],
)
def test_the_software_fits_the_accelerator(cloud, kind, version):
    values = POD | {"ACCELERATOR_TYPE": kind}
    result = cloud.call("tpu_pod.sh", "create", "--dry-run", "--workdir", "runs/one_host", **values)
    assert f"--runtime-version {version}" in result.stdout


def test_create_makes_no_second_slice(pod):
    result = pod.call("tpu_pod.sh", "create")
    assert result.returncode == 0
    assert "is there already, ACTIVE" in result.stdout
    for state, node in (("FAILED", "READY"), ("SUSPENDED", "READY"), ("ACTIVE", "PREEMPTED")):
        pod.write(slice=state, node=node)
        one_line(pod.call("tpu_pod.sh", "create"), "blocks its name", "delete")
    pod.write(broken="")
    one_line(pod.call("tpu_pod.sh", "create"), "PERMISSION_DENIED", code=1)
    assert pod.changes() == []


def test_create_tells_of_a_request_that_fails(pod):
    (pod.folder / "slice").unlink()
    pod.write(next="WAITING_FOR_RESOURCES\nFAILED")
    one_line(pod.call("tpu_pod.sh", "create"), "is FAILED", code=1)


def test_setup_brings_the_committed_code_to_every_worker(pod):
    (pod.root / "configs" / "later.yaml").write_text("seed: 1\n")
    rows = pod.folder / "my rows.jsonl"
    rows.write_text("{}\n")
    result = pod.call("tpu_pod.sh", "setup", "--ship", str(rows))
    assert result.returncode == 0, result.stderr
    assert "changes that are not committed do not go along" in result.stdout
    assert "worker w-0 ready" in result.stdout
    assert "worker w-1 ready" in result.stdout
    head = subprocess.run(
        ["git", "-C", pod.root, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=30
    )
    for number in (0, 1):
        home = pod.folder / f"w-{number}" / "r2d"
        assert (home / "commit").read_text() == head.stdout
        assert (home / "files" / "my rows.jsonl").read_text() == "{}\n"
        assert (home / "code" / "configs" / "debug_cpu.yaml").exists()
        assert not (home / "code" / "configs" / "later.yaml").exists()
    installed = (pod.folder / "installed").read_text().splitlines()
    extra = [line for line in installed if line.endswith("--editable .[tpu]")]
    assert len(extra) == 2
    assert all("--constraint requirements.txt" in line for line in extra)
    # Again it installs nothing, and what is not committed cannot be run.
    assert pod.call("tpu_pod.sh", "setup").returncode == 0
    assert (pod.folder / "installed").read_text().count("[tpu]") == 2
    one_line(pod.call("tpu_pod.sh", "run", "--config", "configs/later.yaml"), "is not committed")


def test_a_step_out_of_order_is_refused(pod):
    one_line(pod.call("tpu_pod.sh", "run"), "not all workers of r2d are set up")
    pod.write(slice="WAITING_FOR_RESOURCES")
    one_line(pod.call("tpu_pod.sh", "setup"), "is WAITING_FOR_RESOURCES, not ACTIVE")
    (pod.folder / "slice").unlink()
    one_line(pod.call("tpu_pod.sh", "run"), "there is no slice r2d", "create")


def test_run_gives_every_worker_the_same_words_exactly(ready):
    result = ready.call("tpu_pod.sh", "run", *ODD)
    assert result.returncode == 0, result.stderr
    ready.wait_for(lambda: len(list(ready.folder.glob("w-*/r2d/job.exit"))) == 2)
    for name, job in zip(("w-0", "w-1"), sorted(ready.notes("jobs")), strict=True):
        folder = ready.folder / name / "r2d" / "buckets" / "my-bucket"
        assert job == [
            name, "run", "--config", "configs/debug_cpu.yaml", "--workdir", f"{folder}/runs/first",
            "--distributed", "auto", "platform=tpu", *ODD,
        ]  # fmt: skip
        mounts = [
            words for words in ready.notes("calls") if words[0] == "gcsfuse" and words[-1] == str(folder)
        ]
        assert len(mounts) == 1
        assert mounts[0][-2] == "my-bucket"
        assert "--metadata-cache-ttl-secs=0" in mounts[0]
    # The mount is there already, and its daemon holds no lock.
    assert ready.call("tpu_pod.sh", "run").returncode == 0
    assert [words[0] for words in ready.notes("calls")].count("gcsfuse") == 2


def test_a_second_job_is_refused_and_stop_saves(ready):
    ready.write(does="wait")
    assert ready.call("tpu_pod.sh", "run").returncode == 0
    ready.wait_for(lambda: len(list(ready.folder.glob("runs-*"))) == 2)
    one_line(ready.call("tpu_pod.sh", "run"), "a job runs on r2d", "logs", "stop")
    one_line(ready.call("tpu_pod.sh", "setup"), "a job runs on r2d")
    # Where two start at the same moment, the lock of the worker decides.
    worker = ready.folder / "w-0" / "r2d" / "code" / "launch" / "tpu_worker.sh"
    again = subprocess.run(
        [worker, "start", "x"],
        env=ready.environment(WORKER="w-0"),
        capture_output=True,
        text=True,
        timeout=30,
    )
    one_line(again, "worker w-0: a job runs here", code=3)
    assert len(ready.notes("jobs")) == 2
    status = ready.call("tpu_pod.sh", "status").stdout.splitlines()
    assert status == [
        "slice r2d: ACTIVE", "worker w-0 running", "worker w-1 running",
        "run: not finished, gs://my-bucket/runs/first",
    ]  # fmt: skip
    ready.wait_for(lambda: "waiting" in (ready.folder / "w-1" / "r2d" / "job.log").read_text())
    stopped = ready.call("tpu_pod.sh", "stop")
    assert stopped.stdout.splitlines() == ["worker w-0 ended 75", "worker w-1 ended 75"]
    logs = ready.call("tpu_pod.sh", "logs", "--no-follow", "--worker", "1").stdout
    assert "waiting\n== ended with exit code 75\n" in logs
    one_line(ready.call("tpu_pod.sh", "logs", "--worker", "first"), "WORKER=first")


def test_a_bucket_that_cannot_be_mounted_is_told(ready):
    worker = ready.folder / "w-0" / "r2d" / "code" / "launch" / "tpu_worker.sh"
    words = [worker, "start", "--workdir", "gs://forbidden/x"]
    environment = ready.environment(WORKER="w-0")
    result = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30)
    one_line(result, "gs://forbidden cannot be mounted: Error: permission denied", "roles/storage.objectUser")
    assert ready.notes("jobs") == []


def test_what_mounts_buckets_is_installed_where_it_is_missing(ready):
    (ready.bin / "gcsfuse").rename(ready.folder / "gcsfuse")
    install = f'mv "{ready.folder}/gcsfuse" "{ready.bin}/gcsfuse"'
    ready.stub("sudo", f'case "$*" in *install*) {install} ;; tee*) cat >/dev/null ;; esac')
    executable(ready.bin / "lsb_release", "echo jammy")
    executable(ready.bin / "curl", "echo key")
    worker = ready.folder / "w-0" / "r2d" / "code" / "launch" / "tpu_worker.sh"
    words = [worker, "start", "--workdir", "gs://my-bucket/x"]
    environment = ready.environment(WORKER="w-0")
    result = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stdout) == (0, "worker w-0 started\n"), result.stderr
    assert [words[1] for words in ready.notes("calls") if words[0] == "sudo"] == [
        "tee",
        "tee",
        "apt-get",
        "apt-get",
    ]
    ready.wait_for(lambda: ready.notes("jobs"))


def test_of_two_starts_at_once_one_is_refused(ready):
    ready.write(does="wait")
    worker = ready.folder / "w-0" / "r2d" / "code" / "launch" / "tpu_worker.sh"
    both = [
        subprocess.Popen(
            [worker, "start", "x"], env=ready.environment(WORKER="w-0"), stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in both:
        process.communicate(timeout=30)
    assert sorted(process.returncode for process in both) == [0, 3]
    ready.wait_for(lambda: ready.notes("jobs"))
    ready.wait_for(lambda: "waiting" in (ready.folder / "w-0" / "r2d" / "job.log").read_text())
    # SIGTERM to everything of the session, as when the machine goes down: the exit code is kept.
    pid = int((ready.folder / "w-0" / "r2d" / "job.pid").read_text())
    os.killpg(os.getsid(pid), signal.SIGTERM)
    ready.wait_for(lambda: (ready.folder / "w-0" / "r2d" / "job.exit").exists())
    assert (ready.folder / "w-0" / "r2d" / "job.exit").read_text() == "75\n"
    assert len(ready.notes("jobs")) == 1


def test_stop_ends_a_job_that_does_not_listen(ready):
    ready.write(does="stubborn")
    ready.call("tpu_pod.sh", "run")
    for number in (0, 1):
        ready.wait_for(
            lambda n=number: "waiting" in (ready.folder / f"w-{n}" / "r2d" / "job.log").read_text()
        )
    stopped = ready.call("tpu_pod.sh", "stop", STOP_SECS="0")
    assert stopped.stdout.splitlines() == ["worker w-0 ended 137", "worker w-1 ended 137"]


def test_a_job_whose_machine_went_away_is_told_apart(ready):
    (ready.folder / "w-0" / "r2d" / "job.pid").write_text("1\n")
    assert "worker w-0 ended unknown" in ready.call("tpu_pod.sh", "status").stdout
    assert "worker w-1 idle" in ready.call("tpu_pod.sh", "status").stdout


def test_a_worker_with_an_old_python_fetches_one(ready):
    old = f"""
case "$*" in
  -c*) echo 3.10 ;;
  "-m pip"*break-system*) ;;
  "-m pip"*) exit 1 ;;
  "-m uv python find"*) echo "{ready.python}" ;;
esac
"""
    ready.stub("python3", old)
    home = ready.folder / "w-0" / "r2d"
    (home / "venv" / ".installed").unlink()
    environment = ready.environment(WORKER="w-0")
    del environment["PYTHON"]
    worker = home / "code" / "launch" / "tpu_worker.sh"
    result = subprocess.run([worker, "setup"], env=environment, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    assert "worker w-0 ready: Python 3.12.0" in result.stdout
    assert ["python3", "-m", "uv", "python", "install", "3.12"] in ready.notes("calls")


def test_the_worker_prints_its_commands(ready):
    worker = ready.folder / "w-0" / "r2d" / "code" / "launch" / "tpu_worker.sh"
    for command, part in (("setup", "make_environment"), ("start", "r2d/venv/bin/r2d run --config c")):
        words = [command, "--dry-run", *(["--config", "c"] if command == "start" else [])]
        result = subprocess.run(
            [worker, *words], env=ready.environment(), capture_output=True, text=True, timeout=30
        )
        assert part in result.stdout
    assert ready.notes("jobs") == []


@pytest.mark.parametrize(
    ("words", "reply", "deleted"), [([], "y\n", 1), (["--yes"], "", 1), ([], "n\n", 0), ([], "", 0)]
)
def test_delete_asks_first(pod, words, reply, deleted):
    result = pod.call("tpu_pod.sh", "delete", *words, stdin=reply)
    assert result.returncode == (0 if deleted else 2)
    assert len(pod.changes()) == deleted
    assert ("[y/N]" in result.stdout) == (not words)
    assert (pod.folder / "slice").exists() == (not deleted)


def test_resume_goes_through_two_preemptions_to_the_end(pod):
    """The first slice is preempted under the job, the second one is suspended; the third finishes."""
    (pod.folder / "slice").unlink()
    pod.write(next="WAITING_FOR_RESOURCES\nACTIVE", does="node=PREEMPTED 75\nslice=SUSPENDED 75\ndone 0")
    result = pod.call("tpu_pod.sh", "resume", "--spot", "--delete-when-done", ODD[0])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the run is finished: gs://my-bucket/runs/first" in result.stdout
    assert pod.changes() == ["create", "delete", "create", "delete", "create", "delete"]
    assert all("--spot" in words for words in pod.notes("calls") if words[4] == "create")
    jobs = pod.notes("jobs")
    assert len(jobs) == 6
    assert len({tuple(job) for job in jobs}) == 2
    assert jobs[0][-1] == ODD[0]
    # Started again on a finished run it does nothing.
    again = pod.call("tpu_pod.sh", "resume")
    assert "is finished" in again.stdout
    assert "still costs money" in again.stdout
    assert len(pod.notes("jobs")) == 6


def test_resume_gives_up_after_its_attempts(pod):
    pod.write(does="1")
    result = pod.call("tpu_pod.sh", "resume", "--attempts", "2")
    assert result.returncode == 1
    assert "2 attempts were made; the run is not finished" in result.stderr
    assert "delete" in result.stderr
    assert "exit codes: 1 1" in result.stdout
    assert len(pod.notes("jobs")) == 4


def test_resume_stops_at_a_mistake(pod):
    pod.write(does="2")
    result = pod.call("tpu_pod.sh", "resume")
    assert result.returncode == 2
    assert "ended with code 2 twice" in result.stderr
    assert len(pod.notes("jobs")) == 4


def test_resume_ends_a_job_that_is_not_whole(ready):
    """Worker 1 fails; worker 0 waits for it without end."""
    ready.write(**{"does": "stubborn\ndone 0", "does-w-1": "1\n0"})
    result = ready.call("tpu_pod.sh", "resume", STOP_SECS="0")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the job runs on some workers only; stopping it" in result.stdout
    assert "exit codes: 137 1" in result.stdout
    assert ready.changes() == []
    assert [job[0] for job in ready.notes("jobs")].count("w-0") == 2


def test_resume_leaves_the_slice_alone_where_the_cloud_does_not_answer(pod):
    pod.write(broken="")
    result = pod.call("tpu_pod.sh", "resume", "--attempts", "3")
    assert result.returncode == 1
    assert "gcloud failed 3 times in a row" in result.stderr
    assert pod.changes() == []


def test_resume_joins_a_job_that_runs(ready):
    ready.write(does="wait")
    ready.call("tpu_pod.sh", "run")
    ready.wait_for(lambda: len(list(ready.folder.glob("runs-*"))) == 2)
    process = ready.begin("tpu_pod.sh", "resume")
    assert "the job runs on all workers" in process.stdout.readline()
    folder = ready.folder / "bucket" / "my-bucket" / "runs" / "first"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{\n  "run_done": true\n}\n')
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "is finished" in output
    assert len(ready.notes("jobs")) == 2
    ready.call("tpu_pod.sh", "stop")


# ---- gke.sh


def manifest(text):
    return YAML(typ="safe", pure=True).load(text)


def test_the_template_is_yaml_and_every_mark_is_a_value():
    text = (LAUNCH / "gke_jobset.yaml").read_text()
    job = manifest(text)["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["completions"] == job["parallelism"] == "${HOSTS}"
    marks = set(re.findall(r"\$\{(\w+)\}", text)) - {"HOSTS", "OVERRIDE", "FOLDER", "BUCKET"}
    help_text = subprocess.run(
        [LAUNCH / "gke.sh", "--help"], capture_output=True, text=True, timeout=30
    ).stdout
    assert all(re.search(rf"^  {mark}\b", help_text, re.M) for mark in marks), marks


@pytest.mark.parametrize(
    ("topology", "chips", "hosts"), [("4x4", "", 4), ("16x16", "4", 64), ("2x4", "8", 1), ("2x2x4", "", 4)]
)
def test_the_manifest_has_what_a_slice_needs(cloud, topology, chips, hosts):
    values = GKE | {"TPU_TOPOLOGY": topology, "CHIPS_PER_HOST": chips, "KUBE_SERVICE_ACCOUNT": "trainer"}
    result = cloud.call("gke.sh", "render", "--spot", *ODD, **values)
    assert result.returncode == 0, result.stderr
    assert "${" not in result.stdout
    made = manifest(result.stdout)
    assert (made["apiVersion"], made["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert made["metadata"]["name"] == made["spec"]["network"]["subdomain"] == "r2d"
    assert made["spec"]["network"]["enableDNSHostnames"] is True
    assert made["spec"]["failurePolicy"]["maxRestarts"] == 5
    stopped, failed = made["spec"]["failurePolicy"]["rules"]
    assert stopped["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert stopped["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert failed["action"] == "RestartJobSet"
    (replicated,) = made["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (job["completions"], job["parallelism"], job["backoffLimit"]) == (hosts, hosts, 0)
    assert job["completionMode"] == "Indexed"
    lost, saved = job["podFailurePolicy"]["rules"]
    assert lost == {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert saved["action"] == "FailJob"
    assert saved["onExitCodes"] == {"containerName": "r2d", "operator": "In", "values": [75]}
    pods = job["template"]["spec"]
    assert pods["restartPolicy"] == "Never"
    assert pods["serviceAccountName"] == "trainer"
    assert pods["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": topology,
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pods["containers"]
    limit = {"google.com/tpu": int(chips or 4)}
    assert container["resources"] == {"limits": limit, "requests": limit}
    assert container["command"] == ["r2d", "run"]
    # Kubernetes makes one $ of two.
    assert [word.replace("$$", "$") for word in container["args"]] == [
        "--config", "configs/published.yaml", "--workdir", "/bucket/runs/first",
        "--distributed", "auto", "platform=tpu", *ODD,
    ]  # fmt: skip
    (volume,) = pods["volumes"]
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/bucket"}]
    assert volume["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "my-bucket"
    assert "metadata-cache:ttl-secs:0" in volume["csi"]["volumeAttributes"]["mountOptions"].split(",")
    assert job["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}


def test_without_spot_and_settings_nothing_is_left_of_them(cloud):
    made = manifest(cloud.call("gke.sh", "render", **GKE).stdout)
    pods = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert "cloud.google.com/gke-spot" not in pods["nodeSelector"]
    assert pods["containers"][0]["args"][-1] == "platform=tpu"


def test_kubectl_gets_the_manifest_the_context_and_the_namespace(cloud):
    cloud.stub("kubectl", f'case "$*" in *apply*) cat >"{cloud.folder}/applied" ;; esac')
    values = GKE | {"KUBE_CONTEXT": "a b", "NAMESPACE": "train"}
    assert cloud.call("gke.sh", "apply", ODD[0], **values).returncode == 0
    assert manifest((cloud.folder / "applied").read_text())["metadata"]["namespace"] == "train"
    for command in ("status", "logs"):
        assert cloud.call("gke.sh", command, **values).returncode == 0
    one_line(cloud.call("gke.sh", "delete", **values, stdin="n\n"), "nothing was done")
    assert cloud.call("gke.sh", "delete", **values, stdin="y\n").returncode == 0
    start = ["kubectl", "--context", "a b", "--namespace", "train"]
    calls = cloud.notes("calls")
    assert all(words[:5] == start for words in calls)
    name = "jobset.sigs.k8s.io/jobset-name=r2d"
    assert [words[5:] for words in calls] == [
        ["apply", "--filename", "-"],
        ["get", "jobset", "r2d", "--output", "wide"],
        ["get", "pods", "--selector", name, "--output", "wide"],
        ["logs", "--selector", f"{name},batch.kubernetes.io/job-completion-index=0",
         "--container", "r2d", "--tail", "-1", "--follow"],
        ["delete", "jobset", "r2d"],
    ]  # fmt: skip


def test_the_exit_code_of_kubectl_is_passed_on(cloud):
    cloud.stub("kubectl", 'cat >/dev/null; echo "error: no context" >&2; exit 3')
    assert cloud.call("gke.sh", "apply", **GKE).returncode == 3


# ---- slurm_gpu.sbatch


@pytest.fixture
def slurm(cloud):
    for name in ("sbatch", "scontrol"):
        cloud.stub(name, "")
    cloud.stub("srun", 'exit "$SRUN_CODE"')
    (cloud.root / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(cloud.r2d, cloud.root / ".venv" / "bin" / "r2d")
    cloud.values = dict(SLURM)
    return cloud


def test_the_batch_script_submits_itself(slurm):
    words = ["--nodes", "2", "--gpus-per-node=4", "--partition", "gpu", "--account", "me"]
    result = slurm.call("slurm_gpu.sbatch", *words, *ODD)
    assert result.returncode == 0, result.stderr
    (call,) = slurm.notes("calls")
    assert call == [
        "sbatch", "--nodes", "2", "--ntasks-per-node", "4", "--gpus-per-node", "4", "--cpus-per-task", "8",
        "--time", "04:00:00", "--export", "ALL,R2D_HOME,CONFIG,WORKDIR,VENV,MAX_RESTARTS",
        "--partition", "gpu", "--account", "me", str(slurm.root / "launch" / "slurm_gpu.sbatch"), *ODD,
    ]  # fmt: skip


def test_slurm_is_told_to_warn_and_to_queue_again():
    lines = re.findall(r"^#SBATCH (.*)$", (LAUNCH / "slurm_gpu.sbatch").read_text(), re.M)
    assert {"--requeue", "--signal=TERM@120", "--open-mode=append"} <= set(lines)


@pytest.mark.parametrize(
    ("ends", "restarts", "code", "queued"),
    [(75, "0", 0, True), (0, "0", 0, False), (2, "0", 2, False), (75, "100", 75, False)],
)
def test_the_job_goes_back_into_the_queue_after_code_75(slurm, ends, restarts, code, queued):
    """Slurm runs a copy of the script in a folder of its own."""
    spool = slurm.folder / "spool" / "job1"
    spool.mkdir(parents=True)
    shutil.copy(slurm.root / "launch" / "slurm_gpu.sbatch", spool / "slurm_script")
    environment = slurm.environment(
        SLURM_JOB_ID="7", SLURM_RESTART_COUNT=restarts, SLURM_CPUS_PER_TASK="6", SRUN_CODE=str(ends),
        R2D_HOME=str(slurm.root), VENV=".venv", MAX_RESTARTS="100",
    )  # fmt: skip
    result = subprocess.run(
        [spool / "slurm_script", *ODD],
        env=environment,
        cwd=slurm.folder,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == code, result.stderr
    srun, *others = slurm.notes("calls")
    assert srun == [
        "srun", "--kill-on-bad-exit=0", "--wait=300", "--gpu-bind=none", "--cpus-per-task", "6",
        ".venv/bin/r2d", "run", "--config", "configs/published.yaml", "--workdir", "/scratch/a b/first",
        "--distributed", "auto", "platform=gpu", *ODD,
    ]  # fmt: skip
    assert others == ([["scontrol", "requeue", "7"]] if queued else [])


# ---- local_two_process.sh


@pytest.fixture
def pair(cloud):
    """r2d that ends as the variables CODE0 and CODE1 say; "wait": after SIGTERM, with 75."""
    code = """
import json, os, pathlib, signal, sys, time
index = sys.argv[-1].rpartition(",")[2]
(pathlib.Path(os.environ["CLOUD"]) / f"process{index}").write_text(json.dumps([os.environ["XLA_FLAGS"], *sys.argv[1:]]))
code = os.environ["CODE" + index]
if code in ("wait", "stubborn"):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75) if code == "wait" else None)
    print("waiting", flush=True)
    time.sleep(20)
    time.sleep(20)
time.sleep(float(os.environ.get("SLEEP", 0)))
print("error: this is process", index)
sys.exit(int(code))
"""
    program(cloud.root / ".venv" / "bin" / "r2d", code)
    return cloud


@pytest.mark.parametrize(
    ("codes", "expected"), [(("0", "0"), 0), (("75", "75"), 75), (("0", "75"), 1), (("2", "2"), 2)]
)
def test_two_processes_end_with_one_code(pair, codes, expected):
    result = pair.call(
        "local_two_process.sh", "--", "run", "--config", "c", ODD[0], CODE0=codes[0], CODE1=codes[1]
    )
    assert result.returncode == expected, result.stderr
    assert f"exit codes: {codes[0]} and {codes[1]}" in result.stdout
    for index in (0, 1):
        flags, *words, spec = json.loads((pair.folder / f"process{index}").read_text())
        assert flags == "--xla_force_host_platform_device_count=2"
        assert words == ["run", "--config", "c", ODD[0], "--distributed"]
        assert re.fullmatch(rf"127\.0\.0\.1:\d+,2,{index}", spec)
        log = pair.root / "runs" / "two_processes_logs" / f"process{index}.log"
        assert log.read_text() == f"error: this is process {index}\n"


@pytest.mark.parametrize(("other", "code", "grace"), [("wait", 75, "1"), ("stubborn", 137, "0")])
def test_one_that_fails_ends_the_other(pair, other, code, grace):
    result = pair.call("local_two_process.sh", "--grace", grace, CODE0=other, CODE1="3", SLEEP="0.5")
    assert result.returncode == 3
    assert "process 1 failed with exit code 3: error: this is process 1" in result.stderr
    assert f"exit codes: {code} and 3" in result.stdout


def test_a_signal_reaches_both(pair):
    process = pair.begin("local_two_process.sh", CODE0="wait", CODE1="wait")
    logs = [pair.root / "runs" / "two_processes_logs" / f"process{index}.log" for index in (0, 1)]
    pair.wait_for(lambda: all(log.exists() and "waiting" in log.read_text() for log in logs))
    process.terminate()
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 75, output + errors


# ---- debug_gpu.sh


def test_debug_gpu_tells_what_it_found(cloud):
    cloud.stub("nvidia-smi", 'echo "NVIDIA GeForce RTX, 4070, 8188, 550.54.14"')
    result = cloud.call("debug_gpu.sh", "--gpu", "1", ODD[0], WORKER="alone")
    assert result.returncode == 0, result.stderr
    assert "GPU 1: NVIDIA GeForce RTX, 8188 MiB, driver 550.54.14" in result.stdout
    assert "r2d works on this GPU" in result.stdout
    assert (cloud.folder / "installed").read_text().count(".[cuda]") == 1
    assert cloud.notes("jobs") == [
        ["alone", "run", "--config", "configs/debug_gpu.yaml", "--workdir", "runs/debug_gpu", ODD[0]]
    ]
    cloud.stub("nvidia-smi", 'echo "Small GPU, 4096, 550.54.14"')
    cloud.write(does="2")
    result = cloud.call("debug_gpu.sh")
    assert result.returncode == 2
    assert "note: the config is meant for 8 GB" in result.stdout
    assert "ended with exit code 2" in result.stdout
    assert (cloud.folder / "installed").read_text().count(".[cuda]") == 1


@pytest.mark.parametrize(
    ("code", "part"),
    [
        (
            "echo NVIDIA-SMI has failed because it could not communicate with the driver; exit 9",
            "finds no GPU number 0",
        ),
        ('echo "Old GPU, 8192, 470.82.01"', "too old for CUDA 12"),
    ],
)
def test_no_usable_gpu_is_one_clear_line(cloud, code, part):
    cloud.stub("nvidia-smi", code)
    one_line(cloud.call("debug_gpu.sh"), part)
    assert not (cloud.folder / "installed").exists()


def test_the_image_copies_what_is_there():
    text = (LAUNCH / "Dockerfile").read_text()
    names = [name for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for name in line.split()]
    assert {"setup.cfg", "r2d_jax", "configs"} <= set(names)
    assert all((ROOT / name).exists() for name in names)
