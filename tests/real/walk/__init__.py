"""The walk of twins. `python tests/real/walk --help` says what it is for, and __main__.py begins there.

histories.py  draws them from a seed: pure
playing.py    lets twins live through them on a real swarm
judging.py    counts what became of twins, and says whether the script was right: pure
recording.py  notes what docker showed, so that tests/unit/test_recorded.py can tell it again
"""
