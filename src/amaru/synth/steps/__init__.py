"""What a recipe is made of: steps, each kind in a file of its own, with its settings, what it makes of rows, and what it will ask.

Lives here: the kinds. Not here: the order in which rows are taken through them (`running`), and what asking takes (`client`).
"""

from typing import Annotated, get_args

from pydantic import Field

from amaru.synth.steps.colonies import Colonies
from amaru.synth.steps.columns import Columns
from amaru.synth.steps.compare import Compare
from amaru.synth.steps.comparisons import Comparisons
from amaru.synth.steps.constrain import Constrain
from amaru.synth.steps.decontaminate import Decontaminate
from amaru.synth.steps.dialogue import Dialogue
from amaru.synth.steps.evolve import Evolve
from amaru.synth.steps.fields import Fields
from amaru.synth.steps.filter import Filter
from amaru.synth.steps.keywords import Keywords
from amaru.synth.steps.listed import Listed
from amaru.synth.steps.opponents import Opponents
from amaru.synth.steps.pairs import Pairs
from amaru.synth.steps.python import Python
from amaru.synth.steps.respond import Respond
from amaru.synth.steps.reward import Reward
from amaru.synth.steps.seeds import Seeds
from amaru.synth.steps.step import Asked, Gathering, Joined, Making, Starting
from amaru.synth.steps.text import Text
from amaru.synth.steps.unique import Unique
from amaru.synth.steps.verify import Verify

Bringing = Seeds | Keywords
Writing = Text | Listed | Fields | Respond | Dialogue | Evolve
Judging = Verify | Reward | Compare
Arranging = Columns | Filter | Unique | Decontaminate | Constrain | Opponents | Colonies | Pairs | Comparisons | Python
Step = Annotated[Bringing | Writing | Judging | Arranging, Field(discriminator="kind")]
KINDS: dict[str, type[Joined]] = {get_args(each.__annotations__["kind"])[0]: each for each in get_args(get_args(Step)[0])}

__all__ = ["KINDS", "Asked", "Gathering", "Joined", "Making", "Starting", "Step", "Unique"]
