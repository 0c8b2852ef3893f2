"""Few numbers that change a model: LoRA and Tied-LoRA on any linear layer of any family, plain or quantised.

Lives here: which layers are reached, the low-rank change, its methods, adapters on a decoder, their files. Not here: training them
(`train`), the layers themselves (`nn`). Imports models, nn, ops, axes, config and errors.
"""

from amaru.adapters.attach import Merged, activate, adapt, attach, by_sequence, detach, fold, merge, switched_off, unmerge
from amaru.adapters.lora import LoRA
from amaru.adapters.method import Adapter, Method
from amaru.adapters.targets import chosen, coverage, describe, sites
from amaru.adapters.tied_lora import TiedLoRA

__all__ = [
    "Adapter",
    "LoRA",
    "Merged",
    "Method",
    "TiedLoRA",
    "activate",
    "adapt",
    "attach",
    "by_sequence",
    "chosen",
    "coverage",
    "describe",
    "detach",
    "fold",
    "merge",
    "sites",
    "switched_off",
    "unmerge",
]
