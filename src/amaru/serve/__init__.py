"""Running a model: sequences, the state pool they own slots of, sampling, and how fast it is.

Lives here: everything between a prompt and its text. Not here: the model, which is the very one that is trained
(`models`). Imports models, data, nn, ops, config and errors.
"""

from amaru.serve.config import EngineConfig
from amaru.serve.engine import Engine
from amaru.serve.generate import Generation, generate
from amaru.serve.request import Settings
from amaru.serve.sampler import Sampling
from amaru.serve.speed import Speed, Timing, measure

__all__ = ["Engine", "EngineConfig", "Generation", "Sampling", "Settings", "Speed", "Timing", "generate", "measure"]
