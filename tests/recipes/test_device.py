"""A device is one that is here, or a sentence."""

from pathlib import Path

import pytest
import torch

from amaru.errors import ConfigError
from amaru.recipes.device import device_named
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
