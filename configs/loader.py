"""YAML files and `section.key=value` settings -> AppConfig, or a plan of training: any tree of dataclasses.

Unknown keys and wrong types are errors that say what to write.
"""

import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from configs.schema import AppConfig, ConfigError

DEFAULTS = Path(__file__).parent

T = TypeVar("T")


def load(path: Path | None = None, settings: Sequence[str] = ()) -> AppConfig:
    """Build the configuration from a YAML file (None: schema defaults) and settings that win over it.

    Raises ConfigError.
    """
    return load_as(AppConfig, path, settings)


def load_as(
    kind: type[T], path: Path | None, settings: Sequence[str] = (), *, example: str = "--set tts.speed=1.1"
) -> T:
    """Build any tree of dataclasses as `load` builds the configuration; `example` is a setting and its option.

    Raises ConfigError.
    """
    values = _read(path) if path else {}
    source = str(path) if path else "configuration"
    option = example.split()[0]
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"{option} {setting}: write it as section.key=value, for example {example}.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        _put(values, key.split("."), value, f"{option} {setting}")
    source = f"{source} with {option}" if settings else source
    return typing.cast(T, _build(kind, values, "", source))


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such configuration file. The ones that ship are {', '.join(shipped())}, "
            "and in configs/train those of training."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the configuration file cannot be read ({error}).") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())}).") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected sections such as `tts:` at the top, found a {type(values).__name__}.")
    return values


def shipped() -> list[str]:
    """Names of the configuration files that ship with the project."""
    return sorted(f"configs/{file.name}" for file in DEFAULTS.glob("*.yaml"))


def _put(values: dict[str, Any], keys: list[str], value: Any, setting: str) -> None:
    for key in keys[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{setting}: {key} is a value, not a section.")
        values = inner
    values[keys[-1]] = value


def _build(kind: type, values: Any, prefix: str, source: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: {prefix.rstrip('.')} is a section of keys, not {values!r}.")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    names = list(fields)
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known keys: {', '.join(names)}."
            raise ConfigError(f"{source}: unknown key {prefix}{key}; {hint}")
    missing = [
        f"{prefix}{name}"
        for name, field in fields.items()
        if name not in values and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{source}: {', '.join(missing)} must be given; the files in configs/train have them all.")
    arguments = {}
    for name, value in values.items():
        hint_type = hints[name]
        if dataclasses.is_dataclass(hint_type):
            arguments[name] = _build(typing.cast(type, hint_type), value, f"{prefix}{name}.", source)
        else:
            arguments[name] = _convert(hint_type, value, f"{prefix}{name}", source)
            least = fields[name].metadata.get("at_least")
            if least is not None and hint_type in (int, float) and not arguments[name] >= least:
                raise ConfigError(f"{source}: {prefix}{name} is {value!r}; it takes at least {least:g}.")
    return kind(**arguments)


def _convert(kind: Any, value: Any, name: str, source: str) -> Any:
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value in choices:
            return value
        raise ConfigError(f"{source}: {name} is {value!r}; choose one of {', '.join(map(str, choices))}.")
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind in (str, bool) and isinstance(value, kind):
        return value
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_convert(typing.get_args(kind)[0], item, name, source) for item in value)
    if typing.get_origin(kind) is Mapping and isinstance(value, dict):
        keys, values = typing.get_args(kind)
        return {
            _convert(keys, key, f"{name}, key", source): _convert(values, item, f"{name}.{key}", source)
            for key, item in value.items()
        }
    raise ConfigError(f"{source}: {name} is {value!r}; it takes a {_word(kind)}.")


def _word(kind: Any) -> str:
    if typing.get_origin(kind) is Mapping:
        return "section of keys"
    return {int: "whole number", float: "number", str: "text", bool: "true or false"}.get(kind, "list")
