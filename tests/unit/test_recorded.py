"""Stories of the walk of twins, told again: what real engines showed, and what is made of it.

What the script says today is judged by what an update did to each story's twin on a real swarm when
it was recorded. To add stories: make walk OPTIONS="--record FILE", and then
python tests/real/walk/recording.py FILE.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from real.walk.judging import GOOD
from told import category, title

STORIES = [
    json.loads(line)
    for line in gzip.decompress(Path(__file__).with_name("recorded.jsonl.gz").read_bytes())
    .decode()
    .splitlines()
]


def test_what_comes_of_them() -> None:
    found = {title(story): category(story) for story in STORIES}

    expected = {title(story): story["category"] for story in STORIES}
    assert {each: found[each] for each in found if found[each] != expected[each]} == {}


def test_nothing_goes_wrong_in_what_is_expected() -> None:
    assert {story["category"] for story in STORIES} <= set(GOOD)
