"""What a campaign has seen: the jobs, what was done to the daemons, and what was left at the end.

All times are seconds of the kernel's clock since boot, which the witness's stamps are of too, so
that any two can be compared. Nothing here knows a daemon: the record can be made up by a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

COORDINATOR = "coordinator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Those of the coordinator that say how long something lasts."""

    heartbeat_seconds: int
    lost_after_seconds: int
    verdict_after_seconds: int
    lease_seconds: int
    last_attempt_lease_seconds: int
    stop_grace_seconds: int

    @property
    def flags(self) -> list[str]:
        """What the coordinator is started with."""
        names = [name for name in self.__dataclass_fields__ if name.endswith("_seconds")]
        pairs = [(f"--{name.replace('_', '-')}", str(getattr(self, name))) for name in names]
        return [word for pair in pairs for word in pair] + ["--fence-margin-seconds", "1"]

    def __str__(self) -> str:
        return (
            f"heartbeat {self.heartbeat_seconds}, lost {self.lost_after_seconds}, "
            f"verdict {self.verdict_after_seconds}, lease {self.lease_seconds}, "
            f"last lease {self.last_attempt_lease_seconds}, grace {self.stop_grace_seconds}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """One thing that was done to a daemon, from when to when it could not do its work. A step of
    a clock takes no time."""

    target: str
    """COORDINATOR, or the name of a host; empty for the whole machine."""
    kind: str
    began: float
    ended: float
    detail: str = ""
    is_goodbye: bool = False
    """The coordinator has acknowledged that the agent is away and that what runs there goes on."""

    def __str__(self) -> str:
        lasted = f"{self.ended - self.began:5.1f} s" if self.ended > self.began else "       "
        return f"{self.began:10.2f} {lasted}  {self.target} {self.kind} {self.detail}".rstrip() + (
            ", with a goodbye" if self.is_goodbye else ""
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A coordinator with these settings runs from `since` on."""

    since: float
    settings: Settings


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was told of a job that had ended: its status, and main's exit code in each attempt."""

    status: str
    codes: tuple[int | None, ...]
    reason: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One token: what was asked for with it, what was told of it, and what its nodes said."""

    token: str
    code: int
    """What its main ends with, in every attempt."""
    attempts_allowed: int
    answers: tuple[str, ...]
    """The job ids of all answers to the token, one for each call that was accepted."""
    listed: tuple[str, ...]
    """The ids of all jobs that are listed under the token's name at the end."""
    submitted_at: float
    ended_at: float | None
    """When it was first seen to have ended; None if that was never seen before the end of all."""
    outcomes: tuple[Outcome, ...]
    """All that were told of it after its end, each once, in order."""
    is_terminated: bool = False
    """Somebody has asked for its end."""
    mains: tuple[str | None, ...] = ()
    """The host of its main in each attempt, None where that is not known."""
    lives: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """Attempt -> the first and the last sign of life of any of its nodes."""
    main_lives: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """The same of main alone."""
    words: Mapping[tuple[int, int], tuple[str, ...]] = field(default_factory=dict)
    """(node index, attempt) -> what the node said of itself, without mere life."""

    @property
    def job_id(self) -> str | None:
        """None when there is none, or when nobody can tell which."""
        ids = {*self.answers, *self.listed}
        return ids.pop() if len(ids) == 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All that the promises are held against."""

    jobs: tuple[Job, ...]
    disturbances: tuple[Disturbance, ...]
    periods: tuple[Period, ...]
    left: tuple[str, ...] = ()
    """What is still there when every job has ended, all hosts had time and the daemons are away."""
    faults: tuple[str, ...] = ()
    """What a daemon did that none may do, whatever is done to it: ended by itself, did not stop,
    logged a traceback, answered a call with an error that is no answer."""
    ended: float = 0.0
