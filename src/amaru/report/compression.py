"""The report of a compression: what matters, which shapes were tried, what came out, and what it cost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amaru.compress.plan import Plan
from amaru.compress.scores import Scores
from amaru.config import from_dict
from amaru.config.records import read_record
from amaru.models.decoder import DecoderConfig
from amaru.models.pattern import pattern_of
from amaru.nn.layer import elements
from amaru.report.compression_cost import commands_section, proof_and_cost
from amaru.report.figures import Candidate, Layer, against, frontier, layer_importance, stack
from amaru.report.numbers import count, decimals, duration, percent, size
from amaru.report.page import Card, Cards, Cell, Drawing, Page, Prose, Section, Table
from amaru.report.training import metrics, provenance, validation_curves

SHOWN = 12  # candidates in the table; the figure has all of them


def compression_page(directory: Path) -> Page:
    """The page of `amaru compress`."""
    facts, rows = read_record(directory / "run.json"), read_record(directory / "comparison.json")
    return Page(
        title="amaru compress",
        subtitle=f"{facts['recipe']['checkpoint']}, {facts['started']}",
        sections=[
            Section("In short", [Cards(cards(rows)), comparison_table(rows)]),
            *compression_sections(directory),
            Section(
                "Learning",
                [
                    validation_curves(
                        {"student": metrics(directory / "student-training")}, "Forward KL from the parent; validation loss in nats."
                    )
                ],
            ),
            *proof_and_cost(directory),
            commands_section(directory),
            provenance(facts, read_record(directory / "steps.json")),
        ],
        footer=f"amaru {facts['amaru']}",
    )


def compression_sections(directory: Path) -> list[Section]:
    """Importance, candidates and stacks, from the artifacts of the run."""
    search, plan = read_record(directory / "search.json"), Plan.load(directory / "plan.safetensors")
    parent = from_dict(DecoderConfig, search["parent"])
    scores = Scores.load(directory / "scores.safetensors")
    assert plan.budget is not None, "a search chooses for a budget"
    return [
        Section("What matters", [_importance(parent, scores)]),
        Section(
            "Shapes that fit the budget",
            [_frontier(search, plan), *_speeds(search, plan), _finalists(search), *_prediction(directory)],
        ),
        Section(
            "Parent and student",
            [_stack(parent, plan), _widths(plan), Prose(f"Budget: {plan.budget.describe()}. Student: {plan.candidate.describe()}.")],
        ),
    ]


def cards(rows: Mapping[str, Mapping[str, Any]]) -> list[Card]:
    """Parent against student in four numbers."""
    parent, student = rows["parent"], rows["student"]
    return [
        Card("validation loss", f"{student['loss']:.3f}", f"parent {parent['loss']:.3f}"),
        Card(
            "parameters",
            count(student["parameters"]),
            f"{student['parameters'] / parent['parameters']:.0%} of {count(parent['parameters'])}",
        ),
        Card("memory at the context", size(student["memory"]), f"{student['memory'] / parent['memory']:.0%} of {size(parent['memory'])}"),
        Card("decode speed", f"{student['decode'] / parent['decode']:.2f}x", f"prefill {student['prefill'] / parent['prefill']:.2f}x"),
    ]


def comparison_table(rows: Mapping[str, Mapping[str, Any]], marked: str = "student", caption: str = "") -> Table:
    """One row a model; losses in nats per token, speeds in tokens per second."""
    headers = ["model", "loss", "accuracy", "KL to parent", "parameters", "memory", "prefill tok/s", "decode tok/s"]
    fields = ["loss", "accuracy", "teacher_kl", "parameters", "memory", "prefill", "decode"]
    table = [[name, *(row.get(field) for field in fields)] for name, row in rows.items()]
    formats = {
        "loss": decimals(3),
        "accuracy": percent,
        "KL to parent": decimals(3),
        "parameters": count,
        "memory": size,
        "prefill tok/s": lambda value: f"{value:,.0f}",
        "decode tok/s": lambda value: f"{value:,.0f}",
    }
    return Table(headers, table, formats=formats, marked=list(rows).index(marked), caption=caption)


MEANT = {"mse": "squared change of the tensor before the head", "kl": "KL of the next-token distribution"}  # by metric of a removal


def _importance(parent: DecoderConfig, scores: Scores) -> Drawing:
    assert scores.layers is not None
    bars = [(index, layer.kind, float(score)) for index, (layer, score) in enumerate(zip(parent.layers, scores.layers, strict=True))]
    metric, _, iteratively = (scores.layers_by or "mse").partition(", ")
    what = MEANT[metric]
    if iteratively:
        caption = f"Layers are removed one after the other, always the one whose removal changes least (mean {what}); the bar is its turn."
        return Drawing(layer_importance(bars, y_label="turn"), caption)
    return Drawing(layer_importance(bars, y_label=what.split(" of ")[0]), f"Each layer is removed alone; the bar is the mean {what}.")


def _frontier(search: Mapping[str, Any], plan: Plan) -> Drawing:
    points = _points(search, "memory")
    caption = (
        f"{search['described']}. The loss is that of models as they are cut, before any training; the judge is a short distillation, so "
        "the winner need not be the lowest point."
    )
    return Drawing(frontier(points, budget_bytes=plan.budget.usable if plan.budget else None, y_label="loss as cut, nats"), caption)


def _points(search: Mapping[str, Any], name: str, scale: float = 1.0) -> list[Candidate]:
    """Every candidate at one of its figures."""
    points = []
    for row in search["candidates"]:
        state = "winner" if row["winner"] else "distilled" if row["loss_after"] is not None else "ranked"
        points.append(Candidate(scale * row[name], row["loss"], row["shape"].split(",")[0] if row["winner"] else row["shape"], state))
    return points


SPEEDS = {"prefill": "milliseconds for the prompt", "decode": "milliseconds of a step"}  # where the budget asks for a time


def _speeds(search: Mapping[str, Any], plan: Plan) -> list[Drawing]:
    """The same candidates by how fast they are: predicted times, or where none were asked for FLOPs."""
    rows, drawings = search["candidates"], []
    for name, label in SPEEDS.items():
        if all(row[name] is not None for row in rows):
            limit = plan.budget and getattr(plan.budget, name)
            budget = (1e3 * limit, f"budget {duration(limit)}") if limit else None
            caption = f"Predicted {label}, against the same loss."
            drawings.append(Drawing(against(_points(search, name, 1e3), label, "loss as cut, nats", budget), caption))
    if not drawings and all("flops" in row for row in rows):
        caption = "The work of a prompt's token against the same loss; the budget asks for no time, so none was taken of candidates."
        drawings.append(Drawing(against(_points(search, "flops", 1e-6), "MFLOP a token of a prompt", "loss as cut, nats"), caption))
    return drawings


def _prediction(directory: Path) -> list[Table]:
    """The winner's predicted times beside measured ones, where times were asked for."""
    path = directory / "prediction.json"
    if not path.exists():
        return []
    found = read_record(path)
    rows: list[list[Cell]] = [[name, *(found[name][part] for part in ("predicted", "measured", "off"))] for name in SPEEDS]
    formats = {"predicted": duration, "measured": duration, "off": lambda share: f"{share:+.0%}"}
    caption = f"The winner's times: {found['times']}."
    return [Table(["time of", "predicted", "measured", "off"], rows, formats=formats, caption=caption)]


def _widths(plan: Plan) -> Table:
    """Every axis of parent and student, and in which layers."""
    rows: list[list[Cell]] = []
    for axis, per, kind, before, after, layers in plan.narrowings():
        name = f"{axis} for each {' and '.join(per)}" if per else axis
        rows.append([name, f"{len(layers)} {kind}" if kind else "the network", before, after, after / before])
    return Table(["width", "layers", "parent", "student", "stays"], rows, formats={"stays": lambda share: f"{share:.0%}"})


def _finalists(search: Mapping[str, Any]) -> Table:
    rows = sorted(search["candidates"], key=lambda row: (row["rank_after"] or 1e9, row["loss"]))[:SHOWN]
    headers = ["shape", "parameters", "memory", "loss as cut", "KL to parent", "rank", "after short distillation", "rank after"]
    fields = ["shape", "parameters", "memory", "loss", "teacher_kl", "rank_before", "loss_after", "rank_after"]
    timed = [name for name in ("prefill", "decode") if all(row[name] is not None for row in rows)]
    headers[3:3], fields[3:3] = timed, timed
    formats = {
        **dict.fromkeys(timed, duration),
        "parameters": count,
        "memory": size,
        "loss as cut": decimals(3),
        "KL to parent": decimals(3),
        "after short distillation": decimals(3),
    }
    tau = search["kendall_tau"]
    caption = f"Kendall tau of the two rankings: {tau:.2f}." if tau is not None else ""
    winner = next(index for index, row in enumerate(rows) if row["winner"])
    return Table(headers, [[row[field] for field in fields] for row in rows], formats=formats, marked=winner, caption=caption)


def _stack(parent: DecoderConfig, plan: Plan) -> Drawing:
    student = plan.candidate.config
    kept = dict(zip(plan.candidate.layers, range(len(student.layers)), strict=True))
    before = [_layer(parent, index) for index in range(len(parent.layers))]
    after = [_layer(student, kept[index]) if index in kept else None for index in range(len(parent.layers))]
    shapes = [f"{pattern_of(model.layers)} with hidden {model.hidden}" for model in (parent, student)]
    caption = f"{shapes[0]} became {shapes[1]}; heights are parameters."
    return Drawing(stack(before, after), caption)


def _layer(config: DecoderConfig, index: int) -> Layer:
    layer = config.layers[index]
    parameters = elements(config.layer_tensors(index), config.layer_axes(index))
    return Layer(layer.kind, parameters, f"{layer.describe()}, {count(parameters)} parameters")
