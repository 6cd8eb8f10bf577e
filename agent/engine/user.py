"""The user that a command of the process engine runs as.

The shim imports this and must start fast. Must not import anything of `agent`.
"""

from __future__ import annotations

import os

_IDS = range(2**31)


class CannotStart(Exception):
    """The command can never be run; the text is for the user."""


def user_ids(user: str) -> tuple[int, int, list[int]]:
    """(uid, gid, supplementary gids) of `name`, `uid`, `uid:gid` or `name:group`.

    A bare uid that the host does not know gets gid 0, as in docker. CannotStart for a name that
    the host does not know.
    """
    import grp  # here, since only a node that switches user should pay for it
    import pwd

    name, _, group = user.partition(":")
    number = _id_number(name)
    try:
        entry = pwd.getpwnam(name) if number is None else pwd.getpwuid(number)
        uid, gid, groups = entry.pw_uid, entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)
    except KeyError:
        if number is None:
            raise CannotStart(f"unable to find user {name}: no such user on this host") from None
        uid, gid, groups = number, 0, []
    if group:
        group_number = _id_number(group)
        try:
            gid = grp.getgrnam(group).gr_gid if group_number is None else group_number
        except KeyError:
            raise CannotStart(f"unable to find group {group}: no such group on this host") from None
        groups = [gid]
    return uid, gid, groups


def _id_number(text: str) -> int | None:
    """The id that the text is; None for a name. CannotStart for what is none: 2^32 - 1 would leave
    the agent's own."""
    if not (text.isascii() and text.isdecimal()):
        return None
    number = int(text) if len(text) <= 10 else _IDS.stop
    if number not in _IDS:
        raise CannotStart(f"unable to find user {text}: ids are 0 to {_IDS.stop - 1}")
    return number
