"""What a round of alignment is made of: prompts, answers that models give to them, judges, and pairs that are good enough to learn from."""

from amaru.align.rounds.answering import Answered, Answering, Speaker, answer
from amaru.align.rounds.judging import Judged, Judges, judge
from amaru.align.rounds.pairing import Gate, Tally, compared
from amaru.align.rounds.prompts import Prompt, read_prompts

__all__ = ["Answered", "Answering", "Gate", "Judged", "Judges", "Prompt", "Speaker", "Tally", "answer", "compared", "judge", "read_prompts"]
