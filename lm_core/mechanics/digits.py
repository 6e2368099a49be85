"""Scikit-learn's handwritten digits: 1,797 images of 8×8 pixels, the data set that the small exhibits train on.

From Alpaydin & Kaynak, Optical recognition of handwritten digits (UCI, 1998, CC BY 4.0); it comes with scikit-learn.
"""

from functools import lru_cache

import torch
from torch import Tensor

CLASSES = 10
PIXELS = 64


@lru_cache(maxsize=1)
def _read() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images), torch.from_numpy(labels)


def digits(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return the images [1797, 64], brightness 0..16, and the labels [1797], int64, in the data set's order."""
    images, labels = _read()
    return images.to(device, dtype), labels.to(device).clone()
