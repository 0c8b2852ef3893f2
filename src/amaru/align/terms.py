"""Which preference loss, in the words of a recipe, and where its optimum lies."""

import math
from typing import Literal

from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError

Method = Literal["dpo", "ipo", "rpo"]
Distance = Literal["backward_kl", "forward_kl", "squared"]


class Terms(Config):
    """`Terms(method="rpo", beta=0.1, eta=1.0, sft=1e-5)`: what is minimised for each comparison, `losses` has the formulas.

    method      dpo, ipo, or rpo (reward-aware preference optimisation)
    beta        how many nats of log-ratio to the reference a unit of implicit reward is worth: 1 / beta
    eta         rpo: rewards are multiplied by it
    distance    rpo: between the implicit gap of rewards and that of the data
    smoothing   dpo: the share of preferences that are taken to be the wrong way round
    sft         weight of -log p(best answer), in nats summed over its tokens (over its mean where `by_length`)
    by_length   log-probabilities are means over an answer's tokens instead of sums; beta and sft then have another scale
    """

    method: Method = "dpo"
    beta: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    eta: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    distance: Distance = "backward_kl"
    smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    sft: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    by_length: bool = False

    def check(self) -> None:
        if self.method != "rpo" and (self.eta, self.distance) != (1.0, "backward_kl"):
            raise ConfigError(f"eta and distance belong to rpo, which learns how far apart rewards are; leave them out with {self.method}.")
        if self.method != "dpo" and self.smoothing:
            raise ConfigError(f"smoothing belongs to dpo; leave it out with {self.method}.")

    def optimum(self, gap: float) -> float:
        """The log-ratio gap, in nats (a token, where `by_length`), at which a pair whose rewards are `gap` apart pulls no more."""
        if self.method == "rpo":
            return self.eta * gap / self.beta
        if self.method == "ipo":
            return 1 / (2 * self.beta)
        return math.inf if not self.smoothing else math.log((1 - self.smoothing) / self.smoothing) / self.beta

    def pull(self, gap: float) -> float:
        """The gradient on each log-probability of a pair whose rewards are `gap` apart, while model and reference are the same."""
        b = self.eta * gap
        of_reward = {"backward_kl": 1 / (1 + math.exp(-min(b, 700.0))) - 0.5, "forward_kl": b / 4, "squared": 2 * b}
        return {"dpo": self.beta * (0.5 - self.smoothing), "ipo": 1 / self.beta, "rpo": self.beta * of_reward[self.distance]}[self.method]

    def implied(self, gap: float, length: float) -> str:
        """beta and eta in one sentence, for pairs whose rewards are `gap` apart on average and answers of `length` tokens."""
        eta = f", eta {self.eta:g}, {self.distance}, rewards {gap:.3g} apart on average" if self.method == "rpo" else ""
        pull = self.pull(gap)
        share = f" ({self.sft / pull:.2g} times as much)" if pull else ""
        beside = f", the SFT term with {self.sft:.2g} on that of the best answer{share}" if self.sft else ""
        return (
            f"{self.method}, beta {self.beta:g}{eta}: {self._where(gap, length)}; "
            f"at the start a pair pulls with {pull:.2g} on each log-probability{beside}"
        )

    def _where(self, gap: float, length: float) -> str:
        at, unit = self.optimum(gap), "nats a token" if self.by_length else "nats"
        if math.isinf(at):
            return "its optimum is at no finite gap"
        spread = "" if self.by_length else f" ({at / max(1.0, length):.2g} a token in answers of {length:.0f})"
        return f"its optimum is a log-ratio gap of {at:.3g} {unit}{spread}"
