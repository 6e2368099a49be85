"""One token at a time through a Llama-type model, for a whole batch: static cache, fused matrices, few small kernels.

The same arithmetic as the own forward pass of the model in fewer and larger operations and, on a CPU with MKL, with
weights packed for the number of rows. It knows plain Llama blocks only; other models go through `generate.ModelStep`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_core.llm.model import LanguageModel

ROTARY_TABLES = ("default", "linear", "llama3")  # fixed frequencies, whatever the length


def supports(lm: LanguageModel) -> bool:
    """Tell whether a model's blocks are plain Llama blocks."""
    config = lm.model.config
    return (
        type(lm.model).__name__ == "LlamaForCausalLM"
        and config.hidden_act == "silu"
        and not config.attention_bias
        and not config.mlp_bias
        and (config.rope_parameters or {}).get("rope_type", "default") in ROTARY_TABLES
    )


class Linear:
    """x ↦ x Wᵀ for a fixed number of rows; packed once where MKL computes in float32."""

    def __init__(self, weight: Tensor, rows: int):
        self.weight, self.rows, self.packed = weight, rows, None
        if weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkl.is_available():
            self.packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed is None:
            return F.linear(x, self.weight)
        return torch.ops.mkl._mkl_linear(x, self.packed, self.weight, None, self.rows)


class LlamaWeights:
    """A model's matrices as `LlamaStep` multiplies them, for a number of rows."""

    def __init__(self, lm: LanguageModel, rows: int):
        self.rows = rows
        self.blocks = []
        for block in lm.model.model.layers:
            attention, mlp = block.self_attn, block.mlp
            qkv = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
            gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
            matrices = (qkv, attention.o_proj.weight, gate_up, mlp.down_proj.weight)
            norms = (block.input_layernorm.weight, block.post_attention_layernorm.weight)
            self.blocks.append((*norms, *(Linear(matrix, rows) for matrix in matrices)))
        self.head = Linear(lm.model.lm_head.weight, rows)


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x over its root mean square, times the weight; in float32 quicker than torch's own on a CPU."""
    if x.dtype != torch.float32:
        return F.rms_norm(x, (x.shape[1],), weight, eps)
    return x * x.square().mean(-1, keepdim=True).add_(eps).rsqrt_() * weight


class LlamaStep:
    """The running state of a batch: key and value cache, and the shift that steers it.

    Args:
        cache: the prompts' keys and values as the model left them; mask: [batch, pos] of the left-padded prompts.
        room: how many more tokens there will be.
    """

    def __init__(self, lm: LanguageModel, weights: LlamaWeights, cache: Any, mask: Tensor, room: int):
        config, first = lm.model.config, cache.layers[0].keys
        self.lm, self.weights = lm, weights
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.size, self.eps = first.shape[-1], config.rms_norm_eps
        rows, length = mask.shape
        self.length, self.padding = length, length - mask.sum(1)
        shape = (lm.n_layers, weights.rows * self.groups, length + room, self.size)
        self.keys, self.values = torch.zeros(shape).to(first), torch.zeros(shape).to(first)
        for layer, past in enumerate(cache.layers):
            self.keys[layer, : rows * self.groups, :length] = past.keys.flatten(0, 1)
            self.values[layer, : rows * self.groups, :length] = past.values.flatten(0, 1)
        bias = torch.zeros(weights.rows, self.groups, 1, length + room).to(first)
        bias[:rows, :, 0, :length].masked_fill_(mask[:, None] == 0, -torch.inf)
        self.bias = bias.flatten(0, 1)
        positions = torch.arange(length + room, device=first.device)[None]
        cosine, sine = lm.model.model.rotary_emb(first, positions)
        self.cosine, self.sine = cosine[0], sine[0].clone()
        self.sine[:, : self.size // 2] *= -1  # (a, b) ↦ (a cos − b sin, b cos + a sin)
        self.rows = rows

    @torch.inference_mode()
    def __call__(self, ids: Tensor, shift: Tensor | None) -> Tensor:
        """Read one token of each row and return the next one's logits [batch, vocabulary].

        Args:
            ids: [batch]; shift: [layer, batch, d_model] added to the blocks' outputs, or None.
        """
        spare = self.weights.rows - self.rows
        padding = F.pad(self.padding, (0, spare))
        x = self.lm.model.model.embed_tokens.weight[F.pad(ids, (0, spare))]
        place = self.length - padding
        cosine, sine = self.cosine[place][:, None], self.sine[place][:, None]
        bias = self.bias[..., : self.length + 1]
        for layer, block in enumerate(self.weights.blocks):
            x = self._block(layer, block, x, cosine, sine, bias)
            if shift is not None:
                x[: self.rows] += shift[layer]
        self.length += 1
        x = normed(x, self.lm.model.model.norm.weight, self.eps)
        return self.weights.head(x)[: self.rows]

    def _block(self, layer: int, block: tuple, x: Tensor, cosine: Tensor, sine: Tensor, bias: Tensor) -> Tensor:
        before_attention, before_mlp, qkv, out, gate_up, down = block
        rows = len(x)
        h, g, d, at = self.heads, self.groups, self.size, self.length
        mixed = qkv(normed(x, before_attention, self.eps))
        turned = mixed[:, : (h + g) * d].view(rows, h + g, d)
        halves = turned.view(rows, h + g, 2, d // 2).flip(2).view(rows, h + g, d)
        turned = torch.addcmul(turned * cosine, halves, sine)
        keys, values = self.keys[layer], self.values[layer]
        keys[:, at] = turned[:, h:].reshape(-1, d)
        values[:, at] = mixed[:, (h + g) * d :].reshape(-1, d)
        # The heads of a group stand where positions would: one query position, so no causal mask is needed.
        queries = turned[:, :h].reshape(rows * g, h // g, d)
        scores = torch.baddbmm(bias, queries, keys[:, : at + 1].mT, alpha=d**-0.5)
        seen = torch.bmm(scores.softmax(-1), values[:, : at + 1])
        x = x + out(seen.view(rows, h * d))
        wide = gate_up(normed(x, before_mlp, self.eps))
        half = wide.shape[1] // 2
        return x + down(F.silu(wide[:, :half]).mul_(wide[:, half:]))
