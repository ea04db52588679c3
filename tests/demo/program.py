"""What the demo's `aws` and `docker` share: a pretend swarm in a file."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pretend.swarm import PretendSwarm


def main(program: str, arguments: list[str]) -> int:
    # Before the lock, for which the other end of a pipe may wait.
    stdin = sys.stdin.buffer.read() if "--password-stdin" in arguments else b""
    with open(os.environ["PRETEND_SWARM"], "r+") as state:
        # Several updates run at a time.
        fcntl.flock(state, fcntl.LOCK_EX)
        swarm = PretendSwarm(json.load(state))
        answer = swarm.answer([program, *arguments], stdin, os.environ)
        if answer is None:
            sys.exit(f"{program}: the pretend swarm knows no {' '.join(arguments)}")
        state.seek(0)
        state.truncate()
        json.dump(swarm.state, state)
    sys.stdout.write(answer.stdout)
    sys.stderr.write(answer.stderr)
    return answer.exit_status
