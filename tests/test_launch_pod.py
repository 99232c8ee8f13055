"""TPU pods against a stand-in for gcloud; the workers are folders in which the real launch/tpu_worker.sh runs."""

import os
import shlex
import shutil
import signal
import subprocess

import pytest
from launch_cases import GCLOUD, GCSFUSE, ODD, POD, Cloud, one_line, program
from test_scripts import executable


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


def test_a_mount_whose_daemon_was_killed_is_replaced(ready):
    """Each start ended with code 1, as no folder could be made there."""
    folder = ready.folder / "w-0" / "r2d" / "buckets" / "my-bucket"
    folder.parent.mkdir()
    # Like a dead mount it is there, and cannot be looked at.
    folder.symlink_to(ready.folder / "gone")
    ready.stub("fusermount", 'rm "${@: -1}"')
    worker = ready.folder / "w-0" / "r2d" / "code" / "launch" / "tpu_worker.sh"
    words = [worker, "start", "--workdir", "gs://my-bucket/x"]
    environment = ready.environment(WORKER="w-0")
    result = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stdout) == (0, "worker w-0 started\n"), result.stderr
    assert [words[:2] for words in ready.notes("calls") if words[0] == "fusermount"] == [
        ["fusermount", "-uz"]
    ]
    assert folder.resolve() == ready.folder / "bucket" / "my-bucket"
    ready.wait_for(lambda: ready.notes("jobs"))


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
