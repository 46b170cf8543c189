"""The linear attention of SANA and of its autoencoder (arXiv 2410.10629, section 2.2), in a form that can be exported.

What diffusers computes, but for two things. It adds 1e-15 to denominators, which an exporter takes for nothing and
leaves out, and 0 / 0 where ReLU has silenced everything; here a maximum holds them above 0. And its autoencoder takes a
quadratic form of the same sum for small images, which a graph of any size cannot choose; here the form is one.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

_SMALLEST = 1e-15


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Σ v kᵀq / Σ kᵀq with ReLU on q and k; each [B, H, d, N], and so the answer, float32."""
    query, key, value = F.relu(query).float(), F.relu(key).float(), value.float()
    attended = (value @ key.transpose(2, 3)) @ query
    weight = key.sum(dim=3, keepdim=True).transpose(2, 3) @ query
    return attended / weight.clamp_min(_SMALLEST)


def settle_linear_attention(autoencoder: nn.Module) -> None:
    """Replace what an ``AutoencoderDC`` attends with; other autoencoders have none of it."""
    for module in autoencoder.modules():
        if type(module).__name__ == "SanaMultiscaleLinearAttention":
            module.processor = _Multiscale()


class _Multiscale:
    """Attention among an image's latents [B, C, h, w], as they are and averaged over neighbourhoods."""

    def __call__(self, attn: nn.Module, latents: torch.Tensor) -> torch.Tensor:
        last = latents.movedim(1, -1)
        projected = torch.cat([attn.to_q(last), attn.to_k(last), attn.to_v(last)], dim=3).movedim(-1, 1)
        scales = torch.cat([projected, *(block(projected) for block in attn.to_qkv_multiscale)], dim=1)
        query, key, value = scales.flatten(2).unflatten(1, (-1, 3 * attn.attention_head_dim)).chunk(3, dim=2)
        attended = attend(query, key, value).to(latents.dtype).flatten(1, 2).unflatten(2, latents.shape[2:])
        out = attn.to_out(attended.movedim(1, -1)).movedim(-1, 1)
        normed = (
            attn.norm_out(out.movedim(1, -1)).movedim(-1, 1) if attn.norm_type == "rms_norm" else attn.norm_out(out)
        )
        return normed + latents if attn.residual_connection else normed
