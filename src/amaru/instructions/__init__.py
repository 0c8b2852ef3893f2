"""Instructions whose following a program can check: the 25 of IFEval (Zhou et al. 2023) and a few more, drawn, said and checked.

    task = "Write about rivers."
    some = draw(seed=7, count=2, prompt=task)                      # the same seed gives the same; they can be followed together
    sentences = [each.sentence for each in some]                   # one of several wordings of each
    asked(task, sentences, seed=7)                                 # a prompt of a single turn
    asked_from_now_on(sentences, seed=7)                           # a message for all later turns
    asked_to_revise(sentences, seed=7)                             # the second turn: the first answer again
    follows(answer, some), follows(answer, some, loose=True)       # all of them; share(answer, some) for how many
    comes_to(answer, "1018")                                       # whether a worked answer ends with a known result
    record_of(prompt, some)                                        # a row as IFEval keeps it; instructions_of(row) gives them back

Lives here: checkers (texts in, booleans out), what may be drawn, how it is said. Not here: tasks and their scores (`eval.ifeval`).
Imports nothing of amaru but errors.
"""

from amaru.instructions.checking import Check, check_of, followed, followed_loosely, loosely
from amaru.instructions.checks import CHECKS
from amaru.instructions.drawing import KEYWORDS, KINDS, draw, together
from amaru.instructions.further import FURTHER
from amaru.instructions.instruction import Instruction, follows, instructions_of, record_of, share
from amaru.instructions.result import comes_to
from amaru.instructions.wording import WORDINGS, asked, asked_from_now_on, asked_to_revise

__all__ = [
    "CHECKS",
    "FURTHER",
    "KEYWORDS",
    "KINDS",
    "WORDINGS",
    "Check",
    "Instruction",
    "asked",
    "asked_from_now_on",
    "asked_to_revise",
    "check_of",
    "comes_to",
    "draw",
    "followed",
    "followed_loosely",
    "follows",
    "instructions_of",
    "loosely",
    "record_of",
    "share",
    "together",
]
