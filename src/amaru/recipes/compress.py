"""From a parent and a budget to a distilled student: `amaru compress`, the stages of MiniPuzzle as saved artifacts.

parent -> scores -> shapes that fit -> zero-shot ranking -> short distillation of the best few -> plan -> cut
       -> long distillation -> student, compared with its parent
"""

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from amaru.compress.budget import Budget
from amaru.compress.candidate import Candidate
from amaru.compress.importance import score
from amaru.compress.plan import Plan, cut_for
from amaru.compress.removal import layer_scores
from amaru.compress.scores import Scores
from amaru.compress.search import Outcome, Ranked, judge, rank_zero_shot, shortlist
from amaru.compress.space import Enumeration, SearchSpace, enumerate_candidates
from amaru.compress.store import CandidateStore
from amaru.compress.surgery import cut_checkpoint, cut_decoder
from amaru.config import Config, fingerprint_bytes, to_dict
from amaru.config.units import parse_bytes, parse_count, parse_share
from amaru.data.loader import Loader, in_order
from amaru.data.tokenizer import Tokenizer
from amaru.distill.objective import Distillation
from amaru.errors import ConfigError
from amaru.eval.perplexity import evaluate
from amaru.models import cost
from amaru.models.checkpoint import Checkpoint, fingerprint, load
from amaru.models.cost import Workload
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.nn.batch import Batch
from amaru.recipes.compare import quality, speed
from amaru.recipes.distill import distil_student, for_arithmetic
from amaru.recipes.learning import Learning
from amaru.recipes.run import Run
from amaru.recipes.text import Text, TextRecipe, gather, prepare
from amaru.recipes.train import describe
from amaru.serve.speed import Timing
from amaru.train.loop import train


class CompressRecipe(Config):
    """`CompressRecipe(checkpoint="runs/demo/parent", text=..., memory="60%")`.

    memory, parameters   the budget: "60%" of the parent, "2GiB" of the workload, "300M" parameters; one of them or both
    calibration_rows     rows on which widths are scored; layer_rows: on which layers are removed one by one
    layer_metric         "mse" of the tensor before the head (MiniPuzzle) or "kl" of the logits (Minitron-SSM)
    ranking_rows         validation rows on which every candidate is ranked without training
    finalists            how many are distilled for `short_tokens` each; the best then gets `learning.tokens`
    learning             the long distillation; the short ones differ in their number of tokens only
    prompt, repeats      how speeds are taken: tokens prefilled, and repetitions; decoding is at the workload's context and batch
    """

    checkpoint: str
    text: TextRecipe = Field(default_factory=TextRecipe)
    memory: str | None = None
    parameters: str | None = None
    workload: Workload = Workload()
    space: SearchSpace = SearchSpace()
    calibration_rows: int = Field(default=128, gt=0)
    layer_rows: int = Field(default=16, gt=0)
    layer_metric: str = Field(default="mse", pattern="^(mse|kl)$")
    ranking_rows: int = Field(default=16, gt=0)
    finalists: int = Field(default=3, gt=0)
    short_tokens: int = Field(default=200_000, gt=0)
    learning: Learning = Learning()
    prompt: int = Field(default=1024, gt=0)
    repeats: int = Field(default=5, gt=0)
    seed: int = Field(default=0, ge=0)

    def check(self) -> None:
        if self.memory is None and self.parameters is None:
            raise ConfigError("Compression needs a budget: --memory 60%, --memory 2GiB, --params 300M, or two of them.")

    @property
    def timing(self) -> Timing:
        return Timing(prompt=self.prompt, batch=self.workload.batch, context=self.workload.context, repeats=self.repeats)


@dataclass(frozen=True)
class Compressed:
    """The finished student and what it is compared with."""

    student: Path
    plan: Plan
    text: Text
    rows: dict[str, dict[str, Any]]


def compress(recipe: CompressRecipe, run: Run) -> Compressed:
    """Run every stage that is not finished yet in the run directory."""
    search = Search(recipe, run)
    plan = search.plan()
    pruned = run.keep(
        "pruned",
        search.origin | {"plan": plan.candidate.key},
        lambda path: cut_checkpoint(recipe.checkpoint, plan.cut, path, search.text.tokenizer),
        lambda path: path,
        title="cut",
        describe=lambda path: _narrowed(search.config, plan),
    )
    student = distil_student(run, "student", Path(recipe.checkpoint), pruned, recipe.learning, recipe.seed, search.text)
    checkpoints = {"parent": Path(recipe.checkpoint), "pruned": pruned, "student": student}
    rows = compare(recipe, run, checkpoints, search.text)
    run.result("comparison", {name: fingerprint(path) for name, path in checkpoints.items()}, lambda: rows)
    return Compressed(student, plan, search.text, rows)


def compare(recipe: CompressRecipe, run: Run, checkpoints: dict[str, Path], text: Text) -> dict[str, dict[str, Any]]:
    """Quality of each checkpoint against the parent, then speed of each: timings come last and together."""
    parent = Path(recipe.checkpoint)
    rows = {name: quality(run, name, path, text, teacher=parent) for name, path in checkpoints.items()}
    return {name: rows[name] | speed(run, name, path, recipe.timing) for name, path in checkpoints.items()}


class Search:
    """The stages from scores to plan; each is read from the run directory where it is whole."""

    def __init__(self, recipe: CompressRecipe, run: Run) -> None:
        self.recipe, self.run = recipe, run
        checkpoint = Checkpoint(recipe.checkpoint)
        self.config = checkpoint.config
        self.budget = budget_of(recipe, checkpoint)
        self.text = prepare(recipe.text, run, Tokenizer.load(recipe.checkpoint))
        self.origin = {"checkpoint": fingerprint(recipe.checkpoint), "text": self.text.fingerprint}

    @cached_property
    def parent(self) -> Decoder:
        return for_arithmetic(self.recipe.checkpoint, self.recipe.learning.dtype)

    @cached_property
    def scores(self) -> Scores:
        recipe = self.recipe
        made_from = self.origin | {"how": f"{recipe.calibration_rows} {recipe.layer_rows} {recipe.layer_metric} {recipe.learning.dtype}"}
        return self.run.keep(
            "scores.safetensors",
            made_from,
            lambda path: self._score(made_from).save(path),
            Scores.load,
            title="importance",
            describe=lambda scores: coverage(self.config, scores),
        )

    def enumeration(self) -> Enumeration:
        found = enumerate_candidates(self.config, self.scores, self.budget, self.recipe.space)
        self.run.progress.note(f"  budget: {self.budget.describe()}")
        self.run.progress.note(f"  candidates: {found.describe()}")
        return found

    def plan(self) -> Plan:
        """The winner of the search as a cut; the table of all candidates is kept as `search.json`."""
        found = self.enumeration()
        origin = self.origin | {"scores": fingerprint_bytes(repr(self.scores.made_from)), "search": fingerprint_bytes(repr(self.recipe))}

        def make(path: Path) -> None:
            outcome = self._search(found)
            Plan(
                candidate=outcome.winner,
                cut=cut_for(outcome.winner, self.config, self.scores),
                budget=self.budget,
                made_from=self.origin,
            ).save(path)

        plan = self.run.keep("plan.safetensors", origin, make, lambda path: Plan.load(path, self.origin), title="search")
        self.run.progress.note(f"  winner: {plan.candidate.describe()}, {plan.candidate.parameters / 1e6:.2f} M parameters")
        return plan

    def student(self, candidate: Candidate) -> Decoder:
        """The candidate as it is cut, before any training, in fp32."""
        return cut_decoder(self._parent_fp32, cut_for(candidate, self.config, self.scores))

    @cached_property
    def _parent_fp32(self) -> Decoder:
        return load(self.recipe.checkpoint, torch.float32)

    def _score(self, made_from: dict[str, str]) -> Scores:
        recipe, progress = self.recipe, self.run.progress.update
        scores = score(self.parent, self._samples(recipe.calibration_rows), made_from=made_from, progress=progress)
        layers = layer_scores(self.parent, self._samples(recipe.layer_rows), recipe.layer_metric, progress=progress)  # type: ignore[arg-type]
        return replace(scores, layers=layers, layers_by=recipe.layer_metric)

    def _samples(self, rows: int) -> list[Batch]:
        """Single rows of training text, in the order of the loader: one calibration sample each."""
        loader = Loader(self.text.training, 1, self.recipe.seed)
        batches = (loader.batch(step) for step in range(min(rows, len(self.text.training))))
        return [Batch(batch.ids, batch.positions, batch.cu_seqlens) for batch in batches]

    def _search(self, found: Enumeration) -> Outcome:
        recipe, run = self.recipe, self.run
        store = CandidateStore(run.path("search.sqlite"), fingerprint_bytes(repr(self.origin), repr(recipe)))
        ranked = rank_zero_shot(found.candidates, self._zero_shot, store, progress=run.progress.update)
        run.progress.note(f"  zero-shot: loss {ranked[0].loss:.3f} to {ranked[-1].loss:.3f} over {len(ranked)} candidates")
        outcome = judge(shortlist(ranked, recipe.finalists), self._short_fit, recipe.short_tokens, store, progress=run.progress.note)
        run.result("search", self.origin | {"recipe": fingerprint_bytes(repr(recipe))}, lambda: _table(self.config, found, ranked, outcome))
        return outcome

    def _zero_shot(self, candidate: Candidate) -> dict[str, float]:
        student = self.student(candidate)
        student.compute_dtype = self.parent.compute_dtype
        rows = in_order(self.text.validation, self.recipe.learning.batch_rows, limit=self.recipe.ranking_rows)
        found = evaluate(student, rows, teacher=self.parent)
        return {
            "loss": found.loss,
            "accuracy": found.next_token_accuracy,
            "teacher_kl": found.teacher_kl or 0.0,
            "teacher_agreement": found.teacher_agreement or 0.0,
        }

    def _short_fit(self, candidate: Candidate, tokens: int) -> dict[str, float]:
        learning = replace(self.recipe.learning, tokens=tokens)
        config = learning.training(self.text.training.row_length, self.recipe.seed)
        student = self.student(candidate)
        folder = self.run.path(f"search/{candidate.key}")
        loader = Loader(self.text.training, config.batch_rows, config.seed)
        train(student, Distillation(self.parent), loader, config, folder, made_from=self.origin, validate=self._validation)
        shutil.rmtree(folder / "checkpoints")
        return self._validation(student)

    def _validation(self, student: Decoder) -> dict[str, float]:
        rows = in_order(self.text.validation, self.recipe.learning.batch_rows, limit=2 * self.recipe.ranking_rows)
        return {"loss": evaluate(student, rows).loss}


def forecast(recipe: CompressRecipe, directory: Path) -> dict[str, Any]:
    """What the run would do, without running the model: the budget in numbers, the parent's own figures, the resolved recipe."""
    checkpoint = Checkpoint(recipe.checkpoint)
    return {
        "out": str(directory),
        "text": str(gather(recipe.text).summary),
        "parent": describe(checkpoint.config),
        "parent_memory": cost.memory(checkpoint.config, recipe.workload).total,
        "budget": budget_of(recipe, checkpoint).describe(),
        "recipe": to_dict(recipe),
    }


def coverage(config: DecoderConfig, scores: Scores) -> str:
    """Which axes of how many layers were scored, and which layers can only stay or go as a whole."""
    read = Counter(f"{layer.kind} [{axes}]" for layer, found in zip(config.layers, scores.within, strict=True) for axes in found)
    whole = Counter(layer.kind for layer, found in zip(config.layers, scores.within, strict=True) if not found)
    parts = [
        "hidden",
        *(f"{count} x {name}" for name, count in read.items()),
        *(f"{count} x {kind} as a whole" for kind, count in whole.items()),
    ]
    return f"{', '.join(parts)}; every layer by its removal; {scores.samples} samples, {scores.tokens:,} tokens"


def budget_of(recipe: CompressRecipe, checkpoint: Checkpoint) -> Budget:
    """The recipe's words as numbers; a share of memory is of the parent's own under the same workload."""
    whole = cost.memory(checkpoint.config, recipe.workload).total
    memory = None if recipe.memory is None else parse_share(recipe.memory, whole) or parse_bytes(recipe.memory)
    count = cost.parameters(checkpoint.config)
    parameters = None if recipe.parameters is None else parse_share(recipe.parameters, count) or parse_count(recipe.parameters)
    return Budget(memory=memory, parameters=parameters, workload=recipe.workload)


def _narrowed(parent: DecoderConfig, plan: Plan) -> str:
    """How many of the parent's tensors were dropped with their layer, cut narrower, or kept as they are."""
    student = plan.candidate.config
    before, after = parent.tensors(), student.tensors()
    same = sum(spec.layout.shape(axes) == origin for (spec, axes), origin in zip(after.values(), _origins(parent, plan), strict=True))
    return f"{len(before)} tensors: {len(before) - len(after)} dropped with their layers, {len(after) - same} narrowed, {same} whole"


def _origins(parent: DecoderConfig, plan: Plan) -> list[tuple[int, ...]]:
    """The parent's shape of each of the student's tensors."""
    whole = replace(parent, layers=tuple(parent.layers[index] for index in plan.candidate.layers))
    return [spec.layout.shape(axes) for spec, axes in whole.tensors().values()]


def _table(parent: DecoderConfig, found: Enumeration, ranked: list[Ranked], outcome: Outcome) -> dict[str, Any]:
    """Every candidate with its figures, for the report."""
    finalists = {each.candidate.key: each for each in outcome.contenders}
    rows = []
    for each in ranked:
        final = finalists.get(each.candidate.key)
        rows.append(
            {
                "shape": each.candidate.describe(),
                "layers": list(each.candidate.layers),
                "parameters": each.candidate.parameters,
                "memory": each.candidate.memory,
                **each.result,
                "loss_after": final.after["loss"] if final else None,
                "rank_before": final.rank_before if final else None,
                "rank_after": final.rank_after if final else None,
                "winner": each.candidate == outcome.winner,
            }
        )
    shapes = {"shapes": found.shapes, "fitting": found.fitting, "parent": to_dict(parent)}
    return shapes | {"kendall_tau": outcome.kendall_tau, "candidates": rows}
