"""A model spread over a mesh of processes: its parts, their values, its gradients.

    mesh [data, tensor]    tensor: every layer divided by `amaru.parallel`, plain tensors and collectives
                           data: each process's part cut into rows once more by FSDP2, which gathers a layer when it runs

FSDP2 sees only the second cut, as DTensors on the data axis; the first is known from the axes. Which rows of the whole tensor
a process keeps in the end follows from both.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from amaru.errors import ConfigError
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.nn.linear import Linear
from amaru.nn.moe import Experts, Router
from amaru.parallel.collectives import Group, sum_in_place
from amaru.parallel.decoder import SlicedStream, WholeStream, skeleton
from amaru.parallel.shares import Kept, Share
from amaru.train.parallel.layout import Layout
from amaru.train.parallel.objective import DividedCrossEntropy

TINY = 1e-6  # beside a norm, as torch's own clipping has it
ENTRANCES = ("hidden_states", "logits")  # the ways into a decoder's own weights beside `forward`


class Spread:
    """`spread = Spread(config, Layout(data=2, tensor=2)); model = spread.model(read)`, in each of 4 processes: their `Placement`.

    With `bf16` the matrices of layers are gathered in bf16 (weights, gradients and their sums stay fp32), so that no copy of them
    outlives their layer.
    """

    def __init__(self, config: DecoderConfig, layout: Layout, *, bf16: bool = False, device: str = "cpu") -> None:
        if Share(config, 0, layout.tensor).copies():
            raise ConfigError(
                f"Tensor parallelism over {layout.tensor} would give processes copies of the same KV heads, whose gradients nobody adds; "
                "train with no more processes for a layer than an attention layer has KV heads."
            )
        mesh = init_device_mesh(device, (layout.data, layout.tensor), mesh_dim_names=("data", "tensor"))
        self.layout, self.bf16, self.device, self._data = layout, bf16, torch.device(device), mesh["data"]
        self.tensor = Group.of(mesh["tensor"].get_group())
        self.everyone = Group.of(dist.group.WORLD)
        self.parts = Share(config, self.tensor.rank, self.tensor.size)
        self.share, self.shares = self._data.get_local_rank(), layout.data
        self.leads = self.everyone.rank == 0

    @property
    def objective(self) -> DividedCrossEntropy:
        return DividedCrossEntropy(self.tensor, self.parts.vocabulary.start)

    def model(self, read: Callable[[str, Kept], Tensor]) -> Decoder:
        """This process's part; `read(name, kept)` gives values, and is asked for no more than is kept."""
        exchange = (SlicedStream if self.layout.sequence else WholeStream)(self.tensor)
        decoder = skeleton(self.parts, exchange)
        if self.layout.data > 1:
            self._shard(decoder)
        decoder.to_empty(device=self.device)
        if decoder.config.tied:
            decoder.tie()
        for name, parameter in decoder.named_parameters():
            local(parameter.data).copy_(read(name, self.kept(name, parameter)))
        return decoder

    def _shard(self, decoder: Decoder) -> None:
        """Rows of every parameter among the processes of the data axis; the biases that balance experts are set by hand, so whole."""
        whole = {module.e_score_correction_bias for module in decoder.modules() if isinstance(module, Router)}
        for layer in cast(nn.ModuleList, decoder.layers):
            if self.bf16 and (matrices := _matrices(layer)):
                self._fully(matrices, MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False), set())
            self._fully(layer, MixedPrecisionPolicy(), whole)
        self._fully(decoder, MixedPrecisionPolicy(), whole)
        for name in ENTRANCES:
            register_fsdp_forward_method(decoder, name)

    def _fully(self, modules: nn.Module | list[nn.Module], policy: MixedPrecisionPolicy, ignored: set[nn.Parameter]) -> None:
        fully_shard(modules, mesh=self._data, mp_policy=policy, ignored_params=ignored)  # type: ignore[call-overload]
        sharded = cast(FSDPModule, modules[0] if isinstance(modules, list) else modules)
        sharded.set_gradient_divide_factor(1.0)  # losses are shares of the mean already
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has no other sums

    def kept(self, name: str, parameter: Tensor) -> Kept:
        """Which indices of each dimension of the whole tensor this process holds, after both cuts."""
        rows, *others = self.parts.kept(name)
        if isinstance(parameter, DTensor):
            shape, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
            held = torch.arange(offset[0], offset[0] + shape[0]).numpy()
            rows = held if rows is None else rows[held]
        return rows, *others

    def total(self, values: Sequence[float]) -> list[float]:
        return self._over(self._data.get_group(), values, dist.ReduceOp.SUM)

    def sum_counts(self, counts: Tensor) -> None:
        dist.all_reduce(counts, group=self._data.get_group())

    def agreed(self, wishes: Sequence[bool]) -> list[bool]:
        return [bool(wish) for wish in self._over(None, [float(wish) for wish in wishes], dist.ReduceOp.MAX)]

    def fingerprint(self, model: nn.Module) -> str:
        return ""

    def clip(self, model: nn.Module, limit: float) -> float:
        """First the terms of what all processes of a tensor group hold are summed: a norm's weight saw a slice of the tokens."""
        squares = 0.0
        gradients = {name: parameter for name, parameter in model.named_parameters() if parameter.grad is not None}
        for name, parameter in gradients.items():
            gradient = local(cast(Tensor, parameter.grad))
            if self.parts.partial(name, self.layout.sequence):
                sum_in_place(gradient, self.tensor)
            if self.parts.divided(name) or self.tensor.rank == 0:
                squares += gradient.double().square().sum().item()
        norm = self._over(None, [squares], dist.ReduceOp.SUM)[0] ** 0.5
        for parameter in gradients.values():
            local(cast(Tensor, parameter.grad)).mul_(min(1.0, limit / (norm + TINY)))
        return norm

    def _over(self, processes: dist.ProcessGroup | None, values: Sequence[float], how: dist.ReduceOp.RedOpType) -> list[float]:
        together = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(together, how, group=processes)
        return together.tolist()


def _matrices(layer: nn.Module) -> list[nn.Module]:
    """What is gathered in bf16, as its products are; vectors, convolutions and routers stay in fp32."""
    return [module for module in layer.modules() if type(module) is Linear or isinstance(module, Experts)]


def local(tensor: Tensor) -> Tensor:
    """The values that are in this process."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
