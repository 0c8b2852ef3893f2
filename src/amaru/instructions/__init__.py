"""Instructions whose following a program can check: the 25 of IFEval (Zhou et al. 2023), each checker in our own words.

Lives here: checkers (texts in, booleans out). Not here: tasks and their scores (`eval.ifeval`). Imports nothing of amaru but errors.
"""

from amaru.instructions.checking import Check, check_of, followed, followed_loosely, loosely
from amaru.instructions.checks import CHECKS

__all__ = ["CHECKS", "Check", "check_of", "followed", "followed_loosely", "loosely"]
