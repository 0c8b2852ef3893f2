"""A device is one that is here, or a sentence."""

from pathlib import Path

import pytest
import torch

from amaru.errors import ConfigError
from amaru.recipes.compression import CompressRecipe
from amaru.recipes.device import device_named
from amaru.recipes.search import require_a_cpu
from amaru.recipes.several import Silence, run_together
from amaru.recipes.text import TextRecipe
from amaru.recipes.train import TrainRecipe
from amaru.train.parallel.layout import Layout


@pytest.mark.parametrize("name", ["nonsense", "cuda:77", "meta"])
def test_a_device_that_is_not_here_is_told(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"The device '{name}' cannot be used \(.+\); `amaru env` says"):
        device_named(name)
    assert device_named("cpu") == torch.device("cpu")


def test_several_processes_are_refused_another_device(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave --device cuda out"):
        run_together(tmp_path / "run", "train", TrainRecipe(text=TextRecipe(data=("a.txt",))), Silence(), Layout(data=2), "cuda")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"parameters": "50%", "method": "puzzle"}, "puzzle are taught on a cpu; leave --device cuda out"),
        ({"decode": "80%"}, "Times are measured on a cpu; leave --device cuda out, or give --target"),
    ],
)
def test_what_a_search_does_on_a_cpu_is_refused_elsewhere(asked: dict[str, str], told: str) -> None:
    text = TextRecipe(data=("a.txt",))
    recipe = CompressRecipe(checkpoint="parent", text=text, **asked)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=told):
        require_a_cpu(recipe, torch.device("cuda"))
    require_a_cpu(recipe, torch.device("cpu"))
    require_a_cpu(CompressRecipe(checkpoint="parent", text=text, decode="80%", target="h100"), torch.device("cuda"))
