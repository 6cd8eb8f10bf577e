"""ARNs out, names and ARNs in.

Clients pass an ARN wherever AWS documents a name or an id, so every such member goes through a
parser here (aws-batch-spec section 3). Any partition, region and account is accepted on input:
they are this cluster's decoration, not an address. No I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from coordinator.core.errors import InvalidArgument
from coordinator.core.names import NAME_RULE, is_name, quote

_ARN = re.compile(r"arn:[^:]*:batch:[^:]*:[^:]*:([a-z-]+)/(.*)", re.DOTALL)
_REVISION = re.compile(r"[1-9][0-9]{0,8}")
_NODE_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Arns:
    """The ARNs this cluster shows. `account_id` is twelve digits: clients' patterns want them."""

    region: str
    account_id: str

    def job(self, job_id: str) -> str:
        """Of a job (`id`) or a node (`id#N`)."""
        return self._batch(f"job/{job_id}")

    def job_queue(self, name: str) -> str:
        return self._batch(f"job-queue/{name}")

    def job_definition(self, name: str, revision: int) -> str:
        return self._batch(f"job-definition/{name}:{revision}")

    def compute_environment(self, name: str) -> str:
        return self._batch(f"compute-environment/{name}")

    def container_instance(self, host_id: str) -> str:
        return self._ecs(f"container-instance/muster/{host_id}")

    def task(self, task_id: str) -> str:
        return self._ecs(f"task/muster/{task_id}")

    def _batch(self, resource: str) -> str:
        return f"arn:aws:batch:{self.region}:{self.account_id}:{resource}"

    def _ecs(self, resource: str) -> str:
        return f"arn:aws:ecs:{self.region}:{self.account_id}:{resource}"


class JobRef(NamedTuple):
    """A job, or with `node_index` one node of it."""

    job_id: str
    node_index: int | None


def queue_name(text: str) -> str:
    """The queue's name out of its name or ARN. InvalidArgument if it can be neither."""
    name = _resource(text, "job-queue", "jobQueue")
    if not is_name(name):
        raise InvalidArgument(
            f"jobQueue {quote(text)} is neither a job queue's name nor its ARN; "
            f"a name is {NAME_RULE}"
        )
    return name


def definition_ref(text: str) -> tuple[str, int | None]:
    """Name and revision out of `name`, `name:revision` or an ARN of either; the revision is None
    if it was left out. InvalidArgument for anything else."""
    name, colon, revision = _resource(text, "job-definition", "jobDefinition").partition(":")
    if not is_name(name) or (colon and not _REVISION.fullmatch(revision)):
        raise InvalidArgument(
            f"jobDefinition {quote(text)} is neither name, name:revision nor an ARN of these; "
            f"a name is {NAME_RULE}, a revision a whole number from 1"
        )
    return name, int(revision) if colon else None


def job_ref(text: str, where: str = "jobId") -> JobRef:
    """A job or node out of `id`, `id#N` or an ARN of either. InvalidArgument for anything else;
    `where` is the member that the message names."""
    job_id, hash_mark, index = _resource(text, "job", where).partition("#")
    if not is_name(job_id) or (hash_mark and not _NODE_INDEX.fullmatch(index)):
        raise InvalidArgument(
            f"{where} {quote(text)} is neither a job id, a node (id#N with N from 0) "
            f"nor an ARN of these"
        )
    return JobRef(job_id, int(index) if hash_mark else None)


def _resource(text: str, kind: str, where: str) -> str:
    """What follows the slash of an ARN of this kind; any other text stays as it is."""
    if not text.startswith("arn:"):
        return text
    match = _ARN.fullmatch(text)
    if match is None or match[1] != kind:
        raise InvalidArgument(
            f"{where} {quote(text)} is not the ARN of a {kind}: "
            f"arn:aws:batch:<region>:<account>:{kind}/<name>"
        )
    return match[2]
