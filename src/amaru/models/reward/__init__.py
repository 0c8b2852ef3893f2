"""Reward models: a family's decoder whose output layer is a linear head over named attributes, and what becomes of them.

Lives here: the attributes and their weighted sum, the text that is scored, the head, the checkpoint, the scorer. Not here: data and
training (`align.reward`), serving. Imports models, nn, data and config.
"""

from amaru.models.reward.attributes import Attributes
from amaru.models.reward.scorer import Scored, Scorer, scorer

__all__ = ["Attributes", "Scored", "Scorer", "scorer"]
