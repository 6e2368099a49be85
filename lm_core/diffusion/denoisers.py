"""Networks as denoisers: (x, step) → estimate of the clean image, for our own weights and for diffusers folders."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lm_core.device import on_release
from lm_core.diffusion.ddim import Denoise
from lm_core.diffusion.schedule import alpha_bar, step_times
from lm_core.diffusion.weights import load_network
from lm_core.errors import AssetError, ParameterError


class VelocityNetwork:
    """One of our networks; it predicts v = √ᾱ η − √β x₀, so the estimate is √ᾱ x − √β v (Salimans & Ho 2022)."""

    def __init__(self, network: nn.Module, channels: int, classes: int, metadata: dict) -> None:
        self.network, self.channels, self.classes, self.metadata = network, channels, classes, metadata

    def at(self, steps: int, label: int | None = None) -> Denoise:
        """Return the denoiser for a sampler with that many steps, conditioned on a class if the network is.

        Raises:
            ParameterError: the network needs a class and none, or one out of range, is given.
        """
        if self.classes and (label is None or not 0 <= label < self.classes):
            raise ParameterError(f"label is {label}; this network needs a class from 0 to {self.classes - 1}.")
        times = step_times(steps).tolist()
        levels = alpha_bar(times).tolist()

        def denoise(x: Tensor, step: int) -> Tensor:
            t = torch.full((len(x),), times[step], device=x.device)
            labels = None if label is None or not self.classes else torch.full((len(x),), label, device=x.device)
            with torch.no_grad():
                velocity = self.network(x.contiguous(memory_format=torch.channels_last), t, labels)
            return levels[step] ** 0.5 * x - (1 - levels[step]) ** 0.5 * velocity

        return denoise


class DiffusersNetwork:
    """A diffusers `UNet2DModel`, asked at the timestep of its own schedule whose ᾱ is nearest (in log-odds)."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Load `config.json` and the safetensors weights of a folder, its `unet` folder included.

        Raises:
            AssetError: the folder holds no `UNet2DModel`, or its weights don't fit its configuration.
        """
        from diffusers.models.unets.unet_2d import UNet2DModel

        root = folder / "unet" if (folder / "unet" / "config.json").exists() else folder
        try:
            network = UNet2DModel.from_pretrained(root, use_safetensors=True, local_files_only=True)
        except Exception as error:  # diffusers raises many kinds; each means the folder can't be used
            reason = str(error).splitlines()[0]
            raise AssetError(
                f"{folder.name} is not a diffusers UNet2DModel with safetensors weights: {reason}"
            ) from None
        config = dict(network.config)
        self.network = network.requires_grad_(False).eval()
        self.network.to(device)  # pyright: ignore[reportArgumentType]
        self.channels, self.classes = int(config["in_channels"]), 0
        self.metadata = {"network": config, "folder": folder.name}
        self.levels, self.prediction = self._schedule(folder)

    @staticmethod
    def _schedule(folder: Path) -> tuple[Tensor, str]:
        """Return ᾱ by timestep and what the network predicts, from scheduler_config.json or DDPM's defaults."""
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        places = (folder / "scheduler_config.json", folder / "scheduler" / "scheduler_config.json")
        found = next((place for place in places if place.exists()), None)
        config = json.loads(found.read_text()) if found else {}
        scheduler: Any = DDIMScheduler.from_config(config)
        return scheduler.alphas_cumprod.double(), str(config.get("prediction_type", "epsilon"))

    def at(self, steps: int, label: int | None = None) -> Denoise:
        """Return the denoiser for a sampler with that many steps; the class is not used."""
        wanted = torch.logit(torch.as_tensor(alpha_bar(step_times(steps))[:steps]))
        nearest = (torch.logit(self.levels)[None] - wanted[:, None]).abs().argmin(1).tolist()
        levels = self.levels[nearest].tolist()

        def denoise(x: Tensor, step: int) -> Tensor:
            with torch.no_grad():
                output = self.network(x, nearest[step]).sample
            signal, noise = levels[step] ** 0.5, (1 - levels[step]) ** 0.5
            if self.prediction == "sample":
                return output
            if self.prediction == "v_prediction":
                return signal * x - noise * output
            return (x - noise * output) / signal

        return denoise


Network = VelocityNetwork | DiffusersNetwork


def open_network(path: Path, device: torch.device) -> Network:
    """Load a weights file of ours or a diffusers folder; the same object again while the file is unchanged.

    Raises:
        AssetError: missing, damaged, or of the wrong shape.
    """
    stamp = path.stat().st_mtime_ns if path.exists() else 0
    return _open(path, device, stamp)


@lru_cache(maxsize=6)
def _open(path: Path, device: torch.device, stamp: int) -> Network:
    if path.is_dir():
        return DiffusersNetwork(path, device)
    network, config, metadata = load_network(path, device)
    return VelocityNetwork(network, config.channels, config.classes, metadata)


on_release(_open.cache_clear)
