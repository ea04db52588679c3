"""What the token touches besides config.json, docker's own and the run's in memory: nothing."""

import base64
import contextlib
import os
import re
import threading
from pathlib import Path

from case import SCRIPT
from lab import REGION, ecr_host, wait_until
from promise import stacks


class Watch(threading.Thread):
    """Reads the arguments and the environment of every process, and files, over and over."""

    def __init__(self, case, secrets):
        super().__init__()
        self.secrets = secrets
        self.places = {"memory": case.manager.memory, "home": case.manager.home}
        self.seen = set()
        self.files = set()  # that hold the token: place, path there
        self.modes = set()  # of folders in memory
        self._done = threading.Event()

    def run(self):
        while not self._done.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    self.seen.add((process / "cmdline").read_bytes())
                    self.seen.add((process / "environ").read_bytes())
            for place, folder in self.places.items():
                for path in files_below(folder):
                    self.look_at(place, path)

    def look_at(self, place, path):
        with contextlib.suppress(OSError):  # it has gone meanwhile
            if holds(path.read_bytes(), self.secrets):
                below = path.relative_to(self.places[place])
                self.files.add((place, str(below)))
                if place == "memory":
                    self.modes.add((self.places[place] / below.parts[0]).stat().st_mode & 0o777)

    def has_seen(self, *parts):
        return all(any(part in text for text in self.seen.copy()) for part in parts)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self.join()


def files_below(folder):
    """Not rglob(), which fails when a folder goes while it looks."""
    return [Path(root) / name for root, _, names in os.walk(folder) for name in names]


# What the article's own `get-login` comes to: the password is an argument of docker login.
SEED_AS_IT_WAS = r"""
LOGIN_ARGS="--username AWS --password $(aws ecr get-login-password --region "$0")"
docker login ${LOGIN_ARGS[@]} "$1"
"""


@stacks
def test_what_the_token_touches(case, verdict):
    """The token, besides config.json, docker's and the run's (the loop: `aws ecr get-login`)"""
    # given
    case.create("web")
    case.lab.rotate()
    secrets = token_forms(case.lab.registries.tokens[REGION])
    # when
    results = []
    with Watch(case, secrets) as watch:
        wait_until(
            lambda: results.append(run_watched(case)) or has_all(case, watch),
            "both aws and docker were caught at it",
            120,
        )
    # then
    assert all(result.returncode == 0 for result in results), results
    assert files_with(case, secrets) == [case.manager.home / ".docker/config.json"]
    assert not any(holds((result.stdout + result.stderr).encode(), secrets) for result in results)
    assert all(re.fullmatch(HELD[place], path) for place, path in watch.files), watch.files
    assert watch.modes <= {0o700}
    assert not list(case.manager.memory.iterdir())
    touched = any(holds(text, secrets) for text in watch.seen)
    verdict(
        "is in a process's arguments" if touched else "is nowhere else",
        seed="is in a process's arguments",
        script="is nowhere else",
    )


# Docker writes a new file beside the old one, which it replaces.
HELD = {
    "home": r"\.docker/config\.json\d*",
    "memory": rf"ecr_swarm_login-\w+/{ecr_host()}-\w+/config\.json\d*",
}


def has_all(case, watch):
    """What is to be caught: a look at all processes may take as long as a docker login takes."""
    login = b"login\0--username" if case.way == SCRIPT else watch.secrets[0]
    in_memory = any(place == "memory" for place, _ in watch.files.copy())
    return watch.has_seen(b"get-login-password", login) and in_memory == (case.way == SCRIPT)


def run_watched(case):
    if case.way == SCRIPT:
        return case.refresh()
    return case.manager.run(
        ["bash", "-c", SEED_AS_IT_WAS, REGION, ecr_host()], env=case.manager.environment
    )


def token_forms(token):
    """The token as it is, and as config.json and the answer of AWS hold it."""
    return [token.encode(), base64.b64encode(f"AWS:{token}".encode())]


def holds(content, secrets):
    return any(secret in content for secret in secrets)


def files_with(case, secrets):
    """Files of the lab that hold the token: not those of AWS itself, nor the engines' stores."""
    lab = case.lab
    others = [lab.registries.aws_folder, *(node.folder / "data" for node in lab.nodes)]
    paths = [
        path
        for path in lab.folder.rglob("*")
        if path.is_file() and not any(other in path.parents for other in others)
    ]
    return [path for path in paths if holds(path.read_bytes(), secrets)]
