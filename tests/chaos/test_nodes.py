"""Nodes that die and nodes that join."""

import itertools
import time
from pathlib import Path

import pytest
from chaos.checks import same
from chaos.cluster import Cluster
from chaos.processes import Process, parent
from chaos.scoring import Inputs, ScoreJob

pytestmark = pytest.mark.chaos
_NUMBERS = itertools.count()


@pytest.fixture
def cluster(place):
    """Three nodes: the driver's, and two with room for a worker each."""
    made = Cluster(place / f"c{next(_NUMBERS)}n", "ab")
    yield made
    assert made.close() == []


def nothing_left(cluster: Cluster) -> None:
    deadline = time.monotonic() + 60
    while cluster.family.alive("ray::RayTrainWorker") or cluster.placement_groups():
        assert time.monotonic() < deadline, f"{cluster.placement_groups()} placement groups"
        time.sleep(1)


def nodes_of(processes: list[Process]) -> int:
    """On how many nodes they are: a node's raylet is the parent of all its workers."""
    return len({parent(process) for process in processes})


def test_a_model_is_trained_and_its_lists_are_made_while_nodes_die(
    start, undisturbed, place, data, moments, inject, cluster
):
    job = start(cluster=cluster)
    job.until_trained(moments.uniform(0, 0.6) * undisturbed.steps)
    job.until(lambda: len(job.workers()) == 2 == nodes_of(job.workers()))
    cluster.kill("a")
    inject(f"one of the two nodes with workers killed after step {job.steps()}")
    cluster.add("c")
    same(job, undisturbed)

    inputs = Inputs(Path(data.folder) / "train", {"new": job.run / "model"}, {}, place)
    calm = ScoreJob(place / "n-calm", inputs)
    lists = ScoreJob(place / "n-lists", inputs, cluster=cluster)
    try:
        calm.start()
        assert calm.end() == 0, calm.errors[-3000:]
        inputs.expected["new"] = calm.digest()
        pieces = calm.parts() or calm.result()["files"]
        lists.start()
        lists.until(lambda: nodes_of(lists.actors()) == 2 and lists.parts() >= moments.uniform(0, 0.5) * pieces)
        cluster.kill("b")
        inject(f"one of the two nodes with actors killed after {lists.parts()} of {pieces} parts")
        assert lists.end() == 0, lists.errors[-3000:]
        assert lists.whole() == "new"
    finally:
        for one in (calm, lists):
            one.close()
            one.remove()


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
