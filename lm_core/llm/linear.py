"""A falsifiable prediction of steering: to first order, each next-token logit moves by ε ∂logit/∂ε at ε = 0.

∂logit/∂ε = Σ_ℓ Σ_pos ⟨∂logit/∂h_ℓ, norm_ℓ v_ℓ⟩ over all steered blocks and positions, for every logit at once by one
forward-mode derivative. Measured beside it: the same logits with the shift really added.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from lm_core.llm.activations import left_pad, steered
from lm_core.llm.model import LanguageModel


def predicted_slopes(lm: LanguageModel, prompt: Sequence[int], shift: Tensor) -> Tensor:
    """Return d logit / d ε [vocabulary] of the next token at ε = 0, for resid_post ℓ ← resid_post ℓ + ε shift_ℓ.

    Args:
        shift: [layer, d_model] at ε = 1.
    """
    ids = torch.tensor([list(prompt)], device=lm.device)
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):  # the fused attention has no forward derivative
        nothing = torch.zeros_like(shift)
        table = forward_ad.make_dual(nothing, shift)[:, None]
        with steered(lm, lambda: table):
            logits = lm.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1]
        slopes = forward_ad.unpack_dual(logits).tangent
    return torch.zeros_like(logits) if slopes is None else slopes.float()


@torch.inference_mode()
def measured_logits(lm: LanguageModel, prompt: Sequence[int], shifts: Sequence[Tensor]) -> Tensor:
    """Return the next token's logits [shift, vocabulary] with each shift [layer, d_model] added."""
    ids, mask, positions = left_pad([prompt] * len(shifts), lm.pad_id, lm.device)
    table = torch.stack(list(shifts), 1)
    with steered(lm, lambda: table):
        out = lm.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1)
    return out.logits[:, -1].float()


def determination(predicted: Tensor, measured: Tensor) -> Tensor:
    """Return R² = 1 − Σ(measured − predicted)² / Σ(measured − mean)² along the last axis."""
    spread = (measured - measured.mean(-1, keepdim=True)).square().sum(-1)
    return 1 - (measured - predicted).square().sum(-1) / spread
