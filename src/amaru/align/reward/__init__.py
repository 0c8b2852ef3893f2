"""Training reward models: rated and compared answers as rows, and the two losses over them. The model itself is `models.reward`."""

from amaru.align.reward.judging import rewards_by
from amaru.align.reward.objectives import BradleyTerry, Regression
from amaru.align.reward.rows import RewardLoader, RewardRows, compared, rated

__all__ = ["BradleyTerry", "Regression", "RewardLoader", "RewardRows", "compared", "rated", "rewards_by"]
