"""Searches whose driver is killed: between trials, in the middle of one, and while the winner is trained."""

import time

import pytest
from chaos.searching import TuneJob
from prepared_folder import prepared_folder
from simple_log import simple_log

pytestmark = pytest.mark.chaos

TRIALS, EPOCHS = 5, 4
SPACE = """
loss = "cross-entropy"
n_sample = 512
batch_size = { choices = [16, 32] }
layers = { low = 32, high = 96, step = 32 }
learning_rate = { low = 0.02, high = 0.4, step = 0.02 }
"""


@pytest.fixture(scope="module")
def command(place):
    """Trials of a few seconds, two at a time."""
    logs = {name: simple_log(size, 500, seed)[0] for seed, (name, size) in enumerate(SPLITS.items())}
    data = prepared_folder(place / "t-data", logs, 500)
    (place / "space.toml").write_text(SPACE)
    return (
        f"--data {data.folder} --space {place / 'space.toml'} --trials {TRIALS} --epochs {EPOCHS} --parallel 2 "
        "--seeds 7 8 --model-name tuned"
    )


SPLITS = {"train": 3000, "valid": 300, "test": 300}


@pytest.fixture(scope="module")
def calm(place, command):
    """The search that nothing disturbs: result, trials, and all bytes of the final models."""
    job = TuneJob(place / "t-calm", command)
    try:
        job.start()
        assert job.end() == 0, job.errors[-3000:]
        job.kept_as_it_must()
        yield job.result(), job.ended(), job.models()
    finally:
        job.close()
        job.remove()


def test_the_driver_killed_and_the_same_command_run_again(place, command, calm, moments, inject):
    job = TuneJob(place / "t", command)
    try:
        disturb(job, moments, inject)
        assert job.end() == 0, job.errors[-3000:]
        expected, trials, models = calm
        assert job.errors.count("going on after") == 4
        measured = ("run_id", "model_version")
        assert {key: value for key, value in job.result().items() if key not in measured} == {
            key: value for key, value in expected.items() if key not in measured
        }
        assert len(trials) == TRIALS
        assert {number: one[:3] for number, one in job.ended().items()} == {
            number: one[:3] for number, one in trials.items()
        }
        assert job.models() == models
        job.kept_as_it_must()
    finally:
        job.close()
        job.remove()


def disturb(job, moments, inject):
    """Kill it again and again; a trial that has ended stays as it is, and the job goes on after those that did."""
    job.start()
    after = moments.randrange(1, 3)
    kill(job, lambda: len(job.ended()) >= after, moments, inject, "right after a trial")
    kill(job, job.in_hand, moments, inject, "in the middle of a trial", moments.uniform(0, 0.5))
    kill(job, lambda: len(job.ended()) == TRIALS, moments, inject, "right after the last trial")
    kill(job, job.winners, moments, inject, "while the winner was trained")


def kill(job, moment, moments, inject, what, wait=0.0):
    job.until(moment)
    time.sleep(wait)
    job.kill_driver()
    ended = job.ended()
    inject(f"search killed {what}, with {len(ended)} of {TRIALS} trials ended")
    time.sleep(moments.choice([0, 3]))
    resumed = job.errors.count("going on after")
    job.start()
    job.until(lambda: job.errors.count("going on after") > resumed)
    assert job.errors.rpartition("going on after ")[2].split()[0] == str(len(ended))
    assert {number: job.ended()[number] for number in ended} == ended
