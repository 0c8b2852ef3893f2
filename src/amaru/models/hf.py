"""`import amaru.models.hf` teaches transformers the model types it lacks: "hymba", and "amaru" (any tuple of layers).

    import amaru.models.hf
    model = transformers.AutoModelForCausalLM.from_pretrained("student")      # batched, left-padded, cached, beams
    model.generate(**tokenizer(["One", "Two words"], padding=True, padding_side="left", return_tensors="pt"))

No remote code: the classes are these, and weights come through amaru's own reader. transformers is needed for this module only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from amaru.errors import BackendError, CheckpointError, ConfigError
from amaru.models.checkpoint import load, save
from amaru.models.decoder import Decoder
from amaru.models.families import FAMILIES, hymba, own
from amaru.nn.batch import Batch

try:
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutputWithPast
except ImportError:
    raise BackendError("amaru.models.hf registers models with transformers, which is not installed: pip install transformers") from None

IGNORED = -100  # the label of a token without a loss, as everywhere in transformers

# What collators of packed documents hand to `forward` beside the ids.
PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "cu_seqlens", "seq_idx")

# What `from_pretrained` of transformers passes on and what means nothing here; anything else that is set is refused.
UNUSED = {"attn_implementation", "low_cpu_mem_usage", "use_safetensors", "adapter_kwargs", "_commit_hash", "_from_auto"}
HUB = {"cache_dir", "force_download", "local_files_only", "proxies", "revision", "token", "subfolder", "code_revision"}


class AmaruConfig(PreTrainedConfig):
    """`config.json` of model_type "amaru"; its layers are the field `stack`."""

    model_type = "amaru"


class HymbaConfig(PreTrainedConfig):
    """`config.json` of model_type "hymba" in its released form."""

    model_type = "hymba"


class Cache:
    """What `generate` hands from step to step: the decoder's state, a slot for each row, and how many tokens each has seen."""

    is_compileable = False

    def __init__(self, decoder: Decoder, rows: int, capacity: int) -> None:
        self._decoder = decoder
        self.lengths = [0] * rows
        self.columns = 0
        self.capacity = capacity
        self.state = decoder.new_state(rows, capacity)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of the padded batch that were seen."""
        return self.columns

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row `beam_idx[i]` was."""
        self.lengths = [self.lengths[row] for row in beam_idx.tolist()]
        self.state.reorder(beam_idx)

    def reserve(self, tokens: int) -> None:
        """Make room for sequences of `tokens` tokens."""
        if tokens <= self.capacity:
            return
        grown = self._decoder.new_state(len(self.lengths), 2 * tokens)
        grown.take_over(self.state)
        self.state, self.capacity = grown, 2 * tokens


class AmaruForCausalLM(PreTrainedModel, GenerationMixin):
    """`AutoModelForCausalLM.from_pretrained(directory)`; forward, generate, labels and save_pretrained as transformers has them."""

    config_class = AmaruConfig
    base_model_prefix = "decoder"
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, config: PreTrainedConfig, decoder: Decoder | None = None) -> None:
        super().__init__(config)
        if decoder is None:
            values = config.to_dict()
            decoder = Decoder(FAMILIES[config.model_type].read_config(values)).initialise(0)
        self.decoder = decoder

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, config: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Load with amaru's reader. `dtype` is a torch dtype or "auto"; `device_map` at most the name of one device."""
        dtype, device, info = (kwargs.pop(name, None) for name in ("dtype", "device_map", "output_loading_info"))
        dtype = kwargs.pop("torch_dtype", None) if dtype is None else dtype
        hub = {name: kwargs.pop(name) for name in HUB & kwargs.keys()}
        if meant := sorted(name for name, value in kwargs.items() if name not in UNUSED and value not in (None, False)):
            raise ConfigError(f"amaru's models do not take {', '.join(meant)} in from_pretrained; they take dtype, device_map and config.")
        path = _local(pretrained_model_name_or_path, hub)
        decoder = load(path, None if dtype in (None, "auto") else getattr(torch, dtype) if isinstance(dtype, str) else dtype)
        model = cls(config or AutoConfig.from_pretrained(path), decoder)
        if (path / "generation_config.json").exists():
            model.generation_config = GenerationConfig.from_pretrained(path)
        model.eval().to(_device(device))  # type: ignore[arg-type]
        return (model, {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}) if info else model

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """amaru's writer: the same files that `amaru` verbs write, with the generation config beside them."""
        save(self.decoder, save_directory)
        self.generation_config.save_pretrained(str(save_directory))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """input_ids [B, L]; attention_mask [B, seen + L], 0 at padding on either side, which is left out, not masked.

        Places follow from the mask. logits [B, L or logits_to_keep, vocab] are 0 at padding.

        Raises `ConfigError` for several documents packed into a row (places that begin anew, boundaries, a mask of blocks): here a
        row is one sequence, so each would see those before it. `amaru train` and `amaru sft` pack, and keep boundaries.
        """
        _require_one_document_a_row(attention_mask, position_ids, kwargs)
        if input_ids is None or any(kwargs.get(name) for name in ("inputs_embeds", "output_hidden_states", "output_attentions")):
            raise ConfigError("amaru's models in transformers take input_ids and return logits; they give no hidden states or attentions.")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]
        if use_cache and past_key_values is None:
            past_key_values = Cache(self.decoder, len(input_ids), 2 * input_ids.shape[1])
        hidden = self._hidden(input_ids, mask.bool(), past_key_values)
        kept = hidden[:, -logits_to_keep:] if logits_to_keep else hidden
        logits = self.decoder.logits(kept) * (mask[:, -kept.shape[1] :, None] != 0)
        loss = None if labels is None else _loss(logits, labels[:, -kept.shape[1] :])
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)  # type: ignore[arg-type]

    def _hidden(self, ids: Tensor, mask: Tensor, cache: Cache | None) -> Tensor:
        """[B, L, hidden], zero at padding; a row without a real token is left out of the batch."""
        rows = [row for row, count in enumerate(mask.sum(1).tolist()) if count]
        width = self.decoder.config.hidden
        if not rows:
            return self.decoder.norm.weight.new_zeros(*ids.shape, width)
        starts = [cache.lengths[row] for row in rows] if cache else None
        batch = Batch.padded(ids[rows], mask[rows], starts=starts, slots=rows if cache else None).to(ids.device)
        if cache:
            cache.reserve(int(batch.positions.max()) + 1)
            cache.lengths = [length + count for length, count in zip(cache.lengths, mask.sum(1).tolist(), strict=True)]
            cache.columns += ids.shape[1]
        hidden = self.decoder.hidden_states(batch, cache.state if cache else None)
        return hidden.new_zeros(ids.numel(), width).index_copy(0, mask.flatten().nonzero()[:, 0], hidden).view(*ids.shape, width)

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict, *args: Any) -> None:
        """The cache is made in the first forward."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def _reorder_cache(self, past_key_values: Cache, beam_idx: Tensor) -> Cache:
        past_key_values.reorder_cache(beam_idx)
        return past_key_values


class HymbaForCausalLM(AmaruForCausalLM):
    config_class = HymbaConfig


def _require_one_document_a_row(mask: Tensor | None, places: Tensor | None, more: dict[str, Any]) -> None:
    """Refuse what collators of packed data hand over; a row of one document has places that rise by one from token to token."""
    said = [name for name in PACKED if more.get(name) is not None]
    if mask is not None and mask.ndim != 2:
        said.append(f"an attention_mask of {mask.ndim} dimensions")
    elif places is not None and places.shape[-1] > 1:
        steps = places.diff() != 1
        real = torch.ones_like(steps) if mask is None else mask[:, -places.shape[-1] :].bool().unfold(1, 2, 1).all(-1)
        said += ["position_ids that begin anew within a row"] if bool((steps & real).any()) else []
    if said:
        raise ConfigError(
            f"This model got {', '.join(said)}, as for several documents packed into one row; here a row is one sequence. Give each "
            "document a row of its own, or train packed with `amaru train` or `amaru sft`."
        )


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each token given those before it, mean over labels that are not ignored."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)


def _local(name: Any, hub: dict[str, Any]) -> Path:
    """The directory itself, or what the hub has under this name: its JSON files and safetensors."""
    if Path(name).is_dir():
        return Path(name) / (hub.get("subfolder") or "")
    import huggingface_hub

    asked = {key: value for key, value in hub.items() if key in ("cache_dir", "force_download", "local_files_only", "revision", "token")}
    try:
        return Path(huggingface_hub.snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors", "*.jinja"], **asked))
    except Exception as error:  # the hub's client raises many kinds
        raise CheckpointError(f"'{name}' is no directory, and the hub gave: {' '.join(str(error).split())}") from None


def _device(device_map: Any) -> torch.device:
    if device_map is None or device_map == "auto":
        return torch.device("cuda" if device_map and torch.cuda.is_available() else "cpu")
    if isinstance(device_map, dict) and device_map.keys() == {""}:
        device_map = device_map[""]
    if not isinstance(device_map, str | int | torch.device):
        raise ConfigError(f"device_map must name one device for the whole model; got {device_map!r}.")
    return torch.device(device_map)


def register(pairs: Sequence[tuple[type[PreTrainedConfig], type[PreTrainedModel]]]) -> None:
    for config, model in pairs:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForCausalLM.register(config, model, exist_ok=True)


assert {AmaruConfig.model_type, HymbaConfig.model_type} == {*own.MODEL_TYPES, *hymba.MODEL_TYPES}
register([(AmaruConfig, AmaruForCausalLM), (HymbaConfig, HymbaForCausalLM)])
