"""kill -9 at random moments of a whole run: the same command comes to the same bits."""

import time

import numpy as np
import pytest
from test_run import assert_same_result, r2d, write_config

from r2d_jax.runtime.checkpoint_files import complete_steps


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("data"))


KILLS = 10


@pytest.fixture(scope="module")
def eventful(tmp_path_factory, config):
    """Settings with an evaluation or a save at nearly every step, and the result of a run left alone."""
    steps = {"max_steps": 40, "eval_every_steps": 4, "save_every_steps": 1, "log_every_steps": 1}
    settings = [f"stage{number}.{key}={value}" for number in (1, 2) for key, value in steps.items()]
    # What follows the kills: test_run.py has it.
    settings += ["evaluation.probabilities=false", "evaluation.faithfulness_rows=0"]
    workdir = tmp_path_factory.mktemp("runs") / "eventful"
    r2d("run", "--config", config, "--workdir", workdir, *settings)
    return workdir, settings


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(eventful, config, tmp_path):
    """kill -9 in steps, evaluations, saves and the hand-over; the same command each time, until it is done."""
    expected, settings = eventful
    workdir = tmp_path / "killed"
    arguments = ("run", "--config", config, "--workdir", workdir, *settings)
    rng = np.random.default_rng(0)

    def written(stages):
        files = [workdir / f"stage{number}" / "metrics.jsonl" for number in stages]
        return sum(file.stat().st_size for file in files if file.exists())

    # Each life gets a little further, and those of the second half come to stage 2, however slow the machine.
    for stages in [(1, 2)] * (KILLS // 2) + [(2,)] * (KILLS // 2):
        before, process = written(stages), r2d(*arguments, wait=False)
        while written(stages) <= before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.25))
        assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()
    r2d(*arguments)
    assert_same_result(expected, workdir)


@pytest.mark.slow
def test_a_checkpoint_damaged_after_a_kill_costs_some_steps_and_nothing_else(eventful, config, tmp_path):
    """As after a power cut: the newest was written whole, and its blocks never came to the disk."""
    expected, settings = eventful
    workdir = tmp_path / "damaged"
    arguments = ("run", "--config", config, "--workdir", workdir, *settings)
    process, latest = r2d(*arguments, wait=False), workdir / "stage1" / "latest"
    while len(complete_steps(latest)) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    newest = complete_steps(latest)[-1]
    for file in (latest / str(newest) / "params").rglob("d/*"):
        file.write_bytes(bytes(file.stat().st_size))
    told = r2d(*arguments)
    assert f"{latest / str(newest)} is passed over" in told
    assert_same_result(expected, workdir)
