"""`python -m tests.sim`: seeds until one breaks a promise, or one seed with its story."""

from __future__ import annotations

import argparse
import itertools
import sys
import time

from tests.sim.world import BrokenPromise, World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this seed alone, and tell its story")
    parser.add_argument("--first", type=int, default=0, help="the first seed to play")
    parser.add_argument("--count", type=int, help="how many seeds to play; for ever without it")
    args = parser.parse_args()
    try:
        if args.seed is not None:
            World(args.seed, tell=print).run()
            return 0
        began, deliveries = time.monotonic(), 0
        last = None if args.count is None else args.first + args.count
        for seed in itertools.count(args.first):
            if seed == last:
                break
            world = World(seed)
            world.run()
            deliveries += world.deliveries
            if seed % 100 == 99:
                seconds = time.monotonic() - began
                print(f"seed {seed}: {deliveries} deliveries in {seconds:.0f} s", flush=True)
    except BrokenPromise as broken:
        print(broken, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
