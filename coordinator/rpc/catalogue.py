"""DescribeJobDefinitions and DescribeJobQueues: what there is to submit, page by page."""

from __future__ import annotations

from collections.abc import Callable

from coordinator.core.arn import definition_ref, queue_name
from coordinator.core.errors import InvalidArgument
from coordinator.core.names import quote
from coordinator.core.state import ClusterState, Revision
from coordinator.rpc.paging import last_seen, page, page_size
from coordinator.rpc.render import Renderer
from muster.v1.job_service_pb2 import (
    DescribeJobDefinitionsRequest,
    DescribeJobDefinitionsResponse,
    DescribeJobQueuesRequest,
    DescribeJobQueuesResponse,
)

_PAGE_MAX = 100


def definitions(
    request: DescribeJobDefinitionsRequest, renderer: Renderer
) -> Callable[[ClusterState], DescribeJobDefinitionsResponse]:
    """The query that answers the request: by name, newest revision first."""
    if request.job_definitions and request.HasField("job_definition_name"):
        raise InvalidArgument("give jobDefinitions or jobDefinitionName, not both")
    _at_most(len(request.job_definitions), "jobDefinitions")
    wanted = [definition_ref(text) for text in request.job_definitions]
    if request.HasField("job_definition_name"):
        wanted = [definition_ref(request.job_definition_name)]
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

    def query(state: ClusterState) -> DescribeJobDefinitionsResponse:
        revisions = {
            (name, -number): revision
            for name, numbered in state.definitions.items()
            for number, revision in numbered.items()
            if selects((name, -number), revision)
        }
        keys, next_token = page(sorted(revisions), size, "definitions", lambda key: key)
        return DescribeJobDefinitionsResponse(
            job_definitions=[renderer.definition(revisions[key]) for key in keys],
            next_token=next_token,
        )

    return query


def queues(
    request: DescribeJobQueuesRequest, renderer: Renderer
) -> Callable[[ClusterState], DescribeJobQueuesResponse]:
    """The query that answers the request, by name."""
    _at_most(len(request.job_queues), "jobQueues")
    wanted = [queue_name(text) for text in request.job_queues]
    size = page_size(request.max_results if request.HasField("max_results") else None, _PAGE_MAX)
    (after,) = last_seen(request.next_token, "queues", ("",)) or ("",)

    def query(state: ClusterState) -> DescribeJobQueuesResponse:
        names = sorted(name for name in state.queues if name > after)
        selected = (name for name in names if not wanted or name in wanted)
        shown, next_token = page(selected, size, "queues", lambda name: (name,))
        return DescribeJobQueuesResponse(
            job_queues=[renderer.queue(state.queues[name]) for name in shown],
            next_token=next_token,
        )

    return query


def _at_most(number: int, where: str) -> None:
    if number > _PAGE_MAX:
        raise InvalidArgument(f"{where} has {number} elements; it must have at most {_PAGE_MAX}")
