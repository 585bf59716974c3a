"""Search spaces: which hyperparameters are varied, over what, and under which condition; read from TOML.

    loss = "bpr-max"                                       # a plain value: the same in all trials
    layers = { low = 64, high = 512, step = 32 }           # 64, 96, … 512 units of one layer
    learning_rate = { low = 0.01, high = 0.25, step = 0.005 }
    n_sample = { low = 256, high = 8192, log = true }      # as likely between 256 and 512 as between 512 and 1024
    elu_param = { choices = [0, 0.5, 1], when = { loss = "bpr-max" } }

Names are those of the hyperparameters (`config.Hyperparameters`). With a step the values are low, low + step, … up to
high; without, a range is continuous (whole numbers where the setting is one). `when` names other settings and the
value, or list of values, that each must have: where they have others, the setting keeps its default.
"""

import dataclasses
import importlib.resources
import math
import re
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gru4rec import cli, storage
from gru4rec.config import Hyperparameters
from gru4rec.errors import InputError

Value = Any  # a plain value: number, text, truth value, or a tuple of numbers
_NOT_SEARCHED = ("epochs", "patience", "monitor", "seed")
_DIGITS = 12


@dataclass(frozen=True)
class Dimension:
    """One hyperparameter of a space: `choices`, or a range from `low` to `high`."""

    name: str
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float = 0.0  # 0: any value between
    log: bool = False
    whole: bool = False  # whole numbers only
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    @property
    def grid(self) -> list[Value]:
        """All its values in order; [] where it is continuous."""
        if self.choices:
            return list(self.choices)
        if not self.step:
            return []
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return [self._value(self.low + place * self.step) for place in range(count)]

    @property
    def default(self) -> Value:
        """The setting's own default, which need not be one of the values; of units those of the first layer."""
        value = getattr(Hyperparameters(), self.name)
        return next(iter(value), 0) if isinstance(value, tuple) and not self.choices else value

    def nearest(self, value: float) -> Value:
        """The value of the range that is nearest to `value`."""
        inside = min(max(value, self.low), self.high)
        if not self.step:
            return self._value(inside)
        count = math.floor((self.high - self.low) / self.step + 1e-9)
        return self._value(self.low + min(round((inside - self.low) / self.step), count) * self.step)

    def draw(self, generator: np.random.Generator) -> Value:
        """A value at random: each of a grid as likely, or, with `log`, each ratio."""
        if self.log:
            return self.nearest(math.exp(generator.uniform(math.log(self.low), math.log(self.high))))
        grid = self.grid
        if grid:
            return grid[int(generator.integers(len(grid)))]
        if self.whole:
            return int(generator.integers(round(self.low), round(self.high) + 1))
        return self._value(float(generator.uniform(self.low, self.high)))

    def around(self, value: Value, steps: int = 2) -> list[Value]:
        """The values next to `value`, so many to each side where there are; of choices all others."""
        if self.choices:
            return [choice for choice in self.choices if choice != value]
        if self.log:
            near = [value * 2.0**shift for shift in range(-steps, steps + 1)]
        else:
            wide = max(self.step, 1 if self.whole else 0, (self.high - self.low) / 16)
            wide = round(wide / self.step) * self.step if self.step else wide
            near = [value + shift * wide for shift in range(-steps, steps + 1)]
        found = [self.nearest(one) for one in near if self.low - 1e-9 <= one <= self.high + 1e-9]
        return [one for one in dict.fromkeys(found) if one != value]

    def _value(self, value: float) -> Value:
        return round(value) if self.whole else round(value, _DIGITS)


@dataclass(frozen=True)
class Space:
    """What a search varies, and what it keeps the same."""

    dimensions: tuple[Dimension, ...]
    fixed: Mapping[str, Value]

    def applies(self, dimension: Dimension, values: Mapping[str, Value]) -> bool:
        """Whether its condition holds."""
        return all(values.get(name) in wanted for name, wanted in dimension.when.items())

    def settle(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Values of dimensions (any may be missing), together with what is fixed, without those that do not apply."""
        found = dict(self.fixed)
        for dimension in self.dimensions:  # conditions name what stands before
            if dimension.name in values and self.applies(dimension, found):
                found[dimension.name] = values[dimension.name]
        return found

    def draw(self, generator: np.random.Generator) -> dict[str, Value]:
        """A point at random. All dimensions are drawn, by name: no number depends on another dimension's condition."""
        by_name = sorted(self.dimensions, key=lambda dimension: dimension.name)
        return self.settle({dimension.name: dimension.draw(generator) for dimension in by_name})

    def hyperparameters(self, values: Mapping[str, Value], **others: Any) -> Hyperparameters:
        """The settings of a point. Raises InputError where they contradict each other."""
        given = {name: _setting(name, value) for name, value in values.items()}
        return cli.check(Hyperparameters, {**given, **others})


def names() -> list[str]:
    """The spaces that come with the package."""
    folder = importlib.resources.files("gru4rec.tuning") / "spaces"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load(name: str) -> tuple[Space, str]:
    """A space by its name among `names`, or from a TOML file; and its text.

    Raises InputError that names file and line.
    """
    if name in names():
        text = (importlib.resources.files("gru4rec.tuning") / "spaces" / f"{name}.toml").read_text()
        return parse(text, f"{name}.toml"), text
    try:
        text = storage.read_bytes(name).decode()
    except (OSError, ValueError) as error:
        known = ", ".join(names())
        raise InputError(f"--space {storage.shown(name)}: no such file, nor one of {known}: {error}") from error
    return parse(text, storage.shown(name)), text


def parse(text: str, file: str) -> Space:
    """A space from TOML. Raises InputError that names file, line and setting."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{file}: not valid TOML: {error}") from error
    dimensions, fixed = [], {}
    for name, value in content.items():
        place = f"{file}, line {_line(text, name)}: {name}"
        known = [f.name for f in dataclasses.fields(Hyperparameters) if f.name not in _NOT_SEARCHED]
        if name not in known:
            own = name in _NOT_SEARCHED
            raise InputError(
                f"{place}: {'the search sets this' if own else f'unknown setting; known are: {chr(32).join(known)}'}"
            )
        if isinstance(value, dict):
            dimensions.append(_dimension(name, value, place))
        else:
            _check(name, value, place)
            fixed[name] = hashable(value)
    if not dimensions:
        raise InputError(f"{file}: varies nothing; give a setting choices = […], or low and high")
    space = Space(_in_order(dimensions, fixed, file, text), fixed)
    _check_whole(space, file)
    return space


def _dimension(name: str, given: Mapping[str, Any], place: str) -> Dimension:
    unknown = set(given) - {"choices", "low", "high", "step", "log", "when"}
    if unknown:
        raise InputError(f"{place}: unknown key {sorted(unknown)[0]}; known are: choices low high step log when")
    when = given.get("when", {})
    if not isinstance(when, dict):
        raise InputError(f'{place}: when must be a table, such as {{ loss = "bpr-max" }}, got {when!r}')
    condition = {
        key: tuple(map(hashable, value)) if isinstance(value, list) else (value,) for key, value in when.items()
    }
    if "choices" in given:
        if {"low", "high", "step", "log"} & set(given):
            raise InputError(f"{place}: give choices, or low and high, not both")
        choices = given["choices"]
        if not isinstance(choices, list) or not choices:
            raise InputError(f"{place}: choices must be a list with a value or more, got {choices!r}")
        for value in choices:
            _check(name, value, place)
        return Dimension(name, choices=tuple(map(hashable, choices)), when=condition)
    return _range(name, given, condition, place)


def _range(name: str, given: Mapping[str, Any], condition: Mapping[str, tuple[Value, ...]], place: str) -> Dimension:
    for key in ("low", "high"):
        if key not in given:
            raise InputError(f"{place}: has no {key}; give low and high, or choices")
    for key in ("low", "high", "step"):
        value = given.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{place}: {key} must be a number, got {value!r}")
    low, high, step = (float(given.get(key, 0)) for key in ("low", "high", "step"))
    log, whole = given.get("log", False), _whole(name)
    if not isinstance(log, bool):
        raise InputError(f"{place}: log must be true or false, got {log!r}")
    if low >= high:
        raise InputError(f"{place}: the range is empty: low is {given['low']}, high {given['high']}")
    if step < 0 or step > high - low:
        raise InputError(f"{place}: step must be above 0 and no more than the range, got {given['step']}")
    if log and low <= 0:
        raise InputError(f"{place}: log needs a low above 0, got {given['low']}")
    if whole and any(value != round(value) for value in (low, high, step)):
        raise InputError(f"{place}: takes whole numbers only")
    for key in ("low", "high"):
        _check(name, given[key], place)
    return Dimension(name, low=low, high=high, step=step, log=log, whole=whole, when=condition)


def _check(name: str, value: Value, place: str) -> None:
    """Raises InputError unless the hyperparameter can have the value."""
    try:
        cli.validated(Hyperparameters, {name: _setting(name, value)})
    except InputError as error:
        raise InputError(f"{place}: {str(error).partition(': ')[2]}") from error


def _setting(name: str, value: Value) -> Any:
    """The value as the hyperparameter has it: one number of units stands for one layer."""
    return value if isinstance(value, list | tuple) or not _of_numbers(name) else [value]


def _of_numbers(name: str) -> bool:
    return typing.get_origin(typing.get_type_hints(Hyperparameters)[name]) is tuple


def _whole(name: str) -> bool:
    hint = typing.get_type_hints(Hyperparameters)[name]
    return hint is int or _of_numbers(name)


def hashable(value: Value) -> Value:
    """A list, as TOML and JSON give it, as points have it: a tuple."""
    return tuple(value) if isinstance(value, list) else value


def _in_order(
    dimensions: Sequence[Dimension], fixed: Mapping[str, Value], file: str, text: str
) -> tuple[Dimension, ...]:
    """Dimensions with a condition after those that it names. Raises InputError for one that can never hold."""
    placed: list[Dimension] = []
    left = list(dimensions)
    while left:
        names = {dimension.name for dimension in placed} | set(fixed)
        ready = [dimension for dimension in left if set(dimension.when) <= names]
        if not ready:
            first = left[0]
            missing = sorted(set(first.when) - names)
            raise InputError(
                f"{file}, line {_line(text, first.name)}: {first.name}: its condition names {' '.join(missing)}, which "
                "the space neither sets nor varies (or which waits for this one)"
            )
        placed += ready
        left = [dimension for dimension in left if dimension not in ready]
    return tuple(placed)


def _check_whole(space: Space, file: str) -> None:
    """Raises InputError where the settings of some points contradict each other."""
    generator = np.random.default_rng(0)
    for _ in range(64):
        values = space.draw(generator)
        try:
            space.hyperparameters(values)
        except InputError as error:
            raise InputError(f"{file}: the settings {values} do not go together: {error}") from error


def _line(text: str, name: str) -> int:
    """The line where a setting stands in the TOML text, from 1."""
    wanted = re.compile(rf'^\s*(\[\s*)?"?{re.escape(name)}"?\s*(\.[^=]*)?[\]=.]')
    return next((number for number, line in enumerate(text.splitlines(), start=1) if wanted.match(line)), 1)
