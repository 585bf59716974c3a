"""How a job is connected to Ray: what it may set, what is said where it cannot be; and waiting for nodes."""

import signal

import pytest
import ray

from gru4rec import on_ray
from gru4rec.errors import InputError


def test_what_the_user_has_set_for_the_workers_is_left_as_it_is(monkeypatch):
    """Ray refuses a submitted job that sets a variable of its own runtime environment to something else."""
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    assert on_ray.worker_environment(False).keys() == {"PYTHONWARNINGS"}
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    assert on_ray.worker_environment(False) == {}


def test_what_stops_the_job_is_its_own_and_not_rays(monkeypatch):
    def stop(*_): ...

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: signal.signal(signal.SIGTERM, lambda *_: None))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with on_ray.connected():
            assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_cluster_that_cannot_be_joined_is_named_without_secrets(monkeypatch):
    def refused(**given):
        raise ValueError(
            "Failed to merge the Job's runtime env {'env_vars': {'AWS_SECRET_ACCESS_KEY': 'hush'}}\nwith {'a': {}}."
        )

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refused)
    monkeypatch.setenv("RAY_ADDRESS", "http://who:hush@head:8265")
    with pytest.raises(InputError) as told, on_ray.connected():
        pass
    assert str(told.value) == "RAY_ADDRESS http://***@head:8265: Failed to merge the Job's runtime env {…}."


@pytest.mark.parametrize(
    ("cpus", "gpus", "what"), [(2, 0, "CPUs"), (0, 0.5, "GPUs"), (2, 1, "CPUs and GPUs"), (1, 0, "")]
)
def test_a_cluster_that_may_grow_is_waited_for(monkeypatch, cpus, gpus, what):
    waited, said = [], []
    monkeypatch.setattr(on_ray.ray, "cluster_resources", lambda: {"CPU": 1.0})
    monkeypatch.setattr(on_ray.ray, "remote", lambda **options: lambda _: Task(waited, options))
    monkeypatch.setattr(on_ray.ray, "get", lambda _: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert on_ray.await_room(cpus, gpus, said.append) == 0
    assert not waited + said
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert (on_ray.await_room(cpus, gpus, said.append) > 0) == bool(what)
    assert said == [f"waiting for {what} to join"] * bool(what)
    assert waited == [{"num_cpus": cpus, "num_gpus": gpus}] * bool(what)


class Task:
    def __init__(self, waited, options):
        self.waited, self.options = waited, options

    def remote(self):
        self.waited.append(self.options)
