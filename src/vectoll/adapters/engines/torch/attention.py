"""Attention over packed sequences: each token sees tokens of its own sequence only."""

import inspect
from typing import Protocol

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from torch.nn.attention.varlen import varlen_attn

from vectoll.adapters.engines.torch.packing import Segments

# Required where it exists (torch 2.12 on); older releases group heads without being told.
_GROUPED = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}

_FLASH_HEADS = range(8, 257, 8)


def has_flash_kernel(head_dim: int) -> bool:
    """Whether ``flash_attention`` computes heads of this size, where the chip can."""
    return head_dim in _FLASH_HEADS


class Attention(Protocol):
    """``softmax(q kᵀ / √head_dim) v`` within each sequence.

    ``q`` is ``[Tq, heads, head_dim]``, ``k`` and ``v`` are ``[Tk, kv_heads, head_dim]``; sequence ``i`` of ``q``
    belongs to sequence ``i`` of ``k`` and is aligned with its end. ``behind`` is how many earlier tokens are seen and
    ``ahead`` how many later ones; -1 is all. Returns ``[Tq, heads, head_dim]``.
    """

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        q_segments: Segments,
        k_segments: Segments,
        *,
        behind: int,
        ahead: int,
    ) -> torch.Tensor:
        """See the class."""
        ...


def flash_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    q_segments: Segments,
    k_segments: Segments,
    *,
    behind: int,
    ahead: int,
) -> torch.Tensor:
    """``Attention`` in one kernel: 16-bit types, on NVIDIA chips from Ampere on."""
    # One query per sequence takes a decoding path that splits keys by the batch's shape. Any bound from the longest
    # up is right, and 2 keeps the one path.
    longest_q = max(2, q_segments.longest)
    out: torch.Tensor = varlen_attn(
        q,
        k,
        v,
        q_segments.starts,
        k_segments.starts,
        longest_q,
        k_segments.longest,
        window_size=(behind, ahead),
        **_GROUPED,
    )
    return out


def segmented_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    q_segments: Segments,
    k_segments: Segments,
    *,
    behind: int,
    ahead: int,
) -> torch.Tensor:
    """``Attention`` one sequence at a time: every type and device, for checks and for chips without the kernel."""
    q_starts, k_starts = q_segments.starts.tolist(), k_segments.starts.tolist()
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    spans = zip(q_starts, q_starts[1:], k_starts, k_starts[1:], strict=False)
    for q_start, q_end, k_start, k_end in spans:
        seen = F.scaled_dot_product_attention(
            q[q_start:q_end].transpose(0, 1),
            k[k_start:k_end].transpose(0, 1),
            v[k_start:k_end].transpose(0, 1),
            attn_mask=_mask(q_end - q_start, k_end - k_start, behind, ahead, q.device),
            enable_gqa=True,
        )
        out[q_start:q_end] = seen.transpose(0, 1)
    return out


def _mask(queries: int, keys: int, behind: int, ahead: int, device: torch.device) -> torch.Tensor | None:
    if behind < 0 and ahead < 0:
        return None
    q_at = torch.arange(keys - queries, keys, device=device)[:, None]
    k_at = torch.arange(keys, device=device)[None, :]
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device)
    if behind >= 0:
        seen &= k_at >= q_at - behind
    if ahead >= 0:
        seen &= k_at <= q_at + ahead
    return seen
