"""AdamW over a model's trainable parameters, with decay on matrices only."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from amaru.errors import ConfigError


class AdamW:
    """`AdamW(parameter_groups(model, 0.1), lr=8e-4, betas=(0.9, 0.95), eps=1e-8)`: Adam with the decay apart (arXiv 1711.05101).

    A group is `{"params": [...], "weight_decay": ...}`, its "lr" may change from step to step. `state` has by parameter exp_avg,
    exp_avg_sq and step. This is torch's fused kernel, 3 to 5 times as fast as its others on a CPU, and what torch.optim.AdamW does;
    that class imports torch's compiler when it is made, which takes seconds of every start.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float) -> None:
        self.param_groups = [{**group, "lr": lr} for group in groups]
        self.betas, self.eps = betas, eps
        self.state: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault((parameter.device, parameter.dtype), []).append(parameter)
            for parameters in alike.values():
                self._step(parameters, group)

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        states = [self.state[parameter] or self._begun(parameter) for parameter in parameters]
        first, second, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        torch.ops.aten._foreach_add_(steps, 1)
        torch.ops.aten._fused_adamw_(
            parameters,
            [parameter.grad for parameter in parameters],
            first,
            second,
            [],
            steps,
            lr=group["lr"],
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=group["weight_decay"],
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def _begun(self, parameter: Tensor) -> dict[str, Tensor]:
        moments = {name: torch.zeros_like(parameter, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
        self.state[parameter] = {**moments, "step": torch.zeros((), dtype=torch.float32, device=parameter.device)}
        return self.state[parameter]

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


def adamw(model: nn.Module, *, lr: float, betas: tuple[float, float], weight_decay: float, eps: float = 1e-8) -> AdamW:
    """`adamw(model, lr=8e-4, betas=(0.9, 0.95), weight_decay=0.1)`: Nemotron-H's optimizer.

    Raises `ConfigError` when nothing is trainable, or a trainable weight is below fp32: steps smaller than its
    rounding would be lost without a word.
    """
    return AdamW(parameter_groups(model, weight_decay), lr=lr, betas=betas, eps=eps)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay for parameters of two or more dimensions (the convolution's taps too), none for vectors: norms, A_log, D, dt_bias, biases."""
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trainable:
        raise ConfigError("The model has no trainable parameter.")
    for name, parameter in trainable.items():
        if torch.promote_types(parameter.dtype, torch.float32) != parameter.dtype:
            raise ConfigError(f"{name} is {parameter.dtype}; training keeps weights in at least fp32. Load the checkpoint with dtype fp32.")
    matrices = [parameter for parameter in trainable.values() if parameter.dim() >= 2]
    vectors = [parameter for parameter in trainable.values() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
