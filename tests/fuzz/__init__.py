"""What strangers may send, taken at random: it is read or refused by name, and costs little.

    python -m tests.fuzz [TARGET...] [--seconds 3600] [--seed 0]

changes good files of each target at random, `tests/test_fuzz.py` a few of each by the same seed.
"""

from tests.fuzz.mutations import mutated
from tests.fuzz.targets import TARGETS, Costly, judged

__all__ = ["TARGETS", "Costly", "judged", "mutated"]
