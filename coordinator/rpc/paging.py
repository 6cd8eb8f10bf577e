"""Pages of a listing: how large, where the next one begins.

A token names the last item of a page, not a position: whatever comes or goes meanwhile, the next
page begins right behind it. Opaque to clients.
"""

from __future__ import annotations

import base64
import json
from typing import TypeVar, cast

from coordinator.core.errors import InvalidArgument

K = TypeVar("K", bound=tuple[str | int, ...])

_TOKEN_CHARS_MAX = 1024
_WRONG_TOKEN = (
    "nextToken is not of this listing; pass the one of the page before, or none for the first page"
)


def page_size(max_results: int | None, most: int) -> int:
    """How many items a page may have. Absence means `most`."""
    if max_results is None:
        return most
    if not 1 <= max_results <= most:
        raise InvalidArgument(f"maxResults is {max_results}; it must be 1 to {most}")
    return max_results


def token(listing: str, key: tuple[str | int, ...]) -> str:
    """Where the next page begins: behind the item with this key."""
    text = json.dumps([listing, *key], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode()


def last_seen(text: str, listing: str, example: K) -> K | None:
    """The key in a token of this listing; None for the first page. The key must have the shape of
    `example`, since a token may come back as anything."""
    if not text:
        return None
    if len(text) > _TOKEN_CHARS_MAX:
        raise InvalidArgument(_WRONG_TOKEN)
    try:
        found = json.loads(base64.b64decode(text.encode(), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        raise InvalidArgument(_WRONG_TOKEN) from None
    shape = [str, *map(type, example)]
    if (
        not isinstance(found, list)
        or [*map(type, found)] != shape
        or found[0] != listing
        or not all(map(_could_be_ours, found))
    ):
        raise InvalidArgument(_WRONG_TOKEN)
    return cast("K", tuple(found[1:]))


def _could_be_ours(part: str | int) -> bool:
    """Names, ids and times are small; a journal need not cope with what a caller made up."""
    return part.isascii() if isinstance(part, str) else abs(part) < 2**53
