"""How every (sub)command reads its command line: the same global flags, the same way to refuse.

Imports nothing of gRPC: `muster --help` has no use for it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import NoReturn

DEFAULT_COORDINATOR = "127.0.0.1:7400"
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
INT64_MAX = 2**63 - 1


class Parser(argparse.ArgumentParser):
    """A parser that has the global flags, as have the parsers of its subcommands.

    A flag that is not given leaves no attribute, so that a subcommand's parser does not undo what
    stood before the subcommand; `fill_defaults` comes last.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        # An abbreviation that works today would change its meaning, or stop working, as soon
        # as another flag begins alike.
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})  # type: ignore[arg-type]
        add = self.add_argument_group("global flags").add_argument
        absent = argparse.SUPPRESS
        add(
            "--coordinator",
            metavar="HOST:PORT",
            default=absent,
            help=f"where it listens (default: MUSTER_COORDINATOR, else {DEFAULT_COORDINATOR})",
        )
        add("-o", "--output", choices=("table", "json"), default=absent, help="default: table")
        for name, meaning in (
            ("cert", "your certificate chain"),
            ("key", "its private key"),
            ("ca", "the authority that signed the coordinator's certificate"),
        ):
            add(
                f"--tls-{name}",
                metavar="PEM",
                default=absent,
                help=f"{meaning} (default: MUSTER_TLS_{name.upper()})",
            )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"muster: {message}; see `{self.prog} --help`\n")


def fill_defaults(args: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """Give every global flag that was not on the command line its value."""
    defaults = {
        "coordinator": environ.get("MUSTER_COORDINATOR") or DEFAULT_COORDINATOR,
        "output": "table",
        "tls_cert": environ.get("MUSTER_TLS_CERT"),
        "tls_key": environ.get("MUSTER_TLS_KEY"),
        "tls_ca": environ.get("MUSTER_TLS_CA"),
    }
    for name, value in defaults.items():
        if name not in args:
            setattr(args, name, value)


def pair(written: str) -> tuple[str, str]:
    """K=V, as --env, --parameter and --tag take it; the value may hold more equals signs."""
    key, equals, value = written.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{written!r} must be K=V")
    return key, value


def whole(least: int, most: int = INT32_MAX) -> Callable[[str], int]:
    """The type of a flag that is a whole number within what its member of a request can hold;
    whether it makes sense is the coordinator's to say."""

    def parse(written: str) -> int:
        try:
            number = int(written)
        except ValueError:
            number = None
        if number is None or not least <= number <= most:
            shown = written if len(written) <= 40 else f"{written[:40]}..."
            raise argparse.ArgumentTypeError(f"{shown!r} must be a whole number, {least} to {most}")
        return number

    return parse
