"""Programs that a model wrote, run where they can do little harm: `sandbox.run("assert 1 + 1 == 2").passed`.

Lives here: the process and its limits. Not here: what a program is tested with (`eval`, `synth`). Imports errors; never torch.
"""

from amaru.sandbox.process import Ran, run

__all__ = ["Ran", "run"]
