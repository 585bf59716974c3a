"""How a job is connected to Ray: what it may set, and what is said where it cannot be."""

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
