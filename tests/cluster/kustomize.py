"""What `kubectl kustomize` makes of a folder, as far as cluster/ uses kustomize; anything else is an error.

The order is kustomize's own: resources, components, generators, patches, namespace, images, replacements; then what is
local-config is left out. `test_manifests.py` compares with the real one where there is one.
"""

import copy
import re
from pathlib import Path
from typing import Any

import yaml

CLUSTER_WIDE = ("Namespace", "PriorityClass")
_KEYS = {
    *("apiVersion", "kind", "resources", "components", "namespace", "configMapGenerator", "generatorOptions"),
    *("patches", "images", "replacements"),
}

Manifest = dict[str, Any]


def build(folder: Path) -> list[Manifest]:
    """The manifests of a folder with a kustomization.yaml."""
    made = _accumulated(folder.resolve(), [])
    return [one for one in made if "config.kubernetes.io/local-config" not in one["metadata"].get("annotations", {})]


def _accumulated(folder: Path, before: list[Manifest]) -> list[Manifest]:
    (rules,) = yaml.safe_load_all((folder / "kustomization.yaml").read_text())
    unknown = set(rules) - _KEYS
    assert not unknown, f"{folder}: {unknown}"
    assert rules.get("generatorOptions", {"disableNameSuffixHash": True}) == {"disableNameSuffixHash": True}
    made = list(before)
    for name in rules.get("resources", []):
        path = folder / name
        made += _accumulated(path.resolve(), []) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for name in rules.get("components", []):
        made = _accumulated((folder / name).resolve(), made)
    made += [_config_map(given, folder) for given in rules.get("configMapGenerator", [])]
    for patch in rules.get("patches", []):
        made = _patched(made, patch, folder)
    if "namespace" in rules:
        for one in made:
            _into(one, rules["namespace"])
    for image in rules.get("images", []):
        _renamed(made, image["name"], f"{image['newName']}:{image['newTag']}")
    for replacement in rules.get("replacements", []):
        _replace(made, replacement)
    names = [(one["kind"], one["metadata"]["name"]) for one in made]
    assert len(names) == len(set(names)), f"{folder}: twice: {sorted(names)}"
    return made


def _config_map(given: dict[str, Any], folder: Path) -> Manifest:
    assert set(given) <= {"name", "literals", "files"}, given
    data = dict(literal.split("=", 1) for literal in given.get("literals", []))
    data |= {Path(name).name: (folder / name).read_text() for name in given.get("files", [])}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": given["name"]}, "data": data}


def _selected(manifests: list[Manifest], select: dict[str, str]) -> list[Manifest]:
    assert set(select) <= {"kind", "name"}, select
    found = [
        one
        for one in manifests
        if re.fullmatch(select["kind"], one["kind"]) and re.fullmatch(select.get("name", ".*"), one["metadata"]["name"])
    ]
    assert found, f"nothing is called {select}"
    return found


def _patched(manifests: list[Manifest], patch: dict[str, Any], folder: Path) -> list[Manifest]:
    assert set(patch) <= {"target", "patch", "path"}, patch
    steps = yaml.safe_load((folder / patch["path"]).read_text() if "path" in patch else patch["patch"])
    targets = _selected(manifests, patch["target"])
    if isinstance(steps, dict):
        assert steps.get("$patch") == "delete", "strategic merges are not needed so far"
        return [one for one in manifests if one not in targets]
    for one in targets:
        for step in steps:
            _step(one, step)
    return manifests


def _step(manifest: Manifest, step: dict[str, Any]) -> None:
    """One step of a JSON patch (RFC 6902)."""
    *inner, last = (part.replace("~1", "/").replace("~0", "~") for part in step["path"].lstrip("/").split("/"))
    place: Any = manifest
    for key in inner:
        place = place[int(key)] if isinstance(place, list) else place[key]
    value = copy.deepcopy(step.get("value"))
    if isinstance(place, list):
        assert (step["op"], last) == ("add", "-"), step
        place.append(value)
        return
    assert step["op"] in ("add", "replace"), step
    assert step["op"] == "add" or last in place, f"nothing to replace at {step['path']}"
    place[last] = value


def _into(manifest: Manifest, namespace: str) -> None:
    if manifest["kind"] not in CLUSTER_WIDE:
        manifest["metadata"]["namespace"] = namespace
    for subject in manifest.get("subjects", []):
        subject["namespace"] = namespace


def _renamed(value: Any, name: str, new: str) -> None:
    if isinstance(value, list):
        for one in value:
            _renamed(one, name, new)
    elif isinstance(value, dict):
        if value.get("image") == name:
            value["image"] = new
        for one in value.values():
            _renamed(one, name, new)


def _replace(manifests: list[Manifest], replacement: dict[str, Any]) -> None:
    source = dict(replacement["source"])
    value: Any = None
    path = source.pop("fieldPath").split(".")
    (value,) = _selected(manifests, source)
    for key in path:
        value = value[int(key)] if isinstance(value, list) else value[key]
    for target in replacement["targets"]:
        for one in _selected(manifests, target["select"]):
            for field in target["fieldPaths"]:
                *inner, last = field.split(".")
                place: Any = one
                for key in inner:
                    place = place[int(key)] if isinstance(place, list) else place[key]
                assert last in place or target.get("options", {}).get("create"), f"no {field} in {one['metadata']}"
                place[last] = copy.deepcopy(value)
