"""Puzzle: a block for every layer by itself. Library, local distillation, replace-one-block scores, and the choices that fit a budget."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from amaru.compress.blocks import Block, library
from amaru.compress.budget import Budget
from amaru.compress.candidate import Candidate, candidate
from amaru.compress.costs import Costs, Times
from amaru.compress.enumeration import most_important
from amaru.compress.local import Library
from amaru.compress.mip import Choice, Program, at_random, largest
from amaru.compress.replace import Sample, known_costs, replace_one
from amaru.compress.scores import Scores
from amaru.compress.store import CandidateStore
from amaru.config import fingerprint_bytes
from amaru.data.loader import Loader, in_order
from amaru.errors import BudgetError, ConfigError
from amaru.models.decoder import Decoder, DecoderConfig, ResidualLayer
from amaru.nn.batch import Batch
from amaru.recipes.compression import CompressRecipe
from amaru.recipes.run import Run
from amaru.recipes.text import Text


@dataclass(frozen=True)
class Choices:
    """Stacks whose blocks were chosen one by one, and how many there could be."""

    candidates: tuple[Candidate, ...]
    shapes: int
    fitting: int
    batches: tuple[int, ...]
    objective: str

    def describe(self) -> str:
        count = f"{self.shapes:,}" if self.shapes < 10**9 else f"10^{math.log10(self.shapes):.0f}"
        batches = f" for batches of {', '.join(map(str, self.batches))}" if len(self.batches) > 1 else ""
        return f"{count} choices of blocks; {len(self.candidates)} that fit are ranked{batches}, chosen by {self.objective}"


class Puzzle:
    """The stages of a heterogeneous search; every one goes on where it was stopped."""

    def __init__(
        self, recipe: CompressRecipe, run: Run, parent: Callable[[], Decoder], config: DecoderConfig, origin: dict[str, str]
    ) -> None:
        self.recipe, self.how, self.run, self.config = recipe, recipe.puzzle, run, config
        self._parent = parent
        how = (self.how.kept, self.how.variants, self.how.local, recipe.calibration_rows, recipe.ranking_rows, recipe.learning.dtype)
        ranked = (recipe.ffn_after_activation, recipe.fluctuation, recipe.ranking)
        self.made_from = origin | {"how": fingerprint_bytes(repr(how), repr(ranked), str(recipe.seed))}
        self._blocks = Library(run.path("blocks"), self.made_from, self.how.local, recipe.ranking)
        self._known: dict[str, dict[str, float]] = {}

    @property
    def taught(self) -> bool:
        """Whether blocks have weights of their own."""
        return self.how.local.tokens > 0

    def prepare(self, scores: Scores, text: Text) -> None:
        """Teach the blocks and score each in its place; what is on disk is not made again."""
        self._scores = scores
        self.stack = self._kept(scores)
        self.library = library(self.config, self.how.variants, self.stack)
        count = sum(map(len, self.library))
        self.run.progress.note(f"  library: {count} blocks for {len(self.stack)} layers")
        store = CandidateStore(self.run.path("search.sqlite"), fingerprint_bytes(repr(self.made_from)))
        before = known_costs(self.library, store)
        self._known = before if before and self._blocks.is_whole(self.library) else self._measure(text, store)
        self.run.write("blocks.json", self._table())

    def _measure(self, text: Text, store: CandidateStore) -> dict[str, dict[str, float]]:
        parent = self._parent()
        loader = Loader(text.training, 1, self.recipe.seed)
        rows = (loader.batch(step) for step in range(min(self.recipe.calibration_rows, len(text.training))))
        samples = [Batch(row.ids, row.positions, row.cu_seqlens) for row in rows]
        if self.taught and len(self.stack) < len(self.config.layers):
            self.run.progress.note("  (blocks learn on what the layers that stay are given in the shortened stack)")
        self._blocks.teach(parent, self.library, self._scores, samples, self.run.progress.update)
        shown = in_order(text.validation, 1, limit=self.recipe.ranking_rows)
        judged = [Sample(Batch(row.ids, row.positions, row.cu_seqlens), row.targets) for row in shown]
        return replace_one(parent, self.library, self._build, judged, store, self.run.progress.update)

    def choices(self, budget: Budget, times: Times | None) -> Choices:
        """The best stacks that meet the budget: several for each batch that it looks at. Raises `BudgetError` when there is none."""
        costs = Costs(self.config, budget, times)
        own = costs.of(costs.total(self.config))
        if budget.used(own) <= 1:
            raise BudgetError(f"The parent meets the budget of {budget.describe()} as it is ({own.describe()}); there is nothing to cut.")
        looked_at = costs.batches if budget.throughput is not None else (budget.workload.batch,)
        chosen: dict[str, Candidate] = {}
        for batch in looked_at:
            try:
                found = self._program(costs, batch).solve(self.how.solutions, self.how.alike)
            except BudgetError:
                continue
            for choice in found:
                each = self._candidate(choice, costs)
                chosen.setdefault(each.key, each)
        if not chosen:
            raise BudgetError(self._impossible(costs, budget))
        shapes = math.prod(len(blocks) for blocks in self.library)
        return Choices(tuple(chosen.values()), shapes, len(chosen), looked_at, self.how.objective)

    def placed(self, student: Decoder, chosen: Candidate) -> Decoder:
        """The student with the weights that its blocks learned, where they learned any."""
        if not self.taught:
            return student
        for place, (index, layer) in enumerate(zip(chosen.layers, chosen.config.layers, strict=True)):
            if layer != self.config.layers[index]:
                built = self._build(Block(index=index, layer=layer))
                assert built is not None
                student.layers[place].load_state_dict(built.state_dict())
        return student

    def _build(self, block: Block) -> ResidualLayer | None:
        return self._blocks.layer(self._parent(), block, self._scores)

    def _kept(self, scores: Scores) -> list[int]:
        """The layers that blocks are chosen for: of the kinds that are thinned first, the most important ones."""
        places: dict[str, list[int]] = {}
        for index, layer in enumerate(self.config.layers):
            places.setdefault(layer.kind, []).append(index)
        for kind, count in self.how.kept.items():
            if kind not in places or not 0 <= count <= len(places[kind]):
                held = ", ".join(f"{len(each)} {name}" for name, each in places.items())
                raise ConfigError(f"puzzle.kept asks for {count} {kind} layers; the parent has {held}.")
        return sorted(i for kind, each in places.items() for i in most_important(each, self.how.kept.get(kind, len(each)), scores))

    def _program(self, costs: Costs, batch: int) -> Program:
        _, rows, limits = costs.linear(batch)
        hidden = self.config.hidden
        vectors = [np.array([self._vector(costs, block) for block in blocks]) for blocks in self.library]
        program = Program(
            scores=[np.array([self._known[block.key][self.how.score_by] for block in blocks]) for blocks in self.library],
            costs=[each @ rows.T for each in vectors],
            limits=limits - rows @ costs.alone(hidden),
            present=[np.array([block.layer is not None for block in blocks]) for blocks in self.library],
        )
        if self.how.objective == "random":
            return at_random(program, self.recipe.seed)
        return largest(program, [each[:, 0] for each in vectors]) if self.how.objective == "parameters" else program

    def _vector(self, costs: Costs, block: Block) -> np.ndarray:
        alone = costs.alone(self.config.hidden)
        return np.zeros_like(alone) if block.layer is None else costs.layer(self.config.hidden, block.layer)

    def _candidate(self, choice: Choice, costs: Costs) -> Candidate:
        blocks = [each[number] for each, number in zip(self.library, choice, strict=True)]
        present = [block for block in blocks if block.layer is not None]
        config = replace(self.config, layers=tuple(block.layer for block in present))  # type: ignore[arg-type]
        return candidate(tuple(block.index for block in present), config, costs.of(costs.total(config)))

    def _impossible(self, costs: Costs, budget: Budget) -> str:
        """The smallest that the library reaches along each limit alone."""
        own = budget.workload.batch
        said = [f"{name} {self._least(costs, name, own):.0%} of {limit:,.4g}" for name, limit in budget.limits() if name != "throughput"]
        if budget.throughput is not None:
            least = min(self._least(costs, "throughput", batch) for batch in costs.batches)
            said.append(f"throughput {1 / least:.0%} of {budget.throughput:,.4g}")
        return (
            f"No choice of blocks meets the budget of {budget.describe()}. The nearest that the library comes, to each by itself: "
            f"{', '.join(said)}. Raise the budget, or offer narrower blocks (puzzle.variants.shares, no_op)."
        )

    def _least(self, costs: Costs, name: str, batch: int) -> float:
        """The least share of one limit that any choice takes."""
        names, rows, limits = costs.linear(batch)
        least = []
        for row, limit, of in zip(rows, limits, names, strict=True):
            if of == name:
                smallest = [min(float(row @ self._vector(costs, block)) for block in blocks) for blocks in self.library]
                least.append((float(row @ costs.alone(self.config.hidden)) + sum(smallest)) / limit)
        return max(least)

    def _table(self) -> list[dict[str, object]]:
        """Every block with what it costs in quality, and its error before and after local distillation."""
        errors = self._blocks.errors()
        rows: list[dict[str, object]] = []
        for blocks in self.library:
            for block in blocks:
                before, after = errors.get(block.key, (None, None))
                shape = block.layer.describe() if block.layer else None
                rows.append({"layer": block.index, "block": shape, **self._known[block.key], "error_cut": before, "error_taught": after})
        return rows
