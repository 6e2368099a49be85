"""The measured receptive field of a network: how far around a pixel its estimate depends on the noisy image.

It is measured by |∂denoised(pixel)/∂x|, the absolute gradient summed over colour channels, of pixel and of x. The
radius is Chebyshev's, the half-width of a square window in pixels, so that it compares with a score machine's window
P = 2 · radius + 1. A radius of 0 is the pixel itself.
"""

import copy

import torch
from torch import Tensor, nn

from lm_core.diffusion.ddim import Denoise
from lm_core.diffusion.denoisers import Network

HELD = 0.9  # share of the absolute gradient that the window holds
TOGETHER = 64  # gradients computed in one batch


class _WithGradient:
    """A network that keeps its graph although its caller switched gradients off."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, *inputs: object) -> Tensor:
        with torch.enable_grad():
            return self.network(*inputs)


def differentiable(network: Network, steps: int, label: int | None = None) -> Denoise:
    """Return `network.at(steps, label)` as a function that can be differentiated, of x in channels-last layout."""
    same = copy.copy(network)
    same.network = _WithGradient(network.network)  # pyright: ignore[reportAttributeAccessIssue]
    return same.at(steps, label)


def wraps(network: nn.Module) -> bool:
    """Return whether a network's convolutions continue the image periodically."""
    return any(getattr(part, "padding_mode", "zeros") == "circular" for part in network.modules())


def gradients(denoise: Denoise, x: Tensor, step: int, pixels: Tensor) -> Tensor:
    """Return how strongly an estimate's pixels depend on each pixel of the noisy image.

    Args:
        denoise: differentiable.
        x: [C, H, W] noisy image at a step.
        pixels: int64 [K, 2] rows and columns.

    Returns:
        float32 [K, H, W] Σ over channels c, c' of |∂denoised_c(pixel)/∂x_c'|.
    """
    channels = len(x)
    jobs = torch.cartesian_prod(torch.arange(len(pixels)), torch.arange(channels)).to(x.device)
    result = x.new_zeros(len(pixels), *x.shape[1:])
    for part in jobs.split(TOGETHER):
        at, channel = pixels[part[:, 0]], part[:, 1]
        batch = x.expand(len(part), *x.shape).contiguous(memory_format=torch.channels_last).requires_grad_()
        row = torch.arange(len(part), device=x.device)
        # Images of a batch don't mix, so the gradient of the sum holds each one's own.
        chosen = denoise(batch, step)[row, channel, at[:, 0], at[:, 1]].sum()
        (found,) = torch.autograd.grad(chosen, batch)
        result.index_add_(0, part[:, 0], found.abs().sum(1))
    return result


def distances(pixels: Tensor, height: int, width: int, *, circular: bool) -> Tensor:
    """Return the Chebyshev distance of every pixel from each of `pixels` [K, 2], around the edges if circular."""
    apart = []
    for axis, side in ((0, height), (1, width)):
        along = (torch.arange(side, device=pixels.device) - pixels[:, axis, None]).abs()
        apart.append(torch.minimum(along, side - along) if circular else along)
    return torch.maximum(apart[0][:, :, None], apart[1][:, None, :])


def radius_holding(gradient: Tensor, distance: Tensor, held: float = HELD) -> Tensor:
    """Return the smallest radius whose square window holds a share of the gradient, int64 [K].

    Args:
        gradient: [K, H, W], not negative; distance: int64 [K, H, W].
    """
    within = gradient.new_zeros(len(gradient), int(distance.max()) + 1, dtype=torch.float64)
    within.scatter_add_(1, distance.flatten(1), gradient.flatten(1).double())
    within = within.cumsum(1)
    return (within < held * within[:, -1:]).sum(1)


def radii(network: Network, states: Tensor, label: int | None, pixels: Tensor) -> Tensor:
    """Measure a network's receptive field along a trajectory of its own.

    Args:
        states: [S, C, H, W] noisy states of a sampler with S steps, the noisiest first.
        label: the class; pixels: int64 [K, 2] rows and columns at which the estimates are differentiated.

    Returns:
        int64 [S, K].

    Cost: a forward and a backward pass a step, pixel and channel.
    """
    pixels = pixels.to(states.device)
    denoise = differentiable(network, len(states), label)
    apart = distances(pixels, *states.shape[-2:], circular=wraps(network.network))
    return torch.stack([radius_holding(gradients(denoise, x, s, pixels), apart).cpu() for s, x in enumerate(states)])
