"""The write by torch's indexing."""

from torch import Tensor

from amaru.errors import ConfigError


def page_write(x: Tensor, pool: Tensor, pages: Tensor, owners: Tensor, positions: Tensor) -> None:
    page = pool.shape[1]
    try:
        pool[pages[owners, positions // page], positions % page] = x.to(pool.dtype)
    except IndexError:
        raise ConfigError(f"A token's page is none of the {len(pool)} of the pool.") from None
