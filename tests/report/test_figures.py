"""Figures: the marks that the data asks for, colours that follow the page, ids of their own, the same bytes every time."""

import random
import re
import xml.etree.ElementTree as ElementTree

import pytest

from amaru.report.figures import Candidate, against, frontier, layer_importance, loss_curves, pareto, stack

SVG = "{http://www.w3.org/2000/svg}"
KINDS = ("mamba2", "mlp", "attention")


def curves(names=("parent", "student"), points=300):
    generator = random.Random(7)
    return {name: [(step, 4.0 - step / points + generator.gauss(0, 0.1)) for step in range(points)] for name in names}


def candidates(count):
    generator = random.Random(3)
    ranked = [(generator.uniform(1, 2) * 2**20, generator.uniform(2, 4), f"c{index}", "ranked") for index in range(count)]
    return [*ranked, (1.1 * 2**20, 1.9, "small", "distilled"), (1.5 * 2**20, 1.5, "12 layers", "winner")]


def drawings():
    layers = [(KINDS[index % 3], 8 + index, f"layer number {index}") for index in range(7)]
    return {
        "loss_curves": loss_curves(curves(), "step", "loss"),
        "layer_importance": layer_importance([(index, KINDS[index % 3], index / 7) for index in range(7)]),
        "frontier": frontier(candidates(40), budget_bytes=1.6 * 2**20),
        "stack": stack(layers, [None if index in (2, 5) else layer for index, layer in enumerate(layers)]),
    }


@pytest.fixture(scope="module")
def drawn():
    return drawings()


def tooltips(svg):
    return [title.text for group in ElementTree.fromstring(svg).iter(f"{SVG}g") if (title := group.find(f"{SVG}title")) is not None]


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_same_data_gives_the_same_bytes(drawn):
    assert drawings() == drawn


def test_nothing_is_loaded_and_nothing_but_the_palette_is_used(drawn):
    for svg in drawn.values():
        assert "<style" not in svg and "<metadata" not in svg and "DejaVu" not in svg
        assert re.findall(r'(?:href|src)="(?!#)', svg) == []
        outside = re.sub(r"var\(--[\w-]+, #[0-9a-f]{6}\)", "", svg)
        assert re.findall(r"(?:fill|stroke): #", outside) == []


def test_ids_are_unique_on_a_page_and_every_reference_resolves(drawn):
    page = "".join(drawn.values())
    ids = re.findall(r' id="([^"]+)"', page)
    references = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page))
    assert len(ids) == len(set(ids))
    assert {first or second for first, second in references} == set(ids)


def test_a_line_per_curve(drawn):
    assert len(tooltips(drawn["loss_curves"])) == 2
    assert {"parent", "student", "step", "loss"} <= {*texts(drawn["loss_curves"])}


def test_more_curves_than_colours_are_told_apart_by_dashes():
    svg = loss_curves(curves([f"run {index}" for index in range(8)], points=5), "step", "loss")
    assert len(tooltips(svg)) == 8 and svg.count("stroke-dasharray") >= 2


def test_a_bar_per_layer_in_the_colour_of_its_kind(drawn):
    svg = drawn["layer_importance"]
    assert tooltips(svg)[:2] == ["layer 0, Mamba-2: 0", "layer 1, MLP: 0.1429"] and len(tooltips(svg)) == 7
    legend = 1
    assert [svg.count(f"fill: var(--{kind},") for kind in KINDS] == [3 + legend, 2 + legend, 2 + legend]


def test_a_point_per_candidate_and_the_winner_by_name(drawn):
    svg = drawn["frontier"]
    legend = 1
    assert [len(re.findall(rf"<use [^>]*fill: var\(--{name},", svg)) for name in ("mlp", "series-1", "series-2")] == [
        40 + legend,
        1 + legend,
        1 + legend,
    ]
    assert {"12 layers", "budget 1.6 MiB", "memory, MiB"} <= {*texts(svg)}


def test_candidates_against_a_time_and_its_limit():
    svg = against([Candidate(*each) for each in candidates(5)], "milliseconds of a step", "loss", (1.2 * 2**20, "budget 3.0 ms"))
    assert {"milliseconds of a step", "budget 3.0 ms", "12 layers"} <= {*texts(svg)}


def test_layers_that_cannot_go_alone_and_every_kind_have_a_bar():
    svg = layer_importance([(0, "hybrid_head", float("inf")), (1, "moe", 0.5), (2, "hybrid_head", 0.25)])
    assert tooltips(svg) == ["layer 0, hybrid head: cannot go alone", "layer 1, experts: 0.5", "layer 2, hybrid head: 0.25"]


def test_pareto_against_the_definition():
    generator = random.Random(5)
    points = [(generator.randrange(30), generator.randrange(30)) for _ in range(80)]
    undominated = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    assert pareto(points) == sorted(undominated)


def test_dropped_layers_are_gaps(drawn):
    marks = tooltips(drawn["stack"])
    assert len(marks) == 14
    assert [mark for mark in marks if "dropped" in mark] == ["layer 2: dropped", "layer 5: dropped"]
    assert {"7 layers", "5 layers"} <= {line for text in texts(drawn["stack"]) for line in (text or "").splitlines()}


def test_sizes_stay_small(drawn):
    assert all(len(svg) < 40_000 for svg in drawn.values())
    assert len(frontier(candidates(1500))) < 250_000
    assert len(loss_curves(curves(points=20_000), "step", "loss")) < 400_000


def test_hostile_names_stay_text():
    svg = loss_curves({"<script>&": [(1, 2.0), (2, 1.0)]}, "<b>", "loss")
    assert "<script" not in svg and "<b>" not in svg
    assert "<script>&" in texts(svg)
