"""Where a run computes."""

import torch

from amaru.errors import ConfigError


def device_named(name: str) -> torch.device:
    """`device_named("cuda:1")`; raises `ConfigError` for one that torch does not know, or that is not here."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device).add_(1).item()
    except (RuntimeError, AssertionError) as error:  # CUDA's absence is an assertion in torch
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"The device '{name}' cannot be used ({reason}); `amaru env` says what is here, and cpu always is.") from None
    return device
