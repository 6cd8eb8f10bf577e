"""What people read: aligned columns, relative times, a colour per state.

No I/O but asking what a stream is. Texts of other machines pass through `plain`, so that nothing
that a job or host says can steer the terminal.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

_GREEN, _RED, _YELLOW, _CYAN, _DIM = "32", "31", "33", "36", "2"
_COLOURS = {
    "SUCCEEDED": _GREEN,
    "FREE": _GREEN,
    "UNUSABLE": _RED,
    "ACTIVE": _GREEN,
    "ENABLED": _GREEN,
    "RUNNING": _CYAN,
    "BUSY": _CYAN,
    "STARTING": _YELLOW,
    "PREPARING": _YELLOW,
    "PREPARED": _YELLOW,
    "STOPPING": _YELLOW,
    "DISABLED": _YELLOW,
    "FAILED": _RED,
    "LOST": _RED,
    "QUARANTINED": _RED,
    "STOPPED": _YELLOW,
    "SUBMITTED": _DIM,
    "PENDING": _DIM,
    "RUNNABLE": _DIM,
    "INACTIVE": _DIM,
    "UNSEEN": _DIM,
}


@dataclass(frozen=True, slots=True)
class Style:
    """What a stream can show. `width` is None where lines may have any length."""

    colour: bool = False
    width: int | None = None

    @classmethod
    def of(cls, stream: TextIO) -> Style:
        """NO_COLOR (any value) and TERM=dumb turn colours off."""
        if not stream.isatty():
            return cls()
        colour = not os.environ.get("NO_COLOR") and not is_dumb()
        return cls(colour, shutil.get_terminal_size().columns)

    def state(self, word: str, written: str = "") -> str:
        """`written` (or the word itself) in the colour of the state `word`."""
        shown = written or word
        colour = _COLOURS.get(word)
        return f"\x1b[{colour}m{shown}\x1b[0m" if self.colour and colour else shown


def is_dumb() -> bool:
    """Whether the terminal cannot move its cursor."""
    return os.environ.get("TERM", "dumb") == "dumb"


def plain(text: str) -> str:
    """`text` on one line without control characters."""
    return "".join(char if char.isprintable() else " " for char in text).strip()


def rows(headers: Sequence[str], cells: Iterable[Sequence[object]], style: Style) -> list[str]:
    """Aligned lines; a STATE or STATUS column is coloured, lines are cut at the width."""
    texts = [[plain(str(cell)) or "-" for cell in row] for row in cells]
    widths = [max(map(len, column)) for column in zip(headers, *texts, strict=True)]
    return [
        _row(headers, headers, widths, Style(width=style.width)),
        *(_row(headers, row, widths, style) for row in texts),
    ]


def _row(headers: Sequence[str], row: Sequence[str], widths: list[int], style: Style) -> str:
    shown: list[str] = []
    room = style.width or sys.maxsize
    for header, text, width in zip(headers, row, widths, strict=True):
        if room <= 0:
            break
        cell = text.ljust(width)[:room]
        room -= len(cell) + 2
        shown.append(style.state(text, cell) if header in ("STATE", "STATUS") else cell)
    return "  ".join(shown).rstrip()


def fields(pairs: Iterable[tuple[str, object]], style: Style) -> list[str]:
    """`label  value` lines; a pair without a value is left out, and long values are not cut."""
    shown = [(label, plain(str(value))) for label, value in pairs if value not in (None, "")]
    width = max((len(label) for label, _ in shown), default=0)
    return [f"{label.ljust(width)}  {style.state(value)}" for label, value in shown]


def span(milliseconds: float, *, tenths: bool = False) -> str:
    """A length of time, in its two largest units; a short one in tenths of seconds if asked."""
    if tenths and 0 < milliseconds < 10_000:
        return f"{milliseconds / 1000:.1f}s"
    seconds = max(0, int(milliseconds // 1000))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02}m"
    return f"{seconds // 86400}d{seconds % 86400 // 3600:02}h"


def ago(at_ms: float, now_ms: float) -> str:
    """`12s ago`; `-` for a time that is not known."""
    return f"{span(now_ms - at_ms)} ago" if at_ms else "-"


def clock(at_ms: float) -> str:
    """Local time of day."""
    return time.strftime("%H:%M:%S", time.localtime(at_ms / 1000)) if at_ms else "-"


def date(at_ms: float) -> str:
    """Local date and time of day."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000)) if at_ms else "-"


def now_ms() -> float:
    """This machine's clock; a coordinator's may differ, so an age is never shown negative."""
    return time.time() * 1000
