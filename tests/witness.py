"""What jobs say of their own lives: each node writes when it started, lived and ended.

The stamps are of the kernel's clock since boot, which all machines here share, so two of them can
be compared. They go to a directory of the test's that every host has, whatever becomes of it.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

# A shell's, as the test's image has no more. The trap runs when the sleep is over, or was killed.
_PROGRAM = """
said=$1/$AWS_BATCH_JOB_ID.$AWS_BATCH_JOB_ATTEMPT
say() { read -r up _ </proc/uptime; echo "$1 $up" >>"$said"; }
trap 'say stopped; exit 143' TERM
say started
left=$4
while [ ! -e "$1/$2" ] && [ "$left" -ne 0 ]; do sleep 0.1; left=$((left - 1)); say alive; done
say ended
exit "$3"
"""
FOR_EVER = "-1"


def node(inside: str, go: str, code: str, signs: str = FOR_EVER) -> list[str]:
    """The command of a node that ends with `code` once there is a file `go`, or after so many
    `signs` of life, of which it gives ten a second. `inside` is where it finds the witness's
    directory. Each of them may be a job's parameter."""
    return ["sh", "-c", _PROGRAM, "node", inside, go, code, signs]


class TwoAttempts(AssertionError):
    """Two attempts of a job were alive together."""


class Witness:
    """What the nodes of a test's jobs have written, and the files that let them end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def forget(self) -> None:
        """Begin anew, when nothing that writes here runs any more."""
        for file in self.directory.iterdir():
            file.unlink()

    def let_end(self, go: str = "go") -> None:
        """Let all nodes end that wait for this file."""
        (self.directory / go).touch()

    def said(self, node_id: str, attempt: int) -> list[str]:
        """The words of one node's attempt, in order, without those of mere life."""
        return [word for word, _ in self._lines(node_id, attempt) if word != "alive"]

    def words(self, job_id: str) -> dict[tuple[int, int], tuple[str, ...]]:
        """(node index, attempt) -> what `said` has of it, for all that ever said anything."""
        return {
            (int(node_id.rpartition("#")[2]), attempt): tuple(self.said(node_id, attempt))
            for node_id, attempt in self._nodes(job_id, "*")
        }

    def lives(self, job_id: str, index: str = "*") -> dict[int, tuple[float, float]]:
        """Attempt -> first and last sign of life of any of its nodes, or of the one with this
        index, in seconds since boot."""
        stamps: dict[int, list[float]] = defaultdict(list)
        for node_id, attempt in self._nodes(job_id, index):
            stamps[attempt] += [at for _, at in self._lines(node_id, attempt)]
        return {attempt: (min(at), max(at)) for attempt, at in sorted(stamps.items()) if at}

    def _nodes(self, job_id: str, index: str) -> Iterator[tuple[str, int]]:
        for file in sorted(self.directory.glob(f"{job_id}#{index}.*")):
            node_id, _, attempt = file.name.rpartition(".")
            yield node_id, int(attempt)

    def no_two_attempts(self, job_id: str) -> None:
        """TwoAttempts with who lived when, unless each attempt began after the last was over."""
        lives = list(self.lives(job_id).items())
        for (earlier, (_, last)), (later, (first, _)) in itertools.pairwise(lives):
            if first < last:
                raise TwoAttempts(
                    f"attempt {later} began {last - first:.1f} s before attempt {earlier} was seen "
                    f"alive for the last time: {self.lives(job_id)}"
                )

    def _lines(self, node_id: str, attempt: int) -> list[tuple[str, float]]:
        file = self.directory / f"{node_id}.{attempt}"
        if not file.exists():
            return []
        # The last line may be half there.
        whole = file.read_text().rpartition("\n")[0].splitlines()
        return [(word, float(at)) for word, at in map(str.split, whole)]
