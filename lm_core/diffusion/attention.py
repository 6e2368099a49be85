"""Where self-attention looks: the weights of every attention layer in one evaluation of a network.

Hooks watch the layers' inputs and are removed whatever happens; the network computes what it always does. Our own
`SelfAttention` is known, and the `Attention` of a diffusers `UNet2DModel`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lm_core.diffusion.networks import SelfAttention
from lm_core.errors import ParameterError


def _is_attention(layer: nn.Module) -> bool:
    """Whether a layer is one that `_weights` can read."""
    return isinstance(layer, SelfAttention) or all(hasattr(layer, name) for name in ("to_q", "to_k", "heads", "scale"))


def _weights(layer: Any, h: Tensor) -> Tensor:
    """Return a layer's attention weights for its input [B, C, H, W]: [B, heads, places, places], rows sum to one."""
    if isinstance(layer, SelfAttention):
        return layer.weights(h)
    flat = h.flatten(2)
    if layer.group_norm is not None:
        flat = layer.group_norm(flat)
    rows = flat.transpose(1, 2)
    query, key = (ask(rows).unflatten(2, (layer.heads, -1)).transpose(1, 2) for ask in (layer.to_q, layer.to_k))
    return (query @ key.transpose(2, 3) * layer.scale).softmax(3)


@contextmanager
def watch_attention(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect the attention weights of whatever this thread asks the network inside the block.

    A cached network serves several visitors at once; what other threads ask it meanwhile is not collected.

    Yields:
        a dictionary, empty at first; after an evaluation, by layer in the order of evaluation ("1 · 16×16",
        "2 · 8×8", …), weights float32 [B, heads, places, places]: how much each place (row) looks at each other
        (column), places in reading order. A second evaluation goes on counting.

    Raises:
        ParameterError: the network has no self-attention.
    """
    layers = [layer for layer in network.modules() if _is_attention(layer)]
    if not layers:
        raise ParameterError("this network has no self-attention; choose one that has, for example unet-attention.")
    maps: dict[str, Tensor] = {}
    mine = threading.get_ident()

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if threading.get_ident() != mine:
            return
        with torch.no_grad():
            weights = _weights(layer, inputs[0]).float()
        maps[f"{len(maps) + 1} · {inputs[0].shape[-2]}×{inputs[0].shape[-1]}"] = weights

    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def attention_maps(network: nn.Module, x: Tensor, t: Tensor, label: Tensor | None = None) -> dict[str, Tensor]:
    """Return how much each place looks at each other in one evaluation of one of our networks.

    Args:
        x: [B, C, H, W]; t: [B]; label: [B], for a conditional network.

    Returns:
        as `watch_attention`.
    """
    with watch_attention(network) as maps, torch.no_grad():
        network(x, t, label)
    return maps
