"""Nodes that die and nodes that join."""

import time

import pytest
from chaos.checks import same
from chaos.cluster import Cluster

pytestmark = pytest.mark.chaos


@pytest.fixture
def cluster(place, request):
    """Three nodes: the driver's, and two with room for a worker each."""
    made = Cluster(place / ("c1" if "fewer" in request.node.name else "c2"), "ab")
    yield made
    assert made.close() == []


def nothing_left(cluster: Cluster) -> None:
    deadline = time.monotonic() + 60
    while cluster.family.alive("ray::RayTrainWorker") or cluster.placement_groups():
        assert time.monotonic() < deadline, f"{cluster.placement_groups()} placement groups"
        time.sleep(1)


def test_a_node_is_replaced_and_the_driver_too(start, undisturbed, moments, inject, cluster):
    job = start(cluster=cluster)
    first, second = sorted(moments.uniform(0, 0.8) for _ in range(2))
    job.until_trained(first * undisturbed.steps)
    time.sleep(moments.uniform(0, 1))
    cluster.kill(moments.choice("ab"))
    inject(f"node killed after step {job.steps()}")
    time.sleep(moments.uniform(0, 5))
    cluster.add("c")
    inject("node joined")
    job.until(lambda: len(job.workers()) == 2)

    job.until_trained(max(second * undisturbed.steps, job.steps() + 1))
    job.kill_driver()
    inject(f"driver killed on a cluster that lives on, after step {job.steps()}")
    nothing_left(cluster)
    job.start()
    same(job, undisturbed)
    nothing_left(cluster)


def test_training_goes_on_with_fewer_and_uses_a_node_that_joins(start, undisturbed, moments, inject, cluster, data):
    job = start("--workers 1:2 --resize-seconds 5", cluster=cluster)
    job.until_trained(moments.uniform(0.05, 0.4) * undisturbed.steps)
    cluster.kill(moments.choice("ab"))
    inject(f"node killed after step {job.steps()} of an elastic run")
    job.until(lambda: "now there are 1," in job.errors)
    assert "going on from the start of epoch 1" in job.errors
    kept = job.checkpoints()
    job.until(lambda: set(job.checkpoints()) - set(kept))
    cluster.add("c")
    inject("node joined an elastic run")
    job.until(lambda: "now there are 2," in job.errors)
    assert job.end() == 0, job.errors[-3000:]
    result = job.result()
    assert result["workers"] == 2
    assert result["events"] == undisturbed.result["events"] == 2 * data.summary["splits"]["train"]["transitions"]
    assert len(result["loss"]) == 2
    job.kept_as_it_must()
    nothing_left(cluster)
