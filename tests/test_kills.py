"""kill -9 at random moments of a whole run, and a damaged checkpoint: the same command comes to the same bits."""

import time

import numpy as np
import pytest
from test_run import assert_same_result, r2d, write_config

from r2d_jax.runtime.checkpoint_files import complete_steps


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Training batches of one shape; test_run.py has several."""
    return write_config(tmp_path_factory.mktemp("data"), length_buckets=1)


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
    """kill -9 in steps, evaluations, saves and the hand-over; the same command each time, until it is done.

    A checkpoint damaged after the first kill costs some steps and nothing else.
    """
    expected, settings = eventful
    workdir = tmp_path / "killed"
    arguments = ("run", "--config", config, "--workdir", workdir, *settings)
    rng = np.random.default_rng(0)

    def written(stages):
        files = [workdir / f"stage{number}" / "metrics.jsonl" for number in stages]
        return sum(file.stat().st_size for file in files if file.exists())

    printed, latest = [], workdir / "stage1" / "latest"
    # Each life gets a little further, and those of the second half come to stage 2, however slow the machine.
    for stages in [(1, 2)] * (KILLS // 2) + [(2,)] * (KILLS // 2):
        before, process = written(stages), r2d(*arguments, wait=False)
        # The first leaves a checkpoint to damage, and one to go on from.
        while (written(stages) <= before or not (printed or len(complete_steps(latest)) > 1)) and (
            process.poll() is None
        ):
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.25))
        assert process.poll() is None, process.communicate()
        process.kill()
        out, errors = process.communicate()
        printed.append(out)
        # Of each array in a damaged checkpoint there were twenty lines; a pipe that nobody reads was full of them.
        assert "Traceback" not in errors
        if len(printed) == 1:
            # As after a power cut: the newest was written whole, and its blocks never came to the disk.
            damaged = latest / str(complete_steps(latest)[-1])
            for file in (damaged / "params").rglob("d/*"):
                file.write_bytes(bytes(file.stat().st_size))
    assert f"{damaged} is passed over" in printed[1]
    r2d(*arguments)
    assert_same_result(expected, workdir)
