"""Making a smaller model from a larger one: what matters, which shapes fit, which one wins, and the cut itself.

Lives here: importance scores, layer removal, the search space, plans, surgery on tensors. Not here: training and
distillation of a student, which the search takes as callables. Imports models, nn, axes, config and errors.
"""

from amaru.compress.budget import Budget
from amaru.compress.candidate import Candidate
from amaru.compress.enumeration import Enumeration, enumerate_candidates
from amaru.compress.halfway import Halfway
from amaru.compress.importance import score
from amaru.compress.plan import Plan
from amaru.compress.ranking import Ranking, cut_for, sorted_by_rank
from amaru.compress.removal import iterative_layer_scores, layer_scores, removals
from amaru.compress.scores import Scores
from amaru.compress.search import Contender, Outcome, Ranked, judge, rank_zero_shot, shortlist
from amaru.compress.shape import shaped
from amaru.compress.space import SearchSpace
from amaru.compress.store import CandidateStore
from amaru.compress.surgery import Cut, Surgery, cut_checkpoint, cut_config, cut_decoder

__all__ = [
    "Budget",
    "Candidate",
    "CandidateStore",
    "Contender",
    "Cut",
    "Enumeration",
    "Halfway",
    "Outcome",
    "Plan",
    "Ranked",
    "Ranking",
    "Scores",
    "SearchSpace",
    "Surgery",
    "cut_checkpoint",
    "cut_config",
    "cut_decoder",
    "cut_for",
    "enumerate_candidates",
    "iterative_layer_scores",
    "judge",
    "layer_scores",
    "rank_zero_shot",
    "removals",
    "score",
    "shaped",
    "shortlist",
    "sorted_by_rank",
]
