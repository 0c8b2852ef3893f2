"""Experts kept equally busy without a loss of their own: after each step those that got too few tokens become likelier.

b += rate * sign(mean load - load), for each expert of a layer, over the tokens of a whole batch; b decides who is chosen and has no
part in the weights (Wang et al. 2024, arXiv 2408.15664; DeepSeek-V3 and Nemotron-3 use a rate of 1e-3).
"""

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from amaru.nn.moe import Router
from amaru.train.placement import ALONE, Placement


class Balance:
    """`with Balance(model, rate=1e-3) as balance:` counts where tokens go in forward passes with gradients.

    `balance.update()` after a step moves the biases. A model without experts is left alone. Validation is not counted, and a layer
    that is computed twice for its gradients counts twice as a whole, which changes no sign.
    """

    def __init__(self, model: nn.Module, rate: float, placement: Placement = ALONE) -> None:
        self.rate, self.placement = rate, placement
        self._loads = {router: torch.zeros(router.config.experts) for router in model.modules() if isinstance(router, Router)}

    def __enter__(self) -> "Balance":
        self._hooks = [router.register_forward_hook(self._count) for router in self._loads if self.rate]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()

    def _count(self, router: Any, inputs: Any, outputs: tuple[Tensor, Tensor]) -> None:
        if torch.is_grad_enabled():
            self._loads[router] += outputs[0].flatten().bincount(minlength=len(self._loads[router])).cpu()

    def forget(self) -> None:
        """Drop what was counted, of a step that is skipped."""
        for load in self._loads.values():
            load.zero_()

    @torch.no_grad()
    def update(self) -> None:
        """Move every bias by one rate."""
        for router, load in self._loads.items():
            self.placement.sum_counts(load)
            bias = router.e_score_correction_bias
            bias += self.rate * (load.mean() - load).sign().to(bias)
        self.forget()
