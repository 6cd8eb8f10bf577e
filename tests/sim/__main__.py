"""`python -m tests.sim`: seeds until one breaks a promise, or one seed with its story."""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import time

from tests.sim.world import BrokenPromise, World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this seed alone, and tell its story")
    parser.add_argument("--first", type=int, default=0, help="the first seed to play")
    parser.add_argument("--count", type=int, help="how many seeds to play; for ever without it")
    parser.add_argument(
        "--all", action="store_true", help="go on after a broken promise; all are told at the end"
    )
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # what agents say to their operators
    try:
        if args.seed is not None:
            World(args.seed, tell=print).run()
            return 0
        return _play(args.first, args.count, go_on=args.all)
    except BrokenPromise as broken:
        print(broken, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _play(first: int, count: int | None, *, go_on: bool) -> int:
    began, deliveries = time.monotonic(), 0
    broken: list[str] = []
    for seed in itertools.count(first) if count is None else range(first, first + count):
        world = World(seed)
        try:
            world.run()
        except BrokenPromise as error:
            if not go_on:
                raise
            broken.append(str(error).partition("\n")[0])
            print(broken[-1], flush=True)
        deliveries += world.deliveries
        if seed % 100 == 99:
            seconds = time.monotonic() - began
            print(f"seed {seed}: {deliveries} deliveries in {seconds:.0f} s", flush=True)
    print("\n".join([f"{len(broken)} seeds broke a promise", *broken]))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
