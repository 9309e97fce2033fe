"""A checkpoint's tensors, on the device, in the shape the networks use: projections that read the same input fused."""

from dataclasses import dataclass

import torch

from vectoll.adapters.checkpoints import Checkpoint, DType, TensorView

_DTYPES = {DType.F32: torch.float32, DType.F16: torch.float16, DType.BF16: torch.bfloat16}

Linear = tuple[torch.nn.Parameter, torch.nn.Parameter | None]
"""Weight ``[out, in]`` and bias ``[out]``."""

Norm = tuple[torch.nn.Parameter, torch.nn.Parameter | None]
"""Scale and, for a layer norm, shift; both ``[hidden]``."""


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """One BERT layer."""

    qkv: Linear
    out: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    output_norm: Norm


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One Llama-like layer."""

    attention_norm: Norm
    qkv: Linear
    q_norm: Norm | None
    k_norm: Norm | None
    out: Linear
    feed_forward_norm: Norm
    gate_up: Linear
    down: Linear


class CheckpointTensors:
    """Reads tensors by their plain names and puts them on a device in one type.

    Everything is an ``nn.Parameter`` so that compiled kernels take its size as fixed.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        self._weights = checkpoint.open_weights()
        self._device = device
        self._dtype = dtype

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def tensor(self, *names: str) -> torch.nn.Parameter:
        """The tensors of these names, one below the other."""
        parts = [self._load(name) for name in names]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return torch.nn.Parameter(whole, requires_grad=False)

    def linear(self, *modules: str) -> Linear:
        """Weight and, if there is one, bias of linear modules that read the same input, fused into one."""
        has_bias = f"{modules[0]}.bias" in self
        bias = self.tensor(*(f"{module}.bias" for module in modules)) if has_bias else None
        return self.tensor(*(f"{module}.weight" for module in modules)), bias

    norm = linear

    def _load(self, name: str) -> torch.Tensor:
        return _from_view(self._weights[name]).to(device=self._device, dtype=self._dtype)


def encoder_layer(tensors: CheckpointTensors, index: int) -> EncoderLayer:
    """The weights of one BERT or XLM-RoBERTa layer."""
    at = f"encoder.layer.{index}."
    attention = f"{at}attention.self."
    return EncoderLayer(
        qkv=tensors.linear(f"{attention}query", f"{attention}key", f"{attention}value"),
        out=tensors.linear(f"{at}attention.output.dense"),
        attention_norm=tensors.norm(f"{at}attention.output.LayerNorm"),
        up=tensors.linear(f"{at}intermediate.dense"),
        down=tensors.linear(f"{at}output.dense"),
        output_norm=tensors.norm(f"{at}output.LayerNorm"),
    )


def decoder_layer(tensors: CheckpointTensors, index: int, *, has_head_norms: bool) -> DecoderLayer:
    """The weights of one Qwen3, Mistral or Llama layer."""
    at = f"layers.{index}."
    attention = f"{at}self_attn."
    return DecoderLayer(
        attention_norm=tensors.norm(f"{at}input_layernorm"),
        qkv=tensors.linear(f"{attention}q_proj", f"{attention}k_proj", f"{attention}v_proj"),
        q_norm=tensors.norm(f"{attention}q_norm") if has_head_norms else None,
        k_norm=tensors.norm(f"{attention}k_norm") if has_head_norms else None,
        out=tensors.linear(f"{attention}o_proj"),
        feed_forward_norm=tensors.norm(f"{at}post_attention_layernorm"),
        gate_up=tensors.linear(f"{at}mlp.gate_proj", f"{at}mlp.up_proj"),
        down=tensors.linear(f"{at}mlp.down_proj"),
    )


def _from_view(view: TensorView) -> torch.Tensor:
    return torch.frombuffer(view.data, dtype=_DTYPES[view.dtype]).reshape(view.shape)
