"""What a student is taught by, as settings: a divergence of the logits, and what may stand beside it."""

from typing import Literal

from pydantic import Field

from amaru.config import Config
from amaru.distill.losses import Divergence
from amaru.errors import ConfigError


class Matching(Config):
    """`Matching(by="cosine", balance="dynamic")`: the residual streams of both behind some of their layers are brought together.

    by       cosine: 1 - cos(t, s) of each token; mse: |t - s|^2 / |t|^2 of each token, so that no layer counts by its scale alone
    layers   [layer of the student, layer of the teacher] each, counted from 0; None: every layer of the student, with that of the
             teacher at the same share of the depth (`paired`)
    weight   of this term, a mean over layers and tokens
    balance  fixed: the weight is that; dynamic: it is multiplied by (logit loss) / (this loss) of the batch, so that with weight 1 both
             are of one size (Minitron's alpha)
    """

    by: Literal["cosine", "mse"] = "cosine"
    layers: tuple[tuple[int, int], ...] | None = None
    weight: float = Field(default=1.0, gt=0)
    balance: Literal["fixed", "dynamic"] = "fixed"

    def paired(self, student: int, teacher: int) -> tuple[tuple[int, int], ...]:
        """The layers that are compared, of models so deep; raises `ConfigError` for layers that are not there.

        >>> Matching().paired(student=3, teacher=8)
        ((0, 2), (1, 4), (2, 7))
        """
        if self.layers is None:
            return tuple((layer, max(0, round((layer + 1) * teacher / student) - 1)) for layer in range(student))
        for mine, theirs in self.layers:
            if not (0 <= mine < student and 0 <= theirs < teacher):
                raise ConfigError(f"Layers {mine} of {student} and {theirs} of {teacher} are to be compared; they count from 0.")
        if len({mine for mine, _ in self.layers}) < len(self.layers) or not self.layers:
            raise ConfigError(f"Each layer of the student is compared once, and one at least; got {list(map(list, self.layers))}.")
        return self.layers


class Terms(Config):
    """`Terms()`: forward KL on logits at T = 1 and nothing else, as Minitron and MiniPuzzle have it.

        loss = T^2 divergence(p, q) + cross_entropy * (-log q(next token)) + weight * alpha * (distance of hidden states)

    divergence     forward_kl, reverse_kl or jensen_shannon
    beta           of Jensen-Shannon: how near it is to forward KL at 0 and to reverse KL at 1 (in direction; at both ends it is 0)
    temperature    T, of both models' logits in the divergence; never of the cross-entropy
    cross_entropy  weight of the text itself. Puzzle found that it makes students worse
    hidden         None: logits only. Minitron adds it where many layers are gone
    """

    divergence: Divergence = "forward_kl"
    beta: float = Field(default=0.5, gt=0, lt=1)
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    cross_entropy: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    hidden: Matching | None = None

    def check(self) -> None:
        if self.divergence != "jensen_shannon" and self.beta != 0.5:
            raise ConfigError(f"beta is Jensen-Shannon's; leave it out with {self.divergence}.")
