"""DescribeJobDefinitions and DescribeJobQueues: what there is to submit, page by page."""

from __future__ import annotations

from coordinator.core.arn import definition_ref, queue_name
from coordinator.core.errors import InvalidArgument
from coordinator.core.names import quote
from coordinator.core.state import ClusterState, Revision
from coordinator.rpc.paging import last_seen, page_size, token
from coordinator.rpc.render import Renderer
from coordinator.rpc.turns import Turns
from muster.v1.job_pb2 import JobDefinition, JobQueueDetail
from muster.v1.job_service_pb2 import (
    DescribeJobDefinitionsRequest,
    DescribeJobDefinitionsResponse,
    DescribeJobQueuesRequest,
    DescribeJobQueuesResponse,
)

_PAGE_MAX = 100


async def definitions(
    turns: Turns, request: DescribeJobDefinitionsRequest, renderer: Renderer
) -> DescribeJobDefinitionsResponse:
    """By name, newest revision first."""
    if request.job_definitions and request.HasField("job_definition_name"):
        raise InvalidArgument("give jobDefinitions or jobDefinitionName, not both")
    _at_most(len(request.job_definitions), "jobDefinitions")
    wanted = [definition_ref(text) for text in request.job_definitions]
    if request.HasField("job_definition_name"):
        wanted = [definition_ref(request.job_definition_name)]
    names = {name for name, _ in wanted}
    status = request.status if request.HasField("status") else None
    if status not in (None, "ACTIVE", "INACTIVE"):
        raise InvalidArgument(f"status is {quote(status)}; it must be ACTIVE or INACTIVE")
    size = page_size(request.max_results if request.HasField("max_results") else None, _PAGE_MAX)
    after = last_seen(request.next_token, "definitions", ("", 0))

    def selects(key: tuple[str, int], revision: Revision) -> bool:
        name, number = key[0], -key[1]
        return (
            (after is None or key > after)
            and (not wanted or (name, number) in wanted or (name, None) in wanted)
            and (status is None or revision.active == (status == "ACTIVE"))
        )

    def keys(state: ClusterState) -> list[tuple[str, int]]:
        return sorted(
            (name, -number)
            for name, numbered in state.definitions.items()
            if not wanted or name in names
            for number, revision in numbered.items()
            if selects((name, -number), revision)
        )

    def render(state: ClusterState, key: tuple[str, int]) -> JobDefinition | None:
        revision = state.definitions.get(key[0], {}).get(-key[1])
        return renderer.definition(revision) if revision is not None else None

    found = await turns.cluster.read(keys)
    shown, more = await turns.fill(found, render, size)
    reply = DescribeJobDefinitionsResponse(
        next_token=token("definitions", shown[-1][0]) if more else None
    )
    await turns.put((definition for _, definition in shown), reply.job_definitions)
    return reply


async def queues(
    turns: Turns, request: DescribeJobQueuesRequest, renderer: Renderer
) -> DescribeJobQueuesResponse:
    """By name."""
    _at_most(len(request.job_queues), "jobQueues")
    wanted = [queue_name(text) for text in request.job_queues]
    size = page_size(request.max_results if request.HasField("max_results") else None, _PAGE_MAX)
    (after,) = last_seen(request.next_token, "queues", ("",)) or ("",)

    def keys(state: ClusterState) -> list[str]:
        return sorted(
            name for name in state.queues if name > after and (not wanted or name in wanted)
        )

    def render(state: ClusterState, name: str) -> JobQueueDetail | None:
        queue = state.queues.get(name)
        return renderer.queue(queue) if queue is not None else None

    shown, more = await turns.fill(await turns.cluster.read(keys), render, size)
    reply = DescribeJobQueuesResponse(next_token=token("queues", (shown[-1][0],)) if more else None)
    await turns.put((queue for _, queue in shown), reply.job_queues)
    return reply


def _at_most(number: int, where: str) -> None:
    if number > _PAGE_MAX:
        raise InvalidArgument(f"{where} has {number} elements; it must have at most {_PAGE_MAX}")
