"""Three sections of "Where theory stops": patch size, training set, noise. Each function draws one."""

from pages.components.stops_noise import noise
from pages.components.stops_patch import patch_size
from pages.components.stops_training import training_set

__all__ = ["noise", "patch_size", "training_set"]
