"""`python -m tests.chaos` as root, or `make chaos`: see docs/simulation.md."""

from __future__ import annotations

import argparse
import asyncio
import sys

from tests.chaos.campaign import Campaign
from tests.components import missing

_SECONDS = 600.0
_AGENTS = 8


def main() -> int:
    """0 when every promise was kept in every campaign, 1 otherwise, 2 when none can be played."""
    parser = argparse.ArgumentParser(
        prog="tests.chaos",
        description="Real daemons, killed, stopped, hung, cut off and restarted with other "
        "settings at random, and what their jobs say of it.",
    )
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="of each campaign")
    parser.add_argument(
        "--seed", type=int, action="append", help="what is drawn; may be repeated (default: 1)"
    )
    parser.add_argument(
        "--agents", type=int, default=_AGENTS, help="a quarter of them with podman, if it is there"
    )
    args = parser.parse_args()
    if reason := missing("netns"):
        print(f"a campaign cannot be played here: {reason}", file=sys.stderr)
        return 2
    broken = [
        violation
        for seed in args.seed or [1]
        for violation in asyncio.run(Campaign(seed, args.seconds, args.agents).run(_say))
    ]
    _say(f"{len(broken)} promises were broken" if broken else "all promises were kept")
    return 1 if broken else 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
