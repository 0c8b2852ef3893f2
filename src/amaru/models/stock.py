"""A checkpoint as stock transformers runs it: the other side of a parity certificate. transformers is imported only here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amaru.errors import BackendError, CheckpointError
from amaru.models.checkpoint import head_name
from amaru.models.decoder import DecoderConfig
from amaru.models.families import family_of, read_json
from amaru.models.trace import Trace, traced
from amaru.nn.mamba2 import Mamba2

PREFIX = "transformers:"


class StockModel:
    """`StockModel(path).run(sequences, torch.float32)`: each sequence by itself, through transformers' own code.

    Raises `BackendError` when transformers is not installed, `CheckpointError` when it cannot read the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        values = read_json(path / "config.json")
        self._family = family_of(values)
        self.config: DecoderConfig = self._family.read_config(values)
        self.notes: list[str] = []
        self._transformers = _transformers()
        self._check_type(values["model_type"])
        self._weights = self._named(self._load(torch.float32))

    @property
    def title(self) -> str:
        return f"{self.path} in transformers {self._transformers.__version__}"

    @property
    def names(self) -> list[str]:
        return list(self._weights)

    def dtype(self, name: str) -> torch.dtype:
        return self._weights[name].dtype

    def read(self, name: str) -> Tensor:
        return self._weights[name]

    def run(self, sequences: list[Tensor], dtype: torch.dtype, report: Callable[[str], None]) -> Trace:
        """What comes out of each of its layers, under the number of the last of ours that it is made of."""
        report(f"{self.title} in {str(dtype).removeprefix('torch.')}")
        model = self._load(dtype)
        return traced(self._layers(model), [lambda ids=ids: model(ids[None], use_cache=False).logits[0] for ids in sequences])

    def _layers(self, model: Any) -> dict[int, Any]:
        """Its layers by the number of ours that each ends with."""
        step = self._family.LAYERS_PER_BLOCK
        return {step * block + step - 1: layer for block, layer in enumerate(model.base_model.layers)}

    def _check_type(self, model_type: str) -> None:
        """Only what transformers itself implements is another implementation than ours."""
        if model_type not in self._transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES:
            version = self._transformers.__version__
            raise CheckpointError(f"transformers {version} has no model of type {model_type!r}, so {self.path} cannot be compared with it.")

    def _load(self, dtype: torch.dtype) -> Any:
        try:
            model, report = self._transformers.AutoModelForCausalLM.from_pretrained(
                self.path,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,  # or it would unpickle a pytorch_model.bin
                experts_implementation="eager",  # the grouped product fails for widths that are not a multiple of 16 bytes
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"transformers cannot load {self.path}: {' '.join(str(error).split())}") from None
        if unused := sorted(report["missing_keys"]) + sorted(report["unexpected_keys"]):
            self._note(f"transformers reports {len(unused)} tensors of {self.path} as missing or unexpected: {', '.join(unused)}")
        self._set_time_step(model)
        return model.eval()

    def _set_time_step(self, model: Any) -> None:
        """transformers up to 5.23 clamps dt with time_step_min, which is meant for drawing dt_bias (NemotronH inherits it)."""
        for index, layer in self._layers(model).items():
            config = self.config.layers[index]
            if not isinstance(config, Mamba2):
                continue
            theirs, wanted = tuple(layer.mixer.time_step_limit), config.time_step_limit
            if abs(theirs[0] - wanted[0]) > 1e-12 or theirs[1] != wanted[1]:
                layer.mixer.time_step_limit = wanted
                self._note(
                    f"transformers would clamp dt to {theirs}, taken from time_step_min, which only sets where dt_bias is drawn from; "
                    f"for this comparison it was set to the model's time_step_limit {wanted}"
                )

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _named(self, model: Any) -> dict[str, Tensor]:
        """Its weights under our names: by way of the names that it would save, experts in one tensor again."""
        revert = self._transformers.core_model_loading.revert_weight_conversion
        found = {self._family.canonical(name): tensor for name, tensor in revert(model, model.state_dict()).items()}
        named: dict[str, Any] = {}
        for stored in self._family.stored(self.config):
            tensor = found.pop(stored.name, None)
            if tensor is not None and stored.index is not None:
                named.setdefault(stored.ours, []).append(tensor)
            elif tensor is not None:
                named[stored.ours] = tensor
        head = head_name(self._family, self.config) if self.config.tied else None
        named |= {name: tensor for name, tensor in found.items() if name != head}
        return {name: torch.stack(tensor) if isinstance(tensor, list) else tensor for name, tensor in named.items()}


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise BackendError("Comparing with transformers needs that package; install it with: pip install transformers") from None
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()  # what matters of its report is in the certificate
    return transformers
