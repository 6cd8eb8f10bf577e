"""`Ref::name` in commands (aws-batch-evidence section 5.2).

References are only in commands, also inside a longer argument. A value is put in as it is: a
`Ref::` inside a value is not looked at again. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from coordinator.core.errors import InvalidArgument
from coordinator.core.names import clip

# A definition of 24 KiB can name a parameter of 30 KiB thousands of times.
_MOST_CHARS = 64 * 1024
_REFERENCE = re.compile(r"Ref::([A-Za-z0-9_-]+)")


def substitute(
    command: tuple[str, ...], parameters: Mapping[str, str], where: str
) -> tuple[str, ...]:
    """The command with every reference replaced. InvalidArgument for one without a parameter and
    for a result that no program could be started with; `where` is the command's member path."""
    room = _MOST_CHARS
    substituted = []
    for index, argument in enumerate(command):
        pieces = _REFERENCE.split(argument)
        for odd in range(1, len(pieces), 2):
            value = parameters.get(pieces[odd])
            if value is None:
                raise InvalidArgument(
                    "Unable to substitute value. No parameter found for reference "
                    f"{clip(pieces[odd])} ({where}[{index}])"
                )
            if "\0" in value:
                raise InvalidArgument(
                    f"parameters.{clip(pieces[odd])} has a NUL character, which no command can"
                )
            pieces[odd] = value
        # Measured before it is joined, so that the text is never made.
        room -= sum(len(piece) for piece in pieces)
        if room < 0:
            raise InvalidArgument(
                f"{where} has more than {_MOST_CHARS} characters after parameters are put in"
            )
        substituted.append("".join(pieces))
    return tuple(substituted)
