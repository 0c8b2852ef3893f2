"""MiniPuzzle's published search, from its config alone: what the paper's candidates cost, and that they are among ours."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from amaru.cli.main import main
from amaru.compress.shapes import Shapes, shapes
from amaru.config import from_dict
from amaru.models import cost
from amaru.models.families import presets
from amaru.nn import MLP
from amaru.recipes.compression import CompressRecipe, budget_of
from amaru.recipes.published import COMPRESS, names

GIB = 2**30
PUBLISHED = {  # attention, Mamba-2, FFN layers; FFN width; GiB as figure 10 has them (the 47B's is not in it)
    "C1": (4, 46, 48, 32768, 31.56),
    "C2": (5, 44, 49, 30720, 31.52),
    "C3": (4, 46, 48, 32768, 31.56),
    "47B": (5, 45, 48, 30720, None),
}


@pytest.fixture(scope="module")
def recipe() -> CompressRecipe:
    return from_dict(CompressRecipe, yaml.safe_load((COMPRESS / "minipuzzle-56b.yaml").read_text())["recipe"])


@pytest.fixture(scope="module")
def found(recipe: CompressRecipe) -> Shapes:
    config = presets()[recipe.checkpoint]
    return shapes(config, budget_of(recipe, config), recipe.space)


def number_of(found: Shapes, attention: int, mamba: int, mlp: int, ffn: int) -> int:
    """The place of a shape in the enumeration."""
    wanted = {"attention": attention, "mamba2": mamba, "mlp": mlp}
    counts = np.flatnonzero((found.counts == [wanted[kind] for kind in found.kinds]).all(axis=1))
    widths = [place for place, (hidden, layers) in enumerate(found.widths) if hidden == 8192 and layers["mlp"].ffn == ffn]
    assert len(counts) == len(widths) == 1
    return widths[0] * len(found.counts) + int(counts[0])


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_candidates_are_in_the_space_and_fit(found: Shapes, recipe: CompressRecipe, name: str) -> None:
    attention, mamba, mlp, ffn, gibibytes = PUBLISHED[name]
    number = number_of(found, attention, mamba, mlp, ffn)
    shape = found.shape(number)
    assert (shape.counts["attention"], shape.counts["mamba2"], shape.counts["mlp"], shape.layers["mlp"].ffn) == (attention, mamba, mlp, ffn)
    assert found.used[number] <= 1
    parent = presets()["nemotron-h-56b"]
    kept = [layer for kind in found.kinds for layer in [shape.layers[kind]] * shape.counts[kind]]
    built = replace(parent, layers=tuple(kept))
    assert found.cost.parameters[number] == cost.parameters(built)
    assert found.cost.memory[number] == pytest.approx(cost.memory(built, recipe.workload).total, abs=100)
    if gibibytes:
        # KV of 4 bits without scales and 1.52 GiB for all else would meet figure 10 to 0.01; every format here counts its scales.
        assert found.cost.memory[number] / GIB + 0.97 == pytest.approx(gibibytes, abs=0.07)


def test_the_count_by_plain_loops(found: Shapes, recipe: CompressRecipe) -> None:
    """Every count of each type times nine widths, each summed from the published layers one by one."""
    parent = presets()["nemotron-h-56b"]
    alone = replace(parent, layers=())
    kinds = {layer.kind: layer for layer in parent.layers}

    def size(layers: tuple) -> int:
        return cost.memory(replace(alone, layers=layers), recipe.workload).total - cost.memory(alone, recipe.workload).total

    fixed = cost.memory(alone, recipe.workload).total
    fits = 0
    for ffn in range(24576, 32769, 1024):
        mamba, attention, mlp = (size((kinds["mamba2"],)), size((kinds["attention"],)), size((MLP(ffn=ffn),)))
        for count in range(1, 11):
            for mambas in range(27, 55):
                left = (31.7 - 0.97) * GIB - fixed - count * attention - mambas * mamba
                fits += max(0, min(54, int(left // mlp)) - 26)
    assert len(found.used) == 10 * 28 * 28 * 9
    assert len(found.fitting()) == pytest.approx(fits, abs=3)


def test_one_command_tells_its_own_count_beside_the_papers(capsys: pytest.CaptureFixture[str]) -> None:
    assert names(COMPRESS) == ["minipuzzle-56b"]
    assert main(["compress", "nemotron-h-56b", "--recipe", "minipuzzle-56b", "--shapes", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["shapes"] == 70_560 and 0 < told["using"]["99%"] < told["fitting"] < told["shapes"]
    assert told["paper"].startswith("about 400 candidates")
    assert "31.7 GiB less 993.3 MiB in reserve at context 1000000 and batch 1 (weights nvfp4, KV int4, SSM state fp32)" in told["budget"]


def test_bounds_of_a_named_device_can_be_the_budget(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compress", "nemotron-h-8b", "--decode-latency", "60%", "--target", "h100", "--set", "space.depth_steps=2", "--shapes"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "lower bounds at the published peaks of H100-80GB" in told["times"] and told["fitting"] > 0
    assert main([*words[:-1], "--shapes", "--set", "method=puzzle"]) == 2
    assert "blocks of puzzle are put together by their scores" in capsys.readouterr().err
