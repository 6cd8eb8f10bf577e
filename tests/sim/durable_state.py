"""What a replay of the coordinator's journal must rebuild."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from coordinator.core.state import ClusterState


def durable(state: ClusterState) -> dict[str, Any]:
    """By name. A job's `order` counts open jobs, so only ranks compare."""
    ranks = {order: rank for rank, order in enumerate(sorted(j.order for j in state.jobs.values()))}
    return {
        "jobs": {
            job_id: replace(job, order=ranks[job.order]) for job_id, job in state.jobs.items()
        },
        "queues": {
            name: replace(queue, runnable=[(ranks[order], job) for order, job in queue.runnable])
            for name, queue in state.queues.items()
        },
        "hosts": state.hosts,
        "definitions": state.definitions,
        "last_revision": state.last_revision,
        "ended": state.ended,
        "tokens": state.tokens,
        "dependents": state.dependents,
        "leaving": state.leaving,
        "epoch": state.epoch,
        "set_aside": state.set_aside,
        "cluster_key": state.cluster_key,
        "life_id": state.life_id,
        "lives": state.lives,
    }
