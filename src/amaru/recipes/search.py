"""The stages from importance to the plan of the winner; each is read from the run directory where it is whole."""

import math
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from amaru.compress.blocks import library
from amaru.compress.budget import Budget
from amaru.compress.candidate import Candidate
from amaru.compress.costs import Times
from amaru.compress.enumeration import enumerate_candidates
from amaru.compress.latency import LatencyTable, Pair, grid
from amaru.compress.plan import Plan
from amaru.compress.ranking import cut_for
from amaru.compress.scores import Scores
from amaru.compress.search import Outcome, judge, rank_zero_shot, shortlist
from amaru.compress.shapes import shapes
from amaru.compress.space import pairs
from amaru.compress.store import CandidateStore
from amaru.compress.surgery import cut_decoder
from amaru.config import fingerprint_bytes
from amaru.data.loader import Loader, in_order
from amaru.distill.objective import Distillation
from amaru.errors import ConfigError
from amaru.eval.perplexity import evaluate
from amaru.models.checkpoint import Checkpoint, fingerprint, load, save
from amaru.models.decoder import Decoder
from amaru.models.quantised import numbers
from amaru.recipes.candidates import Found, table
from amaru.recipes.compare import for_arithmetic
from amaru.recipes.compression import CompressRecipe, budget_of, timed_batches, times_of_target
from amaru.recipes.fit import validation_loss
from amaru.recipes.latency import table_for
from amaru.recipes.puzzle import Puzzle
from amaru.recipes.run import Run
from amaru.recipes.score import ScoreRecipe, importance
from amaru.recipes.text import prepare, tokenizer_of
from amaru.train.loop import train
from amaru.train.metrics import ProgressLine, StepMetrics

MEASURED = ("bf16", "bf16", "fp32")  # the formats of the models that `compare.speed` runs


class Search:
    """The stages from scores to plan; each is read from the run directory where it is whole.

    Several searches of one parent may share a run, and with it scores, blocks and results: each with a `prefix` of its own for the
    plan and the table. On another device than the cpu candidates are ranked and taught there; importance is scored on the cpu, from disk.
    Raises `ConfigError` for what is only done on a cpu.
    """

    def __init__(self, recipe: CompressRecipe, run: Run, prefix: str = "") -> None:
        self.recipe, self.run, self.prefix = recipe, run, prefix
        require_a_cpu(recipe, run.device)
        self.config = Checkpoint(recipe.checkpoint).config
        self.text = prepare(recipe.text, run, tokenizer_of(recipe.checkpoint))
        self.origin = {"checkpoint": fingerprint(recipe.checkpoint), "text": self.text.fingerprint}

    @cached_property
    def parent(self) -> Decoder:
        return for_arithmetic(self.recipe.checkpoint, self.recipe.learning.dtype, self.run.device)

    @cached_property
    def times(self) -> Times | None:
        """Measured here, or bounds of the target; None where the budget asks for no time."""
        recipe = self.recipe
        if not recipe.timed:
            return None
        times = times_of_target(recipe) if recipe.target else self._measured()
        self.run.progress.note(f"  times: {times.describe()}")
        return times

    @cached_property
    def budget(self) -> Budget:
        return budget_of(self.recipe, self.config, self.times)

    @cached_property
    def scores(self) -> Scores:
        recipe, floors = self.recipe, {}
        if recipe.layers_iteratively:
            kinds = Counter(layer.kind for layer in self.config.layers)
            floors = {kind: math.ceil(recipe.space.floors.get(kind, 1.0) * count) for kind, count in kinds.items()}
        asked = ScoreRecipe(
            checkpoint=recipe.checkpoint,
            text=recipe.text,
            samples=recipe.calibration_rows,
            layer_samples=recipe.layer_rows,
            metrics=(recipe.layer_metric,),
            layers_iteratively=recipe.layers_iteratively,
            floors=floors,
            ffn_after_activation=recipe.ffn_after_activation,
            fluctuation=recipe.fluctuation,
            dtype=recipe.learning.dtype,
            seed=recipe.seed,
        )
        return importance(asked, self.run, self.text)

    @cached_property
    def puzzle(self) -> Puzzle | None:
        return Puzzle(self.recipe, self.run, lambda: self.parent, self.config, self.origin) if self.recipe.method == "puzzle" else None

    @cached_property
    def found(self) -> Found:
        """The candidates, and where they come from."""
        note = self.run.progress.note
        note(f"  budget: {self.budget.describe()}")
        use = self.budget.workload
        if (use.weights, use.kv, use.state) != MEASURED:
            note("  (times are measured with weights and caches in bf16 and SSM states in fp32)")
        if self.puzzle:
            self.puzzle.prepare(self.scores, self.text)
            found: Found = self.puzzle.choices(self.budget, self.times)
        else:
            shapes(self.config, self.budget, self.recipe.space, self.times)  # what no shape can meet is said before anything is scored
            found = enumerate_candidates(self.config, self.scores, self.budget, self.recipe.space, self.times)
        note(f"  candidates: {found.describe()}")
        return found

    def plan(self) -> Plan:
        """The winner of the search as a cut; the table of all candidates is kept as `search.json`."""
        found = self.found
        origin = self.origin | {"scores": fingerprint_bytes(repr(self.scores.made_from)), "search": self._decided}

        def make(path: Path) -> None:
            outcome = self._search(found)
            Plan(
                parent=self.config,
                candidate=outcome.winner,
                cut=cut_for(outcome.winner, self.config, self.scores, self.recipe.ranking),
                ranking=self.recipe.ranking,
                budget=self.budget,
                made_from=self.origin,
            ).save(path)

        plan = self.run.keep(f"{self.prefix}plan.safetensors", origin, make, lambda path: Plan.load(path, self.origin), title="search")
        self.run.progress.note(f"  winner: {plan.candidate.describe()}, {plan.candidate.parameters / 1e6:.2f} M parameters")
        return plan

    def write_pruned(self, plan: Plan, path: Path) -> None:
        """The winner before distillation, as a checkpoint; blocks that were taught bring their own weights."""
        if self.puzzle and self.puzzle.taught:
            stored = Checkpoint(self.recipe.checkpoint).dtype("embedding.weight")
            save(self.student(plan.candidate), path, self.text.tokenizer, dtype=stored)
        else:
            plan.cut_checkpoint(self.recipe.checkpoint, path, self.text.tokenizer)

    def student(self, candidate: Candidate) -> Decoder:
        """The candidate as it is cut, before any training, in fp32."""
        student = cut_decoder(self._parent_fp32, cut_for(candidate, self.config, self.scores, self.recipe.ranking))
        return self.puzzle.placed(student, candidate) if self.puzzle else student

    @property
    def _decided(self) -> str:
        """A hash of what decides the search besides parent, text and scores: settings and limits, measured times among them."""
        return fingerprint_bytes(repr(self.recipe), repr(self.budget), repr(self.times))

    def _measured(self) -> LatencyTable:
        """The table of this machine; a copy stays in the run, and a run that goes on keeps to it."""
        recipe, batches = self.recipe, timed_batches(self.recipe)
        asked = self._pairs()
        wanted = fingerprint_bytes(*(f"{hidden} {layer}" for hidden, layer in asked))

        def make(path: Path) -> None:
            file = Path(recipe.latency_table) if recipe.latency_table else None
            how = {"prompt": recipe.prompt, "context": max(1, recipe.workload.context), "batches": batches}
            table_for(self.config, asked, **how, file=file, progress=self.run.progress.update).save(path)

        return self.run.keep("latency.safetensors", self.origin | {"layers": wanted}, make, LatencyTable.load, title="latency table")

    def _pairs(self) -> list[Pair]:
        """The layers that are measured: the parent's own and every block; or so many that all widths lie between measured ones."""
        own = [(self.config.hidden, each) for layer in dict.fromkeys(self.config.layers) for each in (*layer.needs, layer)]
        if self.recipe.method == "puzzle":
            blocks = library(self.config, self.recipe.puzzle.variants)
            return list(dict.fromkeys([*own, *((self.config.hidden, b.layer) for each in blocks for b in each if b.layer)]))
        return grid([*own, *pairs(self.config, self.recipe.space)])

    @cached_property
    def _parent_fp32(self) -> Decoder:
        return numbers(load(self.recipe.checkpoint, torch.float32))

    def _search(self, found: Found) -> Outcome:
        recipe, run = self.recipe, self.run
        store = CandidateStore(run.path("search.sqlite"), fingerprint_bytes(repr(self.origin), self._decided))
        ranked = rank_zero_shot(found.candidates, self._zero_shot, store, by=recipe.rank_by, progress=run.progress.update)
        losses = sorted(each.loss for each in ranked)
        run.progress.note(f"  zero-shot: loss {losses[0]:.3f} to {losses[-1]:.3f}, {len(ranked)} candidates ranked by {recipe.rank_by}")
        chosen = shortlist(ranked, recipe.finalists)
        outcome = judge(chosen, self._short_fit, recipe.short_tokens, store, rounds=recipe.rounds, progress=run.progress.note)
        run.write(f"{self.prefix}search.json", table(self.config, found, ranked, outcome, recipe.prompt))
        for folder in run.path("search").glob("*/checkpoints"):  # only now: each result is in the store
            shutil.rmtree(folder)
        return outcome

    def _zero_shot(self, candidate: Candidate) -> dict[str, float]:
        student = self.student(candidate).to(self.run.device)
        student.compute_dtype = self.parent.compute_dtype
        rows = in_order(self.text.validation, self.recipe.learning.batch_rows, limit=self.recipe.ranking_rows)
        found = evaluate(student, rows, teacher=self.parent)
        return {
            "tokens": found.tokens,
            "loss": found.loss,
            "accuracy": found.next_token_accuracy,
            "teacher_kl": found.teacher_kl or 0.0,
            "teacher_agreement": found.teacher_agreement or 0.0,
        }

    def _short_fit(self, candidate: Candidate, tokens: int) -> dict[str, float]:
        learning = replace(self.recipe.learning, tokens=tokens)
        config = replace(learning.training(self.text.training.row_length, self.recipe.seed), validate_every=None)
        student = self.student(candidate).to(self.run.device)
        folder = self.run.path(f"search/{candidate.key}-{tokens}")
        loader = Loader(self.text.training, config.batch_rows, config.seed)
        train(student, Distillation(self.parent), loader, config, folder, made_from=self.origin, report=self._step_of(config.steps))
        return validation_loss(student, self.text, self.recipe.learning.batch_rows, 2 * self.recipe.ranking_rows)

    def _step_of(self, steps: int) -> Callable[[StepMetrics], None]:
        line = ProgressLine(steps)
        return lambda metrics: self.run.progress.update(line.text(metrics))


def require_a_cpu(recipe: CompressRecipe, device: torch.device) -> None:
    """Raises `ConfigError` where a search needs a cpu and has another device."""
    if device.type == "cpu":
        return
    if recipe.method == "puzzle":
        raise ConfigError(f"Blocks of --method puzzle are taught on a cpu; leave --device {device} out, or search with minipuzzle.")
    if recipe.timed and not recipe.target:
        raise ConfigError(f"Times are measured on a cpu; leave --device {device} out, or give --target for the bounds of a device.")
