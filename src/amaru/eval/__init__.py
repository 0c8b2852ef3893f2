"""How good a model is: loss and accuracy on text, alone or beside a teacher.

Lives here: measurements that need no download. Not here: speed (`serve`). Imports serve, distill, models, data, nn
and config.
"""

from amaru.eval.perplexity import Evaluation, evaluate, token_bytes

__all__ = ["Evaluation", "evaluate", "token_bytes"]
