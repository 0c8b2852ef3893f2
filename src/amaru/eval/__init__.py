"""How good a model is: loss and accuracy on text, alone or beside a teacher; tasks from local files; long contexts that are made here.

Lives here: measurements that need no download. Not here: speed (`serve`). Imports serve, distill, models, data, nn
and config.
"""

from amaru.eval.files import open_task
from amaru.eval.perplexity import Evaluation, evaluate, token_bytes
from amaru.eval.store import Store
from amaru.eval.subject import Subject
from amaru.eval.task import compare, measure

__all__ = ["Evaluation", "Store", "Subject", "compare", "evaluate", "measure", "open_task", "token_bytes"]
