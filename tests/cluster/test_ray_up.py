"""The `ray up` files by Ray's own validator, and the commands in them."""

from pathlib import Path

import pytest
import yaml

PLACE = Path(__file__).resolve().parents[2] / "cluster" / "ray-up"


@pytest.fixture(params=sorted(path.name for path in PLACE.iterdir()))
def given(request):
    return yaml.safe_load((PLACE / request.param).read_text())


def validated(given: dict) -> dict:
    try:
        from ray.autoscaler._private.util import prepare_config, validate_config
    except ImportError:
        pytest.skip("this version of Ray has its validator elsewhere")
    made = prepare_config(given)
    validate_config(made)
    return made


def test_rays_validator_takes_them(given):
    made = validated(given)
    types = made["available_node_types"]
    assert types[made["head_node_type"]]["resources"] == {"CPU": 0}
    assert all(kind["max_workers"] <= made["max_workers"] for kind in types.values())


def test_rays_validator_finds_what_is_wrong(given):
    with pytest.raises(Exception, match="max_wokers"):
        validated({**given, "max_wokers": 3})


def test_the_head_is_on_demand_and_asks_for_a_token(given):
    types = given["available_node_types"]
    for name, kind in types.items():
        assert ("spot" in str(kind).lower()) == (name != given["head_node_type"])
    starts = [given["head_start_ray_commands"][-1], given["worker_start_ray_commands"][-1]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "/home/ubuntu/.ray/auth_token" in given["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_only_the_head_may_start_machines(given):
    head = given["head_node_type"]
    if given["provider"]["type"] == "gcp":
        for name, kind in given["available_node_types"].items():
            (account,) = kind["node_config"]["serviceAccounts"]
            assert account["email"].startswith("ray-autoscaler-" if name == head else "gru4rec-worker@")
        return
    profiles = {name: kind["node_config"]["IamInstanceProfile"] for name, kind in given["available_node_types"].items()}
    assert all((profile == profiles[head]) == (name == head) for name, profile in profiles.items())
    text = (PLACE / "aws.yaml").read_text()
    for right in ("RunInstances", "TerminateInstances", "CreateTags", "Describe*"):
        assert f"ec2:{right}" in text
    assert f"iam:PassRole on the role of {profiles['gpu-worker']['Name']}" in text


def test_disks_are_of_a_type_that_the_machines_take(given):
    for kind in given["available_node_types"].values():
        for disk in kind["node_config"].get("disks", []):
            zone = given["provider"]["availability_zone"]
            assert disk["initializeParams"]["diskType"] == f"zones/{zone}/diskTypes/pd-balanced"
