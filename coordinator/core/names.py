"""What a name may be made of, and how a wrong one is quoted. No I/O.

Error texts travel in gRPC trailers, which hold 8 KiB; so whatever a caller wrote is shortened
before it is repeated to them.
"""

from __future__ import annotations

import re

NAME_RULE = "1 to 128 letters, digits, hyphens and underscores, beginning with a letter or digit"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_SHOWN_CHARS = 80


def is_name(text: str) -> bool:
    """True for what `NAME_RULE` says (aws-batch-spec section 3)."""
    return _NAME.fullmatch(text) is not None


def clip(text: str, most_chars: int = _SHOWN_CHARS) -> str:
    """`text` unquoted, but bounded: for a sentence whose wording is AWS's, or an agent's."""
    return text if len(text) <= most_chars else f"{text[:most_chars]}..."


def quote(text: str) -> str:
    """`text` for a sentence of ours: bounded, with control characters made visible."""
    return repr(clip(text))
