"""The launchers against stand-ins for kubectl, Slurm, nvidia-smi and r2d, which note their calls and answer as
the real ones; tests/test_launch_pod.py has the TPU pods."""

import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from launch_cases import GKE, LAPTOP, LAUNCH, ODD, POD, POD_COMMANDS, ROOT, SLURM, Cloud, one_line, program
from ruamel.yaml import YAML


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


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
        ("tpu_pod.sh", ["run", "seed"], "is not KEY=VALUE"),
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


def test_b076_memory_settings_are_there_before_the_program_starts(cloud):
    cloud.stub("nvidia-smi", 'echo "NVIDIA GeForce RTX, 4070, 8188, 550.54.14"')
    result = cloud.call("debug_gpu.sh", "--dry-run", "--gpu", "1")
    command = shlex.split(result.stdout.splitlines()[-1])
    assert command[:3] == ["env", "CUDA_VISIBLE_DEVICES=1", "XLA_PYTHON_CLIENT_PREALLOCATE=false"]
    assert command[3].endswith("bin/r2d")


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
