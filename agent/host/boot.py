"""Which life of which machine this is: the two ids that tell a reboot from a twin.

`boot_id` changes with every boot, so containers of an older one are gone. `agent_uuid` belongs to
the data directory, so a second machine under the same `host_id` is seen. Imports nothing of this
project.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class NoAgentUuid(ValueError):
    """The file of the id holds none. The text is for people."""


def boot_id(path: Path = _BOOT_ID) -> str:
    """The kernel's id of this boot. OSError when there is none."""
    return path.read_text(encoding="ascii").strip()


def agent_uuid(data_dir: Path) -> str:
    """The id of the agent that owns `data_dir`, made at the first call and kept for ever.

    `data_dir` must exist. Survives a crash at any instant: on return the id is on disk, and a file
    that is there is whole. NoAgentUuid when the file holds no id, since making a new one in
    silence would turn this host into its own twin.
    """
    path = data_dir / "agent_uuid"
    try:
        written = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return _create(path)
    try:
        return str(uuid.UUID(written))
    except ValueError as error:
        raise NoAgentUuid(
            f"{path} holds {written[:80]!r}, not a UUID; restore it, or delete it: this agent "
            "then gets a new id, and takes over what runs here"
        ) from error


def _create(path: Path) -> str:
    made = str(uuid.uuid4())
    draft = path.with_suffix(".new")
    with draft.open("w", encoding="ascii") as file:
        file.write(made + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    # The rename is durable only once its directory is.
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return made
