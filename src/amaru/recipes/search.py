"""The stages from importance to the plan of the winner; each is read from the run directory where it is whole."""

import math
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from amaru.compress.candidate import Candidate
from amaru.compress.importance import score
from amaru.compress.plan import Plan, cut_for
from amaru.compress.removal import iterative_layer_scores, layer_scores
from amaru.compress.scores import Scores
from amaru.compress.search import Outcome, Ranked, judge, rank_zero_shot, shortlist
from amaru.compress.space import Enumeration, enumerate_candidates
from amaru.compress.store import CandidateStore
from amaru.compress.surgery import cut_decoder
from amaru.config import fingerprint_bytes, to_dict
from amaru.data.loader import Loader, in_order
from amaru.distill.objective import Distillation
from amaru.eval.perplexity import evaluate
from amaru.models.checkpoint import Checkpoint, fingerprint, load
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.quantised import numbers
from amaru.nn.batch import Batch
from amaru.recipes.compare import for_arithmetic
from amaru.recipes.compression import CompressRecipe, budget_of
from amaru.recipes.fit import validation_loss
from amaru.recipes.run import Run
from amaru.recipes.text import prepare, tokenizer_of
from amaru.train.loop import train
from amaru.train.metrics import ProgressLine, StepMetrics

MEASURED = ("bf16", "bf16", "fp32")  # the formats of the models that `compare.speed` runs


class Search:
    """The stages from scores to plan; each is read from the run directory where it is whole."""

    def __init__(self, recipe: CompressRecipe, run: Run) -> None:
        self.recipe, self.run = recipe, run
        checkpoint = Checkpoint(recipe.checkpoint)
        self.config = checkpoint.config
        self.budget = budget_of(recipe, checkpoint)
        self.text = prepare(recipe.text, run, tokenizer_of(recipe.checkpoint))
        self.origin = {"checkpoint": fingerprint(recipe.checkpoint), "text": self.text.fingerprint}

    @cached_property
    def parent(self) -> Decoder:
        return for_arithmetic(self.recipe.checkpoint, self.recipe.learning.dtype)

    @cached_property
    def scores(self) -> Scores:
        recipe = self.recipe
        how = (recipe.calibration_rows, recipe.layer_rows, recipe.layer_metric, recipe.layers_iteratively, recipe.ffn_after_activation)
        made_from = self.origin | {"how": f"{how} {recipe.space.floors} {recipe.learning.dtype} {recipe.seed}"}
        return self.run.keep(
            "scores.safetensors",
            made_from,
            lambda path: self._score(made_from).save(path),
            lambda path: Scores.load(path, made_from),
            title="importance",
            describe=lambda scores: coverage(self.config, scores),
        )

    def enumeration(self) -> Enumeration:
        found = enumerate_candidates(self.config, self.scores, self.budget, self.recipe.space)
        self.run.progress.note(f"  budget: {self.budget.describe()}")
        if (self.budget.workload.weights, self.budget.workload.kv, self.budget.workload.state) != MEASURED:
            self.run.progress.note("  (the comparison at the end measures weights and caches in bf16 and SSM states in fp32)")
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
        return numbers(load(self.recipe.checkpoint, torch.float32))

    def _score(self, made_from: dict[str, str]) -> Scores:
        recipe, progress = self.recipe, self.run.progress.update
        scores = score(
            self.parent,
            self._samples(recipe.calibration_rows),
            ffn_after_activation=recipe.ffn_after_activation,
            made_from=made_from,
            progress=progress,
        )
        samples = self._samples(recipe.layer_rows)
        if recipe.layers_iteratively:
            kinds = Counter(layer.kind for layer in self.config.layers)
            floors = {kind: math.ceil(recipe.space.floors.get(kind, 1.0) * count) for kind, count in kinds.items()}
            layers = iterative_layer_scores(self.parent, samples, recipe.layer_metric, floors=floors, progress=progress)
        else:
            layers = layer_scores(self.parent, samples, recipe.layer_metric, progress=progress)
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
        run.write("search.json", _table(self.config, found, ranked, outcome))
        for folder in run.path("search").glob("*/checkpoints"):  # only now: each result is in the store
            shutil.rmtree(folder)
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
        config = replace(learning.training(self.text.training.row_length, self.recipe.seed), validate_every=None)
        student = self.student(candidate)
        folder = self.run.path(f"search/{candidate.key}")
        loader = Loader(self.text.training, config.batch_rows, config.seed)
        train(student, Distillation(self.parent), loader, config, folder, made_from=self.origin, report=self._step_of(config.steps))
        return validation_loss(student, self.text, self.recipe.learning.batch_rows, 2 * self.recipe.ranking_rows)

    def _step_of(self, steps: int) -> Callable[[StepMetrics], None]:
        line = ProgressLine(steps)
        return lambda metrics: self.run.progress.update(line.text(metrics))


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
