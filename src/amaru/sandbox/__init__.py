"""Programs that a model wrote, run where they can do little harm: `sandbox.run("assert 1 + 1 == 2").passed`.

Lives here: the process and its limits, and how programs are found in answers. Not here: what a program is tested with (`eval`,
`synth`). Imports errors; never torch.
"""

from amaru.sandbox.process import Ran, run
from amaru.sandbox.programs import fenced, program_in

__all__ = ["Ran", "fenced", "program_in", "run"]
