"""What a ledger keeps of clusters that its agent has served before, in the ledger's own database.

A coordinator that is started without its journal by mistake is another cluster. When the first
cluster is back, the agent must know again which of its nodes have ended, since when its leases run,
and what this host has seen of its journal: else nodes that have ended would run again.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from agent.core.assignment import NodeKey

SCHEMA = """
create table if not exists other_cluster (cluster_id text primary key, boot_id text not null,
                                          contact blob not null) strict;
create table if not exists other_slot (cluster_id text not null, name text not null,
                                       body text not null, primary key (cluster_id, name)) strict;
"""


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one cluster: the boot in which the agent last served it, and what the file `contact` said
    then."""

    boot_id: str
    contact: bytes


def put_away(db: sqlite3.Connection, cluster_id: str, memory: Memory) -> None:
    """All slots are of that cluster, and become those of another. Within a transaction."""
    db.execute(
        "insert or replace into other_cluster values (?, ?, ?)",
        (cluster_id, memory.boot_id, memory.contact),
    )
    db.execute(
        "insert into other_slot select ?, name, body from slot order by rowid", (cluster_id,)
    )
    db.execute("delete from slot")


def take_back(db: sqlite3.Connection, cluster_id: str) -> Memory | None:
    """What was put away of that cluster is the ledger's own again; None when nothing was. Within a
    transaction."""
    found = db.execute(
        "delete from other_cluster where cluster_id = ? returning boot_id, contact", (cluster_id,)
    ).fetchone()
    if found is None:
        return None
    db.execute(
        "insert into slot select name, body from other_slot where cluster_id = ? order by rowid",
        (cluster_id,),
    )
    db.execute("delete from other_slot where cluster_id = ?", (cluster_id,))
    return Memory(*found)


def forget_all(db: sqlite3.Connection) -> None:
    """The ledger is a copy: what it says was true elsewhere. Within a transaction."""
    db.execute("delete from other_cluster")
    db.execute("delete from other_slot")


def keys(db: sqlite3.Connection) -> tuple[NodeKey, ...]:
    """The nodes that are known of other clusters."""
    names = db.execute("select name from other_slot order by rowid").fetchall()
    return tuple(key for (name,) in names if (key := NodeKey.parse(name)) is not None)
