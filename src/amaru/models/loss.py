"""What an objective returns: one number to differentiate, and the parts that are shown while training."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Loss:
    """`Loss(total=mean_nats, tokens=4096, parts={"kl": 0.31})`.

    total   scalar with gradient, the mean over `tokens`, in nats
    tokens  how many tokens the mean is over
    parts   further means to log by name
    """

    total: Tensor
    tokens: int
    parts: dict[str, float] = field(default_factory=dict)
