"""Deterministic DDIM (Song et al. 2021), driven by any denoiser, analytic or network."""

from collections.abc import Callable

import torch
from torch import Tensor

from lm_core.diffusion.schedule import alpha_bar, step_times

Denoise = Callable[[Tensor, int], Tensor]


def starting_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Return standard normal noise, the same for a seed on every device: float32 of the given shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ddim_step(x: Tensor, denoised: Tensor, alpha: float, alpha_next: float) -> Tensor:
    """Move from ᾱ to ᾱ' along the estimate: √ᾱ' x̂₀ + √β' ε̂ with ε̂ = (x − √ᾱ x̂₀)/√β (Song et al. 2021, eq. 12).

    The last step (ᾱ' = 1) returns the estimate itself.
    """
    eps = (x - alpha**0.5 * denoised) / (1 - alpha) ** 0.5
    return alpha_next**0.5 * denoised + (1 - alpha_next) ** 0.5 * eps


def sample(
    denoise: Denoise,
    noise: Tensor,
    steps: int,
    on_step: Callable[[int, Tensor, Tensor], None] = lambda step, denoised, x: None,
) -> Tensor:
    """Turn noise into images, from t = 1 to t = 0 in equal steps.

    Args:
        denoise: (x [B, C, H, W], step) → estimate of the clean image; called at t = 1, (S−1)/S, …, 1/S.
        noise: [B, C, H, W].
        on_step: called after each step with the step, the estimate and the new state; may raise to cancel.

    Returns:
        [B, C, H, W], the last estimate.
    """
    x, levels = noise, alpha_bar(step_times(steps)).tolist()
    for step in range(steps):
        denoised = denoise(x, step)
        x = ddim_step(x, denoised, levels[step], levels[step + 1])
        on_step(step, denoised, x)
    return x
