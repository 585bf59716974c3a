"""The job contract: settings from defaults, a TOML file and flags; exit codes; the result as the last line.

Exit 0: done, with the result as one JSON object on the last line of stdout. Exit 1: the run failed. Exit 2: bad
settings or input. Either error is one line `error: …` on stderr; `--debug` adds the traceback.
"""

import argparse
import contextlib
import dataclasses
import difflib
import functools
import json
import os
import re
import signal
import sys
import threading
import tomllib
import traceback
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import pydantic

from gru4rec.config import PRESETS
from gru4rec.errors import GRU4RecError, InputError, masked
from gru4rec.outputs import lost_with_the_job

S = TypeVar("S")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        meant = _meant(wrong[1], [*self._option_string_actions]) if wrong else ""
        raise InputError(f"{message}{meant} (see --help)")


def _meant(name: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?` for the known name that is the most like it; empty where none is."""
    return "".join(f"; did you mean {close}?" for close in difflib.get_close_matches(name, known, 1, 0.75))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _fields(kind: type) -> list[tuple[dataclasses.Field, Any]]:
    hints = typing.get_type_hints(kind)
    return [(field, hints[field.name]) for field in dataclasses.fields(kind)]


def _shown_default(field: dataclasses.Field) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    if isinstance(field.default, tuple):
        return f"default: {' '.join(map(str, field.default)) or 'none'}"
    return f"default: {'none' if field.default == '' else field.default}"


def parser(kind: type, prog: str | None = None) -> argparse.ArgumentParser:
    """The command line of the settings dataclass `kind`: one documented flag for each field."""
    made = _Parser(
        prog=prog,
        description=kind.__doc__,
        epilog="Exit code 0: done, the result is the last line of stdout, as JSON; 1: it failed; 2: settings or input.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    made.add_argument("--config", metavar="FILE.toml", help="Settings file; flags override it.")
    for field, hint in _fields(kind):
        help_text = f"{field.metadata['help']} ({_shown_default(field)})".replace("%", "%%")
        if hint is bool:
            made.add_argument(_flag(field.name), action=argparse.BooleanOptionalAction, help=help_text)
            continue
        many = typing.get_origin(hint) is tuple
        item = typing.get_args(hint)[0] if many else hint
        choices = typing.get_args(item) if typing.get_origin(item) is typing.Literal else ()
        shown = ",".join(str(choice) for choice in choices if choice != "")
        metavar = f"{{{shown}}}" if choices else field.name.upper()
        made.add_argument(_flag(field.name), nargs="+" if many else None, metavar=metavar, help=help_text)
    return made


@functools.cache
def _checker(kind: type) -> type[pydantic.BaseModel]:
    definitions: dict[str, Any] = {}
    for field, hint in _fields(kind):
        default = ... if field.default is dataclasses.MISSING else field.default
        definitions[field.name] = (hint, pydantic.Field(default, **field.metadata["limits"]))
    config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False, str_strip_whitespace=False)
    return pydantic.create_model(kind.__name__, __config__=config, **definitions)


def _read_toml(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path}: not valid TOML: {error}") from error


def check(kind: type[S], values: Mapping[str, Any], source: Mapping[str, str] | None = None) -> S:
    """The settings of `kind` from plain values, types and limits checked.

    `source` names where each value came from, for the message. Raises InputError that names the setting.
    """
    checked = validated(kind, values, source)
    try:
        return kind(**{field.name: getattr(checked, field.name) for field in dataclasses.fields(kind)})  # type: ignore[arg-type]
    except ValueError as error:
        raise InputError(str(error)) from error


def validated(kind: type, values: Mapping[str, Any], source: Mapping[str, str] | None = None) -> pydantic.BaseModel:
    """Values in the types of the settings of `kind`, each checked alone; as `check`, but for what they are together."""
    try:
        return _checker(kind)(**values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        where = (source or {}).get(name, _flag(name))
        if first["type"] == "missing":
            raise InputError(f"{where}: is required") from error
        if first["type"] == "extra_forbidden":
            known = [field.name for field in dataclasses.fields(kind)]
            meant = _meant(name, known) or f"; known are: {' '.join(known)}"
            raise InputError(f"{where}: unknown setting{meant}") from error
        one_of_several = len(first["loc"]) > 1
        several = "; give several with blanks between them" if one_of_several and "," in str(first["input"]) else ""
        said = re.sub(r"''(, | or )", "", first["msg"])  # the empty choice is what nobody types
        raise InputError(f"{where}: {said}, got {first['input']!r}{several}") from error


def parse(kind: type[S], arguments: Sequence[str] | None = None) -> S:
    """Settings of `kind` from its defaults, then its preset (or the run to resume), `--config FILE.toml`, flags.

    Raises InputError for an unknown key or flag and for an impossible value, naming it.
    """
    flags = vars(parser(kind).parse_args(arguments))
    path = flags.pop("config", None)
    values: dict[str, Any] = {}
    source: dict[str, str] = {}
    if path is not None:
        for key, value in _read_toml(path).items():
            values[key] = value
            source[key] = f"{path}: {key}"
    for key, value in flags.items():
        values[key] = value
        source[key] = _flag(key)
    return check(kind, _base(kind, values) | values, source)


def _base(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the settings start from: a preset, or the run that is gone on with."""
    if not values.get("resume"):
        return PRESETS.get(str(values.get("preset")), {})
    from gru4rec.training import run_folder
    from gru4rec.tuning import records

    place = next(field.default for field in dataclasses.fields(kind) if field.name == "storage")
    begun = records.settings_of if kind.__name__ == "Tune" else run_folder.settings_of
    return begun(str(values.get("storage", place)), str(values["resume"]))


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def _one_line(error: BaseException) -> str:
    return masked(" ".join(_COLOURS.sub("", str(error)).split())) or type(error).__name__


def _first(error: Exception) -> Exception:
    """The error itself, where Ray has wrapped it into the traceback of the task that it comes from."""
    while isinstance(cause := getattr(error, "cause", None), Exception):
        error = cause
    return error


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM, with which `ray job stop` and Kubernetes begin, raises SystemExit inside the block, so that what the job
    holds is let go. Ctrl-C, pressed once more while that is done, does not break it off.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: Any) -> NoReturn:
        raise SystemExit(128 + number)

    def interrupt(*_: Any) -> NoReturn:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, stop)
    if before[signal.SIGINT] is signal.default_int_handler:  # who ignores it, as nohup does, goes on doing so
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that was not set from Python
                signal.signal(number, handler)


def run(kind: type[S], job: Callable[[S], Mapping[str, Any]], arguments: Sequence[str] | None = None) -> int:
    """Run `job` under the job contract and return the exit code.

    Example: `sys.exit(run(config.Prepare, prepare))`.
    """
    debug = "--debug" in (sys.argv if arguments is None else arguments)
    try:
        settings = parse(kind, arguments)
        debug = bool(getattr(settings, "debug", debug))
        quiet(bool(getattr(settings, "verbose", False)))
        for warning in lost_with_the_job(settings):
            print(f"WARNING: {warning}", file=sys.stderr, flush=True)
        stopped = False
        with _stoppable():
            try:
                result = json.dumps(job(settings), allow_nan=False, default=_plain)
            except SystemExit:
                stopped = True
        if stopped:
            print("error: stopped (SIGTERM)", file=sys.stderr, flush=True)
            return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr, flush=True)
        return 1
    except Exception as raised:
        error = _first(raised)
        if debug:
            print(masked(traceback.format_exc()), file=sys.stderr)
        sys.stdout.flush()
        text = _one_line(error) if isinstance(error, GRU4RecError) else f"{type(error).__name__}: {_one_line(error)}"
        hint = "" if debug or isinstance(error, GRU4RecError) else " (run again with --debug for the traceback)"
        print(f"error: {text}{hint}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, InputError) else 1
    sys.stderr.flush()
    return _tell(result)


def _tell(result: str) -> int:
    """Print the result and return the exit code: 1 where nobody can read it, since a caller goes by it."""
    try:
        print(result, flush=True)
    except OSError as error:
        print(f"error: done, but the result cannot be written to stdout: {error.strerror}", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):  # what Python still holds for it would fail once more at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"not a plain value: {type(value).__name__}")


def quiet(verbose: bool) -> None:
    """Silence the libraries' own chatter unless `verbose`; call before Ray and MLflow are imported."""
    if verbose:
        return
    for name, value in {
        "RAY_DEDUP_LOGS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "ALEMBIC_LOGGING_LEVEL": "ERROR",
    }.items():
        os.environ.setdefault(name, value)
