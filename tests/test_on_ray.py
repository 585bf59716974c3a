"""Waiting for nodes: where some may come, and said in one line."""

import pytest

from gru4rec import on_ray


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
