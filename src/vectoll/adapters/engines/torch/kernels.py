"""The steps between matrix products and attention: each reads and writes memory once when compiled."""

import functools
import importlib.util
import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

log = logging.getLogger(__name__)

Backend = str | Callable[..., Any]

RECOMPILE_LIMIT = 64
"""Shapes of one step that are compiled before torch goes back to running it unfused."""


def add_layer_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """``layer_norm(x + residual)``, all ``[T, hidden]``."""
    return F.layer_norm(x + residual, weight.shape, weight, bias, eps)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """``x / rms(x) · weight`` over the last dimension, computed in float32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """``s = x + residual`` and ``rms_norm(s)``, all ``[T, hidden]``."""
    total = x + residual
    return total, rms_norm(total, weight, eps)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions: ``x`` is ``[T, heads, head_dim]``, ``cos`` and ``sin`` float32 ``[T, head_dim / 2]``."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def norm_rotate(
    x: torch.Tensor, weight: torch.Tensor, eps: float, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    """Qwen3: ``rms_norm`` of each head, then ``rotate``."""
    return rotate(rms_norm(x, weight, eps), cos, sin)


def swiglu(gate_and_up: torch.Tensor) -> torch.Tensor:
    """``silu(gate) · up`` of ``[T, 2 · intermediate]``."""
    gate, up = gate_and_up.chunk(2, dim=-1)
    return F.silu(gate) * up


@dataclass(frozen=True, slots=True)
class Kernels:
    """The steps, as they run."""

    add_layer_norm: Callable[..., torch.Tensor] = add_layer_norm
    rms_norm: Callable[..., torch.Tensor] = rms_norm
    add_rms_norm: Callable[..., tuple[torch.Tensor, torch.Tensor]] = add_rms_norm
    rotate: Callable[..., torch.Tensor] = rotate
    norm_rotate: Callable[..., torch.Tensor] = norm_rotate
    swiglu: Callable[[torch.Tensor], torch.Tensor] = swiglu


def set_compiler() -> None:
    """How compiled steps are compiled. Before the first one that a thread runs: torch 2.13 keeps these per thread."""
    config = torch._dynamo.config  # noqa: SLF001 - the only name these have
    if not config.specialize_float:  # setting it anew costs more than asking
        config.specialize_float = True  # otherwise eps becomes an input that every call wraps in a tensor
        config.recompile_limit = max(config.recompile_limit, RECOMPILE_LIMIT)


@functools.cache
def compiled_kernels(backend: Backend = "inductor") -> Kernels:
    """The same steps, each fused into one kernel on first use: widths and eps fixed, the number of tokens open.

    Every thread that runs them calls ``set_compiler`` first.
    """
    fuse = functools.partial(torch.compile, dynamic=True, backend=backend)
    return Kernels(
        add_layer_norm=fuse(add_layer_norm),
        rms_norm=fuse(rms_norm),
        add_rms_norm=fuse(add_rms_norm),
        rotate=fuse(rotate),
        norm_rotate=fuse(norm_rotate),
        swiglu=fuse(swiglu),
    )


def can_compile(device: torch.device) -> bool:
    """Whether fused kernels can be made here: Triton for the device, and a C compiler with Python's headers for its
    launcher. Where all seem to be there, one kernel is made to see.
    """
    has_compiler = any(map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang")))
    if device.type != "cuda" or not has_compiler or importlib.util.find_spec("triton") is None:
        return False
    return can_run(compiled_kernels(), device)


def can_run(kernels: Kernels, device: torch.device) -> bool:
    """Whether a step runs as compiled. What keeps it from that is logged."""
    set_compiler()
    try:
        with torch.inference_mode():
            kernels.swiglu(torch.zeros(64, 64, device=device))
    except (RuntimeError, ImportError, OSError, subprocess.SubprocessError) as error:
        # The compiler's own words may be pages: its first line says what is missing.
        log.warning("kernels_not_fused", extra={"reason": str(error).partition("\n")[0][:300]})
        return False
    return True
