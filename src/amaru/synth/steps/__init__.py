"""What a recipe is made of: steps, each kind in a file of its own, with its settings, what it makes of rows, and what it will ask.

Lives here: the kinds. Not here: the order in which rows are taken through them (`running`), and what asking takes (`client`).
"""

from typing import Annotated

from pydantic import Field

from amaru.synth.steps.columns import Columns, Filter
from amaru.synth.steps.decontaminate import Decontaminate
from amaru.synth.steps.fields import Fields
from amaru.synth.steps.listed import Listed
from amaru.synth.steps.pairs import Pairs
from amaru.synth.steps.python import Python
from amaru.synth.steps.seeds import Seeds
from amaru.synth.steps.step import Asked, Gathering, Joined, Making, Starting
from amaru.synth.steps.text import Text
from amaru.synth.steps.unique import Unique

Step = Annotated[
    Seeds | Text | Listed | Fields | Columns | Filter | Unique | Decontaminate | Pairs | Python,
    Field(discriminator="kind"),
]

__all__ = ["Asked", "Gathering", "Joined", "Making", "Starting", "Step", "Unique"]
