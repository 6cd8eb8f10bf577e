"""Containers that are not there yet, and that a call of an earlier agent is about to make.

Such a call goes on when its agent has ended. An agent that has lost its ledger knows only by the
call itself that its node may yet run.
"""

from __future__ import annotations

import os

from agent.core.assignment import NodeKey
from agent.core.marks import HOST, Marks
from agent.engine import argv
from agent.engine.port import Managed
from agent.host import processes


def coming(host_id: str) -> list[Managed]:
    """Those of this host. Reads all of /proc."""
    found = {}
    for pid in processes.pids():
        words = [os.fsdecode(word) for word in processes.arguments(pid)]
        if "run" not in words:
            continue
        name, labels = argv.made_by(words[words.index("run") :])
        key = NodeKey.parse(name)
        # What a job itself runs under such a name is no such call.
        is_own = labels.get(HOST) == host_id and processes.may_be_an_engines(pid)
        if key is not None and is_own:
            found[key] = Managed(key=key, started=None, running=True, marks=Marks.read(labels))
    return list(found.values())
