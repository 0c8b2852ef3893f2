"""Making a smaller model from a larger one: what matters, which shapes fit, which one wins, and the cut itself.

Lives here: importance scores, layer removal, the search space, plans, surgery on tensors. Not here: training and
distillation of a student, which the search takes as callables. Imports models, nn, axes, config and errors.
"""

from amaru.compress.surgery import Cut, cut_checkpoint, cut_config, cut_decoder

__all__ = ["Cut", "cut_checkpoint", "cut_config", "cut_decoder"]
