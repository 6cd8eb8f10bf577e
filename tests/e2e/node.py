"""What nodes run in the tests: prints who it is, then does as its arguments say. Run, not imported.

node.py ACTION [ACTION...]      in order; `{attempt}` in a word is the attempt's number
  exit CODE        end
  until FILE       wait until FILE exists
  touch FILE       make FILE
  hang             wait for ever; SIGTERM ends it
  ignore-term      from here on SIGTERM does nothing
  trap-term CODE   from here on SIGTERM ends it with CODE
  say TEXT         print a line
  last-attempt N   before attempt N: end with 9
  tree             start a grandchild in a session of its own that waits for ever
  if-main / if-child    the rest is only for such a node
"""

import json
import os
import signal
import subprocess
import sys
import time


def start_ticks() -> int:
    with open("/proc/self/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[19])


def first_environment() -> dict[str, str]:
    """As it was at exec: Python itself adds LC_CTYPE to a bare one."""
    with open("/proc/self/environ") as environ:
        pairs = environ.read().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if pair)


def main(actions: list[str]) -> None:
    who = {"env": first_environment(), "pid": os.getpid(), "start_ticks": start_ticks()}
    print(json.dumps(who), flush=True)
    is_main = os.environ.get("AWS_BATCH_JOB_NODE_INDEX") == os.environ.get(
        "AWS_BATCH_JOB_MAIN_NODE_INDEX"
    )
    attempt = os.environ["AWS_BATCH_JOB_ATTEMPT"]
    words = iter([action.replace("{attempt}", attempt) for action in actions])
    for word in words:
        if word == "exit":
            sys.exit(int(next(words)))
        elif word == "touch":
            open(next(words), "w").close()
        elif word == "until":
            wait_for(next(words))
        elif word == "hang":
            while True:
                signal.pause()
        elif word == "ignore-term":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif word == "trap-term":
            trap_term(int(next(words)))
        elif word == "tree":
            subprocess.Popen(["sleep", "100000"], start_new_session=True)
        elif word == "last-attempt":
            if attempt != next(words):
                sys.exit(9)
        elif word == "say":
            print(next(words), flush=True)
        elif (word == "if-main" and not is_main) or (word == "if-child" and is_main):
            return


def trap_term(code: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(code))


def wait_for(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.01)


if __name__ == "__main__":
    main(sys.argv[1:])
