"""Tied-LoRA in stock `peft`: importing this module registers it there as a method like any other.

    import amaru.adapters.peft
    model = peft.get_peft_model(model, amaru.adapters.peft.TiedLoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj"]))
    model.save_pretrained("out")                             # A and B once, whatever the number of layers
    peft.PeftModel.from_pretrained(model, "out")             # wherever this module was imported

The factors belong to the tuner and are registered there once; layers of the model only point to them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from amaru.adapters.low_rank import LowRank
from amaru.adapters.method import Adapter
from amaru.adapters.targets import Site
from amaru.adapters.tied_lora import TiedLoRA
from amaru.errors import BackendError, ConfigError

try:
    from peft import PeftConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners.lora import LoraModel
    from peft.tuners.lora import layer as lora_layer
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
except ImportError as error:
    raise BackendError(f"This needs peft 0.21; install it with: pip install 'peft>=0.21' ({error}).") from None

NAME, PREFIX = "TIEDLORA", "tied_lora_"
HELD = f"{PREFIX}adapters"  # the tuner's attribute with all factors, by the name of the adapter


@dataclass
class TiedLoraConfig(PeftConfig):
    """`TiedLoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj"])`: TL6 of the paper.

    tied, trained, start, fuse, init, std, damped, seed as in `amaru.adapters.TiedLoRA`; the other fields as in `LoraConfig`.
    Raises `ConfigError` as that does.
    """

    r: int = 8
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    tied: list[str] = field(default_factory=lambda: ["A", "B"])
    trained: list[str] = field(default_factory=lambda: ["A", "B", "u", "v"])
    start: str | None = None
    fuse: bool = True
    init: str = "kaiming"
    std: float = 0.02
    damped: bool = False
    dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = NAME  # type: ignore[assignment]
        for name in ("target_modules", "exclude_modules"):
            if isinstance(value := getattr(self, name), list | tuple):
                setattr(self, name, set(value))
        self.method()

    def method(self) -> TiedLoRA:
        names = ("start", "fuse", "init", "std", "damped", "dropout", "seed")
        said: dict[str, Any] = {name: getattr(self, name) for name in names}
        return TiedLoRA(rank=self.r, tied=tuple(self.tied), trained=tuple(self.trained), **said)  # type: ignore[arg-type]


class TiedLoraLayer(nn.Module, BaseTunerLayer):
    """A linear layer with its part of each adapter: `changes` by adapter, a block and the rows of it that are this layer's."""

    adapter_layer_names = ()
    other_param_names = ("changes",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.changes: dict[str, tuple[LowRank, slice]] = {}
        self.merged_adapters: list[str] = []
        self._before: Tensor | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        y = self.base_layer(x, *args, **kwargs)
        for change, rows in self._added():
            y = y + change(x, rows).to(y.dtype)
        return y

    @property
    def base(self) -> nn.Linear:
        return self.get_base_layer()  # type: ignore[return-value]

    @property
    def weight(self) -> Tensor:
        """What this layer computes with: a fused kernel of Mamba reads the weight of its out_proj and never calls the layer."""
        weight = self.base.weight
        return sum((change.matrix(rows, weight.dtype) for change, rows in self._added()), weight)

    def get_delta_weight(self, adapter: str) -> Tensor:
        change, rows = self.changes[adapter]
        return change.matrix(rows, torch.float32)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Make adapters part of the weight; `unmerge` gives the weight back that was there, to the bit."""
        wanted = [name for name in adapter_names or self.active_adapters if name in self.changes and name not in self.merged_adapters]
        exact = sum((self.get_delta_weight(name).double() for name in wanted), self.base.weight.double())
        if safe_merge and not torch.isfinite(exact).all():
            raise ValueError(f"The weights of {', '.join(wanted)} are not finite, so they are not merged.")
        if wanted:
            self._before = self.base.weight.data if self._before is None else self._before
            self.base.weight.data = exact.to(self.base.weight.dtype)
            self.merged_adapters += wanted

    def unmerge(self) -> None:
        if self._before is not None:
            self.base.weight.data, self._before = self._before, None
            self.merged_adapters.clear()

    def _get_available_adapters(self) -> set[str]:
        return set(self.changes)

    def _added(self) -> Iterable[tuple[LowRank, slice]]:
        if self.disable_adapters or self.merged:
            return ()
        return [self.changes[name] for name in self.active_adapters if name in self.changes]


class TiedLoraModel(BaseTuner):
    """The tuner: peft makes one of a model and a `TiedLoraConfig`."""

    prefix = PREFIX
    tuner_layer_cls = TiedLoraLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    uses_shared_state = True

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, low_cpu_mem_usage: bool = False, **kwargs: Any) -> None:
        """Wrap the layers that are meant, then make the blocks that they form: q, k and v of a layer are only known together."""
        if HELD not in self._modules:
            self.add_module(HELD, nn.ModuleDict())
            self._reached: dict[str, TiedLoraLayer] = {}
        self._reached.clear()
        super().inject_adapter(model, adapter_name, *args, low_cpu_mem_usage=low_cpu_mem_usage, **kwargs)
        config: TiedLoraConfig = self.peft_config[adapter_name]  # type: ignore[assignment]
        layers = {_site(path, layer): layer for path, layer in self._reached.items()}
        method = config.method()
        with torch.device("meta" if low_cpu_mem_usage else next(iter(layers.values())).base.weight.device):
            adapter = Adapter(method, method.bundled(layers))
        for block in adapter.blocks.values():
            for site, rows in block.parts():
                layers[site].changes[adapter_name] = adapter.change(block.name), rows
        self._held()[adapter_name] = adapter
        adapter.train_factors(adapter_name in self.active_adapters and not config.inference_mode)

    def _create_and_replace(
        self, peft_config: PeftConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module, current_key: str,
        parameter_name: str | None = None,
    ) -> None:  # fmt: skip
        if isinstance(target, TiedLoraLayer):
            layer = target
        elif isinstance(target, nn.Linear):
            layer = TiedLoraLayer(target)
            layer.set_adapter(self.active_adapters)
            self._replace_module(parent, target_name, layer, target)
        else:
            raise ConfigError(f"{current_key} is a {type(target).__name__}; Tied-LoRA goes onto plain linear layers.")
        self._reached[current_key] = layer

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_name, inference_mode)
        for name, adapter in self._held().items():
            adapter.train_factors(name in self.active_adapters and not inference_mode)  # type: ignore[operator]

    def set_requires_grad(self, adapter_names: str | Iterable[str], requires_grad: bool = True) -> None:
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            self._held()[name].train_factors(requires_grad)  # type: ignore[operator]

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        del self._held()[adapter_name]
        for name, adapter in self._held().items():
            adapter.train_factors(name in self.active_adapters)  # type: ignore[operator]

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return re.sub(rf"(^|\.){HELD}\.{re.escape(adapter_name)}\.", rf"\1{HELD}.", key, count=1)

    def _held(self) -> nn.ModuleDict:
        return self._modules[HELD]  # type: ignore[return-value]


def allow_out_proj() -> None:
    """Let peft's own LoRA reach `out_proj` of Nemotron-H, also where an adapter made here is loaded.

    peft refuses it because a fused kernel of training reads the weight of that layer and never calls the layer, so an adapter on it would
    silently do nothing. From now on the weight of a LoRA layer is what the layer computes with, base and adapters, with gradients.
    """
    refuse = LoraModel._check_target_module_compatiblity

    def check(self: LoraModel, config: PeftConfig, model: nn.Module, target_name: str) -> None:
        if target_name != "out_proj":
            refuse(self, config, model, target_name)

    LoraModel._check_target_module_compatiblity = check  # type: ignore[method-assign]
    lora_layer.Linear.weight = property(_computed_with)  # type: ignore[assignment,method-assign]


def _computed_with(layer: Any) -> Tensor:
    base = layer.get_base_layer().weight
    if layer.disable_adapters or layer.merged:
        return base
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if any(layer.use_dora.get(name) for name in active):
        raise ConfigError("DoRA on a layer whose weight a fused kernel reads is not computed; leave out_proj out, or use_dora off.")
    return base + sum(layer.get_delta_weight(name) for name in active) if active else base


def _site(path: str, layer: TiedLoraLayer) -> Site:
    """A linear layer of a stock model in our words: layers are the numbers in names, roles what follows them."""
    rows, cols = layer.base.weight.shape
    if (found := re.match(r"(.*?)\.?(\d+)\.(?:mixer\.)?(.+)", path)) is None:
        return Site(path, None, 0, rows, cols, "", None)
    stack, number, role = found.groups()
    return Site(f"{stack}.{number}.mixer.{role}", None, 0, rows, cols, stack, int(number))


# The enum of types cannot be extended, and a text serves as well: peft looks it up in these three and nowhere else.
PEFT_TYPE_TO_CONFIG_MAPPING[NAME] = TiedLoraConfig  # type: ignore[index]
PEFT_TYPE_TO_TUNER_MAPPING[NAME] = TiedLoraModel  # type: ignore[index]
PEFT_TYPE_TO_PREFIX_MAPPING[NAME] = PREFIX  # type: ignore[index]
