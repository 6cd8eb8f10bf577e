"""Policy for how attempts and jobs end: main's exit, timeouts, users, retries, dependencies.

The main node decides; a child never does (aws-batch-spec sections 7 to 10). No I/O.
"""

from __future__ import annotations

from coordinator.core import events as e
from coordinator.core.errors import NotFound
from coordinator.core.ids import JobId, NodeKey
from coordinator.core.reservation import abandon, remember_strays
from coordinator.core.retry import should_retry
from coordinator.core.state import Attempt, Job, NodeRun, Ran
from coordinator.core.states import JobState
from coordinator.core.turn import Turn
from coordinator.core.unreadable import must_be_gone

EXITED = "Essential container in task exited"
FAILED_TO_START = "Task failed to start"
TIMED_OUT = "Job attempt duration exceeded timeout"
DEPENDENCY_FAILED = "Dependent Job failed"
STOPPED_WITH_MAIN = "Stopped because the main node ended"
"""Ours: no recording shows what AWS writes on a child that was stopped with its job."""


def host_gone(host_id: str) -> str:
    """AWS's text; clients match its beginning, `Host EC2` (aws-batch-spec section 7.6)."""
    return f"Host EC2 (instance {host_id}) terminated."


def end_attempt(turn: Turn, job: Job, attempt: Attempt) -> None:
    """The main node has ended: the attempt is over, and the job ends or is tried again."""
    main = attempt.nodes[job.spec.main_node]
    status_reason = attempt.stop_cause or main.status_reason
    turn.emit(
        e.AttemptEnded(
            job_id=job.job_id,
            attempt=attempt.number,
            exit_code=main.exit_code,
            reason=main.reason,
            status_reason=status_reason,
        )
    )
    turn.touch_gang(job)
    turn.reschedule = True
    if attempt.stop_cause is None and main.exit_code == 0:
        turn.emit(e.JobSucceeded(job_id=job.job_id, status_reason=status_reason))
        end_dependents_of(turn, job.job_id)
    elif _may_retry(turn, job, attempt, status_reason):
        turn.emit(e.JobRetried(job_id=job.job_id))
    else:
        fail_job(turn, job, status_reason)
        end_dependents_of(turn, job.job_id)


def _may_retry(turn: Turn, job: Job, attempt: Attempt, status_reason: str) -> bool:
    made_to_end = attempt.stop_cause is not None and not attempt.stop_may_retry
    if made_to_end or turn.state.queues[job.job_queue].deleting:
        return False
    return should_retry(
        attempt=attempt.number,
        attempts=job.spec.attempts,
        rules=job.spec.evaluate_on_exit,
        exit_code=attempt.exit_code,
        reason=attempt.reason,
        status_reason=status_reason,
    )


def fail_vote(turn: Turn, job: Job, reason: str, status_reason: str) -> None:
    """The gang can start nowhere. That uses up an attempt, as a main that fails to start does on
    AWS; the hosts' refusals are the pause before the next one."""
    attempt = job.attempts[-1]
    remember_strays(turn, job, attempt)
    turn.touch_gang(job)
    turn.emit(
        e.AttemptRefused(
            job_id=job.job_id,
            attempt=attempt.number,
            reason=reason,
            status_reason=status_reason,
        )
    )
    turn.touch_job(job.job_id)
    turn.reschedule = True
    if not _may_retry(turn, job, attempt, status_reason):
        fail_job(turn, job, status_reason)
        end_dependents_of(turn, job.job_id)


def fail_job(
    turn: Turn,
    job: Job,
    status_reason: str,
    *,
    cancelled: bool = False,
    terminated: bool = False,
) -> None:
    """End a job that has no attempt running. Its dependents are the caller's next thought."""
    abandon(turn, job, status_reason)
    turn.emit(
        e.JobFailed(
            job_id=job.job_id,
            status_reason=status_reason,
            cancelled=cancelled,
            terminated=terminated,
        )
    )
    turn.touch_job(job.job_id)
    turn.reschedule = True  # it may have been what held up its queue


def end_dependents_of(turn: Turn, job_id: JobId) -> None:
    """Let jobs go on that waited for this one, or fail them, and so on down the chain."""
    ended = [job_id]
    while ended:
        dependency = ended.pop()
        succeeded = turn.state.jobs[dependency].state is JobState.SUCCEEDED
        for dependent in list(turn.state.dependents.get(dependency, {})):
            job = turn.state.jobs[dependent]
            if not succeeded:
                fail_job(turn, job, DEPENDENCY_FAILED)
                ended.append(dependent)
                continue
            turn.emit(e.DependencyEnded(job_id=dependent, dependency=dependency))
            if not job.waits_for:
                turn.emit(e.JobQueued(job_id=dependent))
                turn.reschedule = True
            turn.touch_job(dependent)


def find_job(turn: Turn, job_id: JobId) -> Job | None:
    """The job, or None when it ended and left memory. NotFound when there never was one."""
    job = turn.state.jobs.get(job_id)
    if job is None and job_id not in turn.state.ended:
        raise NotFound(f"Job {job_id} does not exist")
    return job


def cancel_job(turn: Turn, job: Job, reason: str) -> None:
    """Before STARTING it ends; from then on nothing happens (aws-batch-spec section 9)."""
    if job.state in (JobState.SUBMITTED, JobState.PENDING, JobState.RUNNABLE):
        must_be_gone(job)
        fail_job(turn, job, reason, cancelled=True)
        end_dependents_of(turn, job.job_id)


def terminate_job(turn: Turn, job: Job, reason: str) -> None:
    """End a job in any state. Running nodes are stopped; the job turns FAILED when main has."""
    if job.state.is_terminal:
        return
    attempt = job.current
    if attempt is None or not attempt.started:
        must_be_gone(job)
        fail_job(turn, job, reason, terminated=True)
        end_dependents_of(turn, job.job_id)
        return
    stop_attempt(turn, job, attempt, reason, by_user=True)


def stop_attempt(
    turn: Turn, job: Job, attempt: Attempt, cause: str, *, by_user: bool, may_retry: bool = False
) -> None:
    """Stop every node; the first cause is the one that is kept."""
    if attempt.stop_cause is None:
        turn.emit(
            e.AttemptStopRequested(
                job_id=job.job_id,
                attempt=attempt.number,
                cause=cause,
                by_user=by_user,
                may_retry=may_retry,
            )
        )
        turn.touch_gang(job)
        main_host = attempt.nodes[job.spec.main_node].host_id
        if turn.presence(main_host).lost:
            # Nobody there will say that main has ended, and who asked for the end gets it.
            turn.timers.arm("host", main_host, turn.now)


def terminate_child(turn: Turn, job: Job, node_index: int, reason: str) -> None:
    """Stop one child; the job goes on (a child never matters, aws-batch-spec section 7.4)."""
    node = _launched_child(job, node_index)
    if node is None:
        raise NotFound(f"Job {job.job_id}#{node_index} does not exist: it has not been launched")
    attempt = job.attempts[-1]
    if not node.state.is_terminal and node.stop_reason is None and not attempt.over:
        turn.emit(
            e.NodeStopRequested(
                job_id=job.job_id,
                attempt=attempt.number,
                node_index=node_index,
                reason=reason,
            )
        )
        turn.touch_host(node.host_id)
        turn.touch_job(job.job_id, node_index)


def _launched_child(job: Job, node_index: int) -> NodeRun | None:
    node = job.attempts[-1].nodes.get(node_index) if job.attempts else None
    return node if node is not None and node.state.is_launched else None


def check_timeout(turn: Turn, job: Job) -> None:
    """The timer runs from main's RUNNING of each attempt, for the whole job."""
    attempt = job.current
    seconds = job.spec.timeout_seconds
    if seconds is None or attempt is None or not attempt.started_at_ms:
        return
    ran = ran_of(turn, job, attempt)
    deadline_ms = ran.at_ms + 1000 * seconds - ran.ms
    if turn.now >= deadline_ms:
        stop_attempt(turn, job, attempt, TIMED_OUT, by_user=False)
    else:
        turn.timers.arm("job", job.job_id, deadline_ms)


def ran_of(turn: Turn, job: Job, attempt: Attempt) -> Ran:
    """How long the main had run, and when: as its agent said last. Begins the count when nothing
    was said yet. Nothing said yet, by an agent of
    an older release or since the coordinator started, counts from the first look on: a wall clock
    that is wrong for a moment must end no job."""
    presence = turn.presence(attempt.nodes[job.spec.main_node].host_id)
    key = NodeKey(job.job_id, attempt.number, job.spec.main_node)
    if presence.ran is None or presence.ran.key != key:
        presence.ran = Ran(key=key, ms=0, at_ms=turn.now)
    return presence.ran


def archive_settled(turn: Turn) -> None:
    """Let jobs leave memory that have ended and of which nothing is left on any host."""
    for job_id in list(turn.step.changed_nodes):
        job = turn.state.jobs.get(job_id)
        if job is not None and job.state.is_terminal and not job.unsettled:
            turn.emit(e.JobArchived(job_id=job_id))
            turn.step.archived.append(job)
