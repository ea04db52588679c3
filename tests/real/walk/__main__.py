"""The walk of twins: does the script do harm, or hold back needlessly, in cases nobody thought of?

    python tests/real/walk --sessions 20 --seed 7 --engine 20.10 [--script PATH]
    python tests/real/walk --story 7/3/5             # one story again
    python tests/real/walk --story 7/3               # one session again

Three services made alike live through the same random history on a real swarm of three nodes.
Then one is left alone, one is given to the script, and one gets a plain update that brings
another token. What happens to the first is what would have happened anyway; what happens to the
last is what an update would have done. Neither needs anybody to know swarm's rules.

Exit status: 1 if the script did harm unforeseen, or held back needlessly, twice.
Needs root on Debian or Ubuntu; see ../lab/__init__.py; what stands where says __init__.py.
"""

import argparse
import os
import sys
import time
from pathlib import Path

# In place of this folder, which is a package: as with -m, but from any folder.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import lab as labs

from walk import histories, playing


def sessions_of(options):
    """The sessions that the command line asks for."""
    if not options.story:
        begin = options.first
        return [
            histories.session_from(options.seed, number)
            for number in range(begin, begin + options.sessions)
        ]
    seed, number, *some = map(int, options.story.split("/"))
    session = histories.session_from(seed, number)
    return [session.only(some) if some else session]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=5)
    parser.add_argument("--first", type=int, default=1, help="number of the first session")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--engine", default="20.10")
    parser.add_argument("--aws", default="v1")
    parser.add_argument("--script", type=Path, help="another version of the script")
    parser.add_argument("--story", metavar="SEED/SESSION[/STORY]", help="play this one again")
    parser.add_argument(
        "--record", type=Path, help="note there what docker showed, for recording.py"
    )
    options = parser.parse_args()
    if options.script:
        labs.SCRIPT = options.script.resolve()
    began = time.monotonic()
    run = playing.walk(sessions_of(options), options.engine, options.aws, options.record)
    minutes = (time.monotonic() - began) / 60
    playing.say(f"{len(run.endings) / minutes:.1f} stories a minute", run.summary())
    return 1 if run.believed else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    sys.exit(main())
