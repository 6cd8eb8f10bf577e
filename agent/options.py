"""How a frozen dataclass is filled from defaults, a TOML file and flags, in this order.

The dataclass is the only list of the settings: a field's name is the TOML key and, with dashes
for underscores, the flag. Checks, help and documentation come from the field's metadata.
The daemons share no package, so the agent and the coordinator each have this file; a test keeps
the two equal. Imports nothing of this project.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib.metadata
import ipaddress
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

Config = TypeVar("Config")

_HOST = r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?"


class ConfigError(ValueError):
    """A setting is wrong. The message says which one, where it stands and what would be right."""


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """One way of writing a value.

    `toml` is the exact type that the file must hold; `read` makes the value of it and raises
    ValueError when it is not what `expects` says.
    """

    toml: type
    metavar: str
    expects: str
    read: Callable[[Any], object]


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """What a field's metadata holds. `default` describes a default that is not a constant."""

    kind: Kind
    meaning: str
    default: str


def option(kind: Kind, meaning: str, *, default: str = "") -> Mapping[str, Option]:
    """The metadata of one field."""
    return {"option": Option(kind, meaning, default)}


class Endpoint(NamedTuple):
    """A host name or address, and a port. `str()` is the form that gRPC takes."""

    host: str
    port: int

    @classmethod
    def parse(cls, written: str) -> Endpoint:
        match = re.fullmatch(rf"({_HOST}|\[[0-9A-Fa-f:.]+\]):([0-9]{{1,5}})", written)
        if not match or int(match[2]) > 65535:
            raise ValueError(written)
        if match[1].startswith("["):
            return cls(str(ipaddress.IPv6Address(match[1][1:-1])), int(match[2]))
        return cls(match[1], int(match[2]))

    @property
    def is_loopback(self) -> bool:
        """Whether the host can only mean this machine. Nothing is resolved to find out, so a
        name other than `localhost` never does."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class TlsFiles(NamedTuple):
    """PEM files: our certificate, its key, and the authority whose signature a peer must have."""

    cert: Path
    key: Path
    ca: Path


def tls_files(cert: Path | None, key: Path | None, ca: Path | None) -> TlsFiles | None:
    """The files of mutual TLS, or None for plain text. ConfigError when some are missing."""
    if cert and key and ca:
        return TlsFiles(cert, key, ca)
    if cert or key or ca:
        raise ConfigError("tls_cert, tls_key and tls_ca go together; give all three or none")
    return None


def suiting(accepts: Callable[[Any], object]) -> Callable[[Any], object]:
    """A `read` that takes a value as it is, if `accepts` says yes."""

    def read(raw: object) -> object:
        if not accepts(raw):
            raise ValueError(raw)
        return raw

    return read


def whole(low: int, high: int) -> Kind:
    expects = f"a whole number from {low} to {high}"
    return Kind(int, "N", expects, suiting(lambda number: low <= number <= high))


def choice(*words: str) -> Kind:
    return Kind(str, "|".join(words), "one of " + ", ".join(words), suiting(words.__contains__))


def text(metavar: str, pattern: str, expects: str) -> Kind:
    return Kind(str, metavar, expects, suiting(re.compile(pattern).fullmatch))


def _read_path(raw: str) -> Path:
    if not raw:
        raise ValueError(raw)
    return Path(raw)


ENDPOINT = Kind(str, "HOST:PORT", "HOST:PORT, an IPv6 address in brackets", Endpoint.parse)
DIRECTORY = Kind(str, "DIR", "the path of a directory", _read_path)
FILE = Kind(str, "FILE", "the path of a file", _read_path)
SWITCH = Kind(bool, "", "true or false", bool)
LOG_LEVEL = choice("debug", "info", "warning", "error")


def settings(config: type) -> dict[str, tuple[Option, Field[Any]]]:
    """Every setting of `config` by its key, in order."""
    return {field.name: (field.metadata["option"], field) for field in dataclasses.fields(config)}


def flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def default_text(option: Option, field: Field[Any]) -> str:
    """The default as help and documentation show it."""
    if option.default:
        return option.default
    if is_required(field):
        return "required"
    if field.default in (MISSING, None, ()):
        return "none"
    return str(field.default).lower() if option.kind.toml is bool else str(field.default)


def version() -> str:
    """The installed release; daemons also tell it to their peers."""
    try:
        return importlib.metadata.version("muster")
    except importlib.metadata.PackageNotFoundError:
        return "0+uninstalled"


def load(config: type[Config], program: str, argv: Sequence[str]) -> Config:
    """Fill `config`; a flag replaces the whole value of the file, lists and tables too.

    Raises SystemExit(2) after a line on stderr that says what is wrong, where, and what would be
    right; SystemExit(0) after --help and --version. Reads no file but the one of --config.
    """
    parser = _parser(config, program)
    found, strange = parser.parse_known_args(argv)
    flags = vars(found)
    path: Path | None = flags.pop("config", None)
    try:
        if strange:
            near = difflib.get_close_matches(strange[0].partition("=")[0], _flags(config), n=1)
            right = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"unrecognized arguments: {' '.join(strange)}{right}")
        values = _read_file(config, path) if path else {}
        values |= _read_flags(config, flags)
        for key, (option, field) in settings(config).items():
            if key not in values and is_required(field):
                raise ConfigError(
                    f"{key} is missing: give {flag(key)} {option.kind.metavar}, "
                    f"or set {key} in the file that --config names"
                )
        return _fill(config, values, path)
    except ConfigError as error:
        parser.error(str(error))


def _flags(config: type) -> list[str]:
    return [*map(flag, settings(config)), "--config", "--help", "--version"]


def _refuse_misplaced(path: Path, table: Mapping[str, object], known: Collection[str]) -> None:
    """What is appended to a file that ends with a table belongs to the table, and is no setting."""
    for name, value in table.items():
        for key in value if isinstance(value, dict) else ():
            if key in known:
                raise ConfigError(
                    f"{path}: {key} stands below [{name}], where it is no setting; move it above "
                    f"that (if it is meant so: {flag(name)} {key}=VALUE)"
                )


def make_directory(path: Path, key: str) -> None:
    """Make the directory that a setting names, with its parents, if it is not there. OSError that
    names the setting."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make {key} {path}: {error.strerror} ({error.filename}); name a directory "
            "that is there, or that this user can make"
        ) from error


def _fill(config: type[Config], values: Mapping[str, object], path: Path | None) -> Config:
    try:
        return config(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}, with the flags: {error}" if path else str(error)) from error


def _parser(config: type, program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} [--config FILE] [--FLAG VALUE]...",
        description="Every flag can stand in the TOML file, with underscores for dashes.",
        # An abbreviation that works today would change its meaning, or stop working, as soon
        # as another flag begins alike.
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"{program} {version()}")
    add("--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="The TOML file.")
    for key, (option, field) in settings(config).items():
        how: dict[str, Any] = {"metavar": option.kind.metavar}
        if option.kind.toml is bool:
            how = {"action": "store_true"}
        elif option.kind.toml in (list, dict):
            how["action"] = "append"
        meaning = f"{option.meaning} (default: {default_text(option, field)})"
        add(flag(key), help=meaning.replace("%", "%%"), default=argparse.SUPPRESS, **how)
    return parser


def _read_file(config: type, path: Path) -> dict[str, object]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    known = settings(config)
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            right = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
            raise ConfigError(f"{path}: unknown key {key}; {right}")
    _refuse_misplaced(path, table, known)
    return {key: _read(known[key][0].kind, raw, f"{path}: {key}") for key, raw in table.items()}


def _read_flags(config: type, flags: Mapping[str, Any]) -> dict[str, object]:
    """Flags are text; bring each to the type that the file would hold."""
    values: dict[str, object] = {}
    for key, given in flags.items():
        kind, raw = settings(config)[key][0].kind, given
        if kind.toml is int and re.fullmatch(r"-?[0-9]{1,18}", given):
            raw = int(given)
        elif kind.toml is dict and all("=" in pair for pair in given):
            raw = dict(pair.split("=", 1) for pair in given)
        values[key] = _read(kind, raw, flag(key))
    return values


def _read(kind: Kind, raw: object, where: str) -> object:
    try:
        # Exactly this type: TOML's true would otherwise pass as the number 1.
        if type(raw) is not kind.toml:
            raise ValueError(raw)
        return kind.read(raw)
    except ValueError as error:
        raise ConfigError(f"{where} is {raw!r}; it must be {kind.expects}") from error
