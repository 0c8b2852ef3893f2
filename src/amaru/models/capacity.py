"""What fits into the memory of devices: how many sequences, and how long they may be."""

from dataclasses import replace

from amaru.models.cost import Workload, memory
from amaru.models.decoder import DecoderConfig

ENDLESS = 2**40  # a context that fits at this length fits at any: nothing grows with it


def sequences(config: DecoderConfig, workload: Workload, devices: int, usable: int) -> int | None:
    """How many sequences of `workload.context` tokens fit beside the weights into `usable` bytes of each of `devices`.

    None: as many as one likes, because a sequence keeps nothing.
    """
    one = memory(config, replace(workload, batch=1), devices)
    return max(0, usable - one.weights) // one.sequences if one.sequences else None


def longest_context(config: DecoderConfig, workload: Workload, devices: int, usable: int) -> int | None:
    """The largest context that `workload.batch` sequences can have in `usable` bytes of each of `devices`; 0 when none fits.

    None: any, because nothing grows with the context.
    """

    def fits(context: int) -> bool:
        return memory(config, replace(workload, context=context), devices).total <= usable

    if fits(ENDLESS):
        return None
    low, high = 0, ENDLESS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
