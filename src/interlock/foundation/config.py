"""Settings: one frozen dataclass a section, filled from a TOML file, the environment and flags, in this order.

There is no reload: a changed setting is a drain and a start. Live settings are rows in the store.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints

ENV_PREFIX: Final = "INTERLOCK_"
SectionT = TypeVar("SectionT")
# Variables of the connection options and of the tools around us; they are no settings.
NOT_SETTINGS: Final = frozenset({"INTERLOCK_URL", "INTERLOCK_API_KEY"})


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type or out of range. The message is fit for a terminal."""


def setting(
    default: Any, doc: str, *, minimum: float | None = None, maximum: float | None = None, secret: bool = False
) -> Any:
    """Declare a field of a section; `doc` names the unit, the bounds are checked at load."""
    return field(default=default, metadata={"doc": doc, "minimum": minimum, "maximum": maximum, "secret": secret})


@dataclass(frozen=True, slots=True)
class Effective:
    """One setting as it is in force. `source` is `default`, `file:LINE`, `env:NAME` or `flag`."""

    name: str
    value: Any
    source: str
    doc: str
    is_secret: bool

    @property
    def shown(self) -> Any:
        """The value as it may be shown: a secret as `[set]`."""
        if self.is_secret and self.value:
            return "[set]"
        return list(self.value) if isinstance(self.value, tuple) else self.value


@dataclass(frozen=True, slots=True)
class Config:
    """All sections by name, and where each value came from."""

    sections: Mapping[str, Any]
    effective: tuple[Effective, ...]

    def section(self, kind: type[SectionT]) -> SectionT:
        """Return the section of this dataclass."""
        return next(value for value in self.sections.values() if isinstance(value, kind))


def load(
    sections: Mapping[str, type[Any]],
    file: Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Read all settings; `flags` maps `section.name` to a value. Raises `ConfigError`."""
    found: dict[str, tuple[Any, str]] = {}
    known = {f"{name}.{each.name}": each for name, kind in sections.items() for each in fields(kind)}
    for key, value, line in _from_file(file) if file else ():
        _require_known(key, known, f"{file}:{line}")
        found[key] = (value, f"file:{line}")
    for name, text in (os.environ if env is None else env).items():
        if not name.startswith(ENV_PREFIX) or name in NOT_SETTINGS or "__" not in name:
            continue
        key = name.removeprefix(ENV_PREFIX).replace("__", ".", 1).lower()
        _require_known(key, known, name)
        found[key] = (text, f"env:{name}")
    for key, value in (flags or {}).items():
        _require_known(key, known, "flag")
        if value is not None:
            found[key] = (value, "flag")
    return _assemble(sections, found)


def _assemble(sections: Mapping[str, type[Any]], found: Mapping[str, tuple[Any, str]]) -> Config:
    built: dict[str, Any] = {}
    effective: list[Effective] = []
    for name, kind in sections.items():
        hints = get_type_hints(kind)
        values: dict[str, Any] = {}
        for each in fields(kind):
            key = f"{name}.{each.name}"
            default = each.default if each.default is not MISSING else None
            value, source = found.get(key, (default, "default"))
            if source != "default":
                value = _coerce(key, value, hints[each.name])
            _check_range(key, value, each.metadata)
            values[each.name] = value
            effective.append(
                Effective(key, value, source, each.metadata.get("doc", ""), bool(each.metadata.get("secret")))
            )
        built[name] = kind(**values)
    return Config(built, tuple(effective))


def _require_known(key: str, known: Mapping[str, Any], where: str) -> None:
    if key in known:
        return
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    raise ConfigError(
        f"{where}: unknown setting {key}; did you mean {nearest[0] if nearest else 'one of `config show`'}?"
    )


def _coerce(key: str, value: Any, hint: Any) -> Any:
    text = value if isinstance(value, str) else None
    try:
        if hint is bool:
            return (
                value
                if isinstance(value, bool)
                else {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
            )
        if hint in (int, float) and not isinstance(value, bool):
            return hint(value)
        if hint is str and text is not None:
            return text
        if hint == tuple[str, ...]:
            return tuple(part.strip() for part in text.split(",") if part.strip()) if text is not None else tuple(value)
        if hint == str | None:
            return text or None
    except (KeyError, TypeError, ValueError):
        pass
    raise ConfigError(f"{key}: {value!r} is not a {getattr(hint, '__name__', hint)}")


def _check_range(key: str, value: Any, bounds: Mapping[str, Any]) -> None:
    low, high = bounds.get("minimum"), bounds.get("maximum")
    if low is not None and value < low:
        raise ConfigError(f"{key}: {value} is below {low}")
    if high is not None and value > high:
        raise ConfigError(f"{key}: {value} is above {high}")


def _from_file(file: Path) -> list[tuple[str, Any, int]]:
    try:
        text = file.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error
    lines = text.splitlines()
    rows: list[tuple[str, Any, int]] = []
    for section, values in tables.items():
        if not isinstance(values, dict):
            raise ConfigError(f"{file}: {section} is not a section; write it below a [section] line")
        for name, value in values.items():
            rows.append((f"{section}.{name}", value, _line_of(lines, section, name)))
    return rows


def _line_of(lines: list[str], section: str, name: str) -> int:
    current = ""
    for number, line in enumerate(lines, start=1):
        bare = line.strip()
        if bare.startswith("["):
            current = bare.strip("[] ")
        elif current == section and bare.split("=")[0].strip().strip("\"'") == name:
            return number
    return 1
