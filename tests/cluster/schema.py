"""What is wrong with a manifest: Kubernetes' own kinds by its schemas, KubeRay's by their fields (kuberay.json)."""

import json
from pathlib import Path
from typing import Any

import kubernetes_validate

KUBERNETES = "1.33"
_TYPES = json.loads((Path(__file__).parent / "kuberay.json").read_text())
_PLAIN = {"string": str, "integer": int, "number": (int, float), "boolean": bool}


def problems(manifest: dict[str, Any]) -> list[str]:
    """One line for each, with its place; none for a manifest that is right."""
    if manifest["apiVersion"] != "ray.io/v1":
        return _kubernetes(manifest, manifest["kind"])
    found = [f"{key}: unknown" for key in manifest if key not in ("apiVersion", "kind", "metadata", "spec")]
    return found + _kuberay(manifest["spec"], f"{manifest['kind']}Spec", "spec")


def _kubernetes(manifest: dict[str, Any], where: str) -> list[str]:
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{where}: {'/'.join(map(str, error.path))}: {error.message}"]
    return []


def _kuberay(value: Any, kind: Any, where: str) -> list[str]:
    if isinstance(kind, list):
        if not isinstance(value, list):
            return [f"{where}: a list, got {value!r}"]
        return [line for i, one in enumerate(value) for line in _kuberay(one, kind[0], f"{where}/{i}")]
    if kind in _PLAIN:
        right = isinstance(value, _PLAIN[kind]) and (kind == "boolean" or not isinstance(value, bool))
        return [] if right else [f"{where}: {kind}, got {value!r}"]
    if kind == "map":
        right = isinstance(value, dict) and all(isinstance(one, str) for one in value.values())
        return [] if right else [f"{where}: a map of strings, got {value!r}"]
    if kind.startswith("k8s:"):
        return _kubernetes(_wrapped(kind.removeprefix("k8s:"), value), where)
    known = _TYPES[kind]
    if "enum" in known:
        return [] if value in known["enum"] else [f"{where}: one of {known['enum']}, got {value!r}"]
    if not isinstance(value, dict):
        return [f"{where}: {kind}, got {value!r}"]
    found = [f"{where}: {name} is missing" for name in known["required"] if name not in value]
    for name, inner in value.items():
        if name in known["fields"]:
            found += _kuberay(inner, known["fields"][name], f"{where}/{name}")
        else:
            found.append(f"{where}/{name}: unknown")
    return found


def _wrapped(kind: str, value: Any) -> dict[str, Any]:
    """A manifest that a schema is at hand for, with the value in it."""
    if kind == "Service":
        return {"apiVersion": "v1", "kind": "Service", **value}
    name, _, field = kind.partition(".")
    if name == "Container":
        value = {"spec": {"containers": [{"name": "c", "image": "i", field: value}]}}
    return {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": value}


def cron_problem(schedule: str) -> str:
    """What is wrong with a schedule of cron's five fields; empty for nothing."""
    ranges = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
    fields = schedule.split()
    if len(fields) != len(ranges):
        return f"five fields, got {schedule!r}"
    for field, (name, low, high) in zip(fields, ranges, strict=True):
        for part in field.split(","):
            span, slash, step = part.partition("/")
            first, _, last = span.partition("-")
            numbers = [] if span == "*" else [first, last or first]
            if not all(number.isdigit() and low <= int(number) <= high for number in numbers):
                return f"{name}: {low} to {high}, got {field!r}"
            if slash and not (step.isdigit() and int(step)):
                return f"{name}: no step {step!r}"
    return ""
