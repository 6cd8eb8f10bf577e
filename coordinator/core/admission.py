"""Policy for what users register and submit. Everything is checked before the first fact, so a
refusal leaves nothing half done. No I/O."""

from __future__ import annotations

from dataclasses import replace

from coordinator.core import clocks
from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core.arn import definition_ref, job_ref, queue_name
from coordinator.core.capacity import look_at_all
from coordinator.core.definition import JobDefinition, Submission
from coordinator.core.ending import end_dependents_of, fail_job, terminate_job
from coordinator.core.errors import AlreadyExists, Conflict, InvalidArgument, NoRoom, NotFound
from coordinator.core.ids import JobId
from coordinator.core.state import Queue
from coordinator.core.states import JobState
from coordinator.core.submission import resolve
from coordinator.core.turn import Turn
from coordinator.core.validation import validate_definition, validate_queue_name, validate_tags

_LOOK_AGAIN_MS = 3_600_000
TIME_LIMIT_SECONDS = range(600, 86_401)
TIME_LIMIT_CODES = (
    "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY",
    "MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE",
    "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT",
)


def _need_room(turn: Turn, what: str) -> None:
    """What grows the journal and could wait is refused while room is short: what is left is for
    the ends of jobs."""
    if turn.state.shortage:
        raise NoRoom(
            f"no {what} now: {turn.state.shortage}. When that is put right, it goes on by itself"
        )


def register_definition(turn: Turn, request: i.RegisterDefinition) -> JobDefinition:
    """The next revision of a name; numbers are never used again (aws-batch-spec section 4)."""
    _need_room(turn, "new job definition")
    checked = validate_definition(request.definition, request.size_bytes)
    revision = turn.state.last_revision.get(checked.job_definition_name, 0) + 1
    definition = replace(checked, revision=revision)
    turn.emit(e.DefinitionRegistered(definition=definition))
    return definition


def deregister_definition(turn: Turn, request: i.DeregisterDefinition) -> None:
    revision = turn.state.definitions.get(request.name, {}).get(request.revision)
    if revision is None:
        raise InvalidArgument(
            f"JobDefinition {request.name}:{request.revision} does not exist; "
            f"known revisions: {sorted(turn.state.definitions.get(request.name, {})) or 'none'}"
        )
    if revision.active:
        turn.emit(e.DefinitionDeregistered(name=request.name, revision=request.revision))
        turn.timers.arm("definitions", "", turn.now + _LOOK_AGAIN_MS)


def forget_definitions(turn: Turn) -> None:
    """INACTIVE revisions whose retention is over, as long as the clock is to be believed."""
    keep_ms = turn.settings.definition_retention_ms
    inactive = False
    for name, revisions in turn.state.definitions.items():
        for number, revision in list(revisions.items()):
            if revision.active:
                continue
            over = revision.changed_at_ms + keep_ms <= turn.wall
            if over and clocks.agree(turn.state, turn.settings):
                turn.emit(e.DefinitionForgotten(name=name, revision=number))
            else:
                inactive = True
    if inactive:
        turn.timers.arm("definitions", "", turn.now + _LOOK_AGAIN_MS)


def _active_definition(turn: Turn, text: str) -> JobDefinition:
    name, number = definition_ref(text)
    revisions = turn.state.definitions.get(name, {})
    active = [n for n, revision in revisions.items() if revision.active]
    wanted = number if number is not None else max(active, default=0)
    if wanted not in active:
        shown = name if number is None else f"{name}:{number}"
        raise NotFound(f"JobDefinition name {shown} does not exist or is not in ACTIVE status")
    return revisions[wanted].definition


def _open_queue(turn: Turn, text: str) -> Queue:
    queue = turn.state.queues.get(queue_name(text))
    if queue is None or queue.deleting:
        raise NotFound(f"JobQueue {text} not found.")
    if not queue.enabled:
        raise Conflict(f"JobQueue {queue.name} is DISABLED: it takes no jobs until it is ENABLED")
    return queue


def _state_of(turn: Turn, job_id: JobId) -> JobState | None:
    job = turn.state.jobs.get(job_id)
    if job is not None:
        return job.state
    ended = turn.state.ended.get(job_id)
    return ended.state if ended is not None else None


def _repeated(turn: Turn, submission: Submission) -> JobId | None:
    """The job that an earlier call with this client token made."""
    token = submission.client_token
    job_id = turn.state.tokens.get(token) if token is not None else None
    if job_id is None:
        return None
    job = turn.state.jobs.get(job_id)
    if job is not None and job.spec.job_name != submission.job_name:
        raise Conflict(
            f"clientToken {token} was used for the job {job.spec.job_name} ({job_id}), "
            f"not {submission.job_name}; use a new token for another job"
        )
    return job_id


def submit(turn: Turn, request: i.Submit) -> JobId:
    """Accept a job (aws-batch-spec section 6). A repeated client token returns the same job."""
    submission = request.submission
    repeated = _repeated(turn, submission)
    if repeated is not None:
        return repeated
    _need_room(turn, "new job")
    queue = _open_queue(turn, submission.job_queue)
    definition = _active_definition(turn, submission.job_definition)
    spec = resolve(submission, definition, request.size_bytes)
    waits_for: dict[JobId, None] = {}
    failed = False
    for dependency in spec.depends_on:
        job_id = JobId(job_ref(dependency.job_id or "").job_id)
        state = _state_of(turn, job_id)
        if state is None:
            raise NotFound(f"dependsOn names the job {job_id}, which does not exist")
        failed = failed or state is JobState.FAILED
        if not state.is_terminal:
            waits_for[job_id] = None
    job_id = request.new_job_id
    turn.emit(
        e.JobSubmitted(
            job_id=job_id,
            job_queue=queue.name,
            spec=spec,
            waits_for=tuple(waits_for),
            client_token=submission.client_token,
        )
    )
    if failed or waits_for:
        turn.emit(e.JobPended(job_id=job_id))
        if failed:
            fail_job(turn, turn.state.jobs[job_id], "Dependent Job failed")
            end_dependents_of(turn, job_id)
    else:
        turn.emit(e.JobQueued(job_id=job_id))
        turn.reschedule = True
    turn.touch_job(job_id)
    return job_id


def _check_time_limits(limits: tuple[e.TimeLimitAction, ...]) -> None:
    for index, limit in enumerate(limits):
        where = f"jobStateTimeLimitActions[{index}]"
        if limit.reason not in TIME_LIMIT_CODES:
            raise InvalidArgument(
                f"{where}.reason is {limit.reason!r}; it must be one of {list(TIME_LIMIT_CODES)}"
            )
        if limit.state != "RUNNABLE":
            raise InvalidArgument(f"{where}.state is {limit.state!r}; it must be RUNNABLE")
        if limit.max_time_seconds not in TIME_LIMIT_SECONDS:
            raise InvalidArgument(
                f"{where}.maxTimeSeconds is {limit.max_time_seconds}; it must be 600 to 86400"
            )
        if limit.action != "CANCEL":
            raise InvalidArgument(f"{where}.action is {limit.action!r}; it must be CANCEL")


def create_queue(turn: Turn, request: i.CreateQueue) -> None:
    validate_queue_name(request.name)
    validate_tags(request.tags)
    _check_time_limits(request.time_limits)
    _need_room(turn, "new job queue")
    if request.name in turn.state.queues:
        raise AlreadyExists(f"JobQueue {request.name} already exists")
    turn.emit(
        e.QueueCreated(
            name=request.name,
            priority=request.priority,
            enabled=request.enabled,
            tags=request.tags,
            time_limits=request.time_limits,
        )
    )


def update_queue(turn: Turn, request: i.UpdateQueue) -> None:
    queue = turn.state.queues.get(request.name)
    if queue is None or queue.deleting:
        raise NotFound(f"JobQueue {request.name} not found.")
    _check_time_limits(request.time_limits or ())
    _need_room(turn, "change of a job queue")
    after = e.QueueUpdated(
        name=queue.name,
        priority=queue.priority if request.priority is None else request.priority,
        enabled=queue.enabled if request.enabled is None else request.enabled,
        time_limits=queue.time_limits if request.time_limits is None else request.time_limits,
    )
    turn.emit(after)
    look_at_all(turn.state)  # other time limits may act on them
    turn.reschedule = True


def delete_queue(turn: Turn, request: i.DeleteQueue) -> None:
    """Its jobs are terminated; the queue goes when the last one has ended."""
    queue = turn.state.queues.get(request.name)
    if queue is None:
        raise NotFound(f"JobQueue {request.name} not found.")
    if queue.enabled:
        raise Conflict(
            f"JobQueue {queue.name} is ENABLED; update it to DISABLED before deleting it"
        )
    if queue.deleting:
        return
    turn.emit(e.QueueDeleting(name=queue.name))
    for job_id in list(queue.live):
        job = turn.state.jobs.get(job_id)
        if job is not None and not job.state.is_terminal and not job.may_be_on:
            terminate_job(turn, job, "JobQueue deleted")
    drop_empty_queues(turn)


def drop_empty_queues(turn: Turn) -> None:
    """Forget queues under deletion that have no job left."""
    for queue in list(turn.state.queues.values()):
        if queue.deleting and not queue.live:
            turn.emit(e.QueueDeleted(name=queue.name))
