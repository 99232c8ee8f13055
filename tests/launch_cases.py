"""Stand-ins for gcloud, gcsfuse and r2d, a project and two workers; in: calls of launchers, out: what they did."""

import json
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
from test_scripts import executable

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
# What the launchers may use; nothing else is on their PATH.
SYSTEM = (
    "bash env sed tr cat git mktemp rm rmdir ln dirname basename date sleep head tail mkdir mv cp tar gzip ls touch",
    "flock setsid nohup",
)
SECRET = "hf_never_shown"
LAPTOP = ["tpu_pod.sh", "tpu_resume.sh", "gke.sh", "cloud.sh"]
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


def one_line(result, *parts, code=2):
    assert result.returncode == code, result.stdout + result.stderr
    (line,) = result.stderr.splitlines()
    for part in parts:
        assert part in line
    return line
