"""Local consistency: what a patch machine's image must satisfy as the noise goes to nothing, and where it fails.

Theorem (Kamb & Ganguli 2025): as t → 0 every pixel equals the centre of its nearest allowed training patch. A sampler
with S steps last looks at t = 1/S, so its image satisfies that only about; how nearly is measured here.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lm_core.score.machines import PosteriorEngine

# Any small noise finds the same nearest patch, since it only scales the distances. It is 1e-4 because it also shrinks
# the patches, by √(1 − 1e-4), a hundredth of a grey level, and because nearly equal patches stay apart in float32.
NEARLY_CLEAN = 1e-4


@dataclass(frozen=True)
class Consistency:
    """How far a batch of images is from being locally consistent.

    Attributes:
        nearest: [B, C, H, W] centre of each pixel's nearest allowed training patch, in [−1, 1].
        difference: [B, H, W] largest difference, over the channels, between a pixel and that centre.
    """

    nearest: Tensor
    difference: Tensor

    def share(self, tolerance: float) -> Tensor:
        """Return for each image the share of its pixels that differ by more than `tolerance`, [B]."""
        return (self.difference > tolerance).float().mean((1, 2))


def check_consistency(engine: PosteriorEngine, images: np.ndarray, x: Tensor, patch_size: int) -> Consistency:
    """Compare every pixel with the centre of its nearest allowed training patch.

    Args:
        engine: a patch machine (ls, els, bbels); it says which patches are allowed.
        images: the engine's own training images, uint8 [N, C, H, W].
        x: [B, C, H, W], finite.
        patch_size: odd window P in which patches are compared.
    """
    found = engine.denoise(x, 1 - NEARLY_CLEAN, patch_size)
    row, y, column = (table[..., 0].cpu().numpy() for table in (found.top_image, found.top_y, found.top_x))
    centres = images[row, :, y, column].astype(np.float32) / 127.5 - 1  # B H W C
    nearest = torch.from_numpy(centres).permute(0, 3, 1, 2).to(x.device)
    return Consistency(nearest, (nearest - x).abs().amax(1))
