"""The paper's two convolutional families, a ResNet and a UNet without normalisation, and UNets the theory isn't about.

Both predict the velocity v = √ᾱ η − √β x₀ (Salimans & Ho 2022) from the noisy image, the time and, optionally, a
class. The paper's networks predict η; both are the same posterior mean read off differently, and v keeps the estimate
at t = 1 finite where η's error would be divided by √ᾱ(1) = .012. What they can express is what the theory is about:
weights shared over space, a bounded receptive field, and the border seen only through the padding. Self-attention is
where that theory stops: every place sees every other. Group normalisation (Wu & He 2018) stops it too: its mean and
variance are the whole image's. The standard denoising UNet (Ho, Jain & Abbeel 2020) has both.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_core.errors import ParameterError

FAMILIES = ("unet", "resnet")
PADDINGS = ("zeros", "circular")
Padding = Literal["zeros", "circular"]
EMBEDDING_WIDTH = 128
HEADS = 4
GROUPS = 8  # of channels that are normalised together


@dataclass(frozen=True)
class NetworkConfig:
    """What it takes to build a network.

    Attributes:
        family: "unet" or "resnet".
        channels: image channels, 1 or 3.
        width: feature channels of the first level; the UNet's levels have width × (1, 2, 4).
        padding: "zeros" or "circular".
        classes: number of classes it is conditioned on, 0 for none.
        attention: whether a UNet has self-attention at its second and third level (of 32×32: 16×16 and 8×8).
        norm: whether a UNet normalises groups of channels before every convolution and attention.
    """

    family: str = "unet"
    channels: int = 1
    width: int = 32
    padding: Padding = "zeros"
    classes: int = 0
    attention: bool = False
    norm: bool = False

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ParameterError(f"family is {self.family!r}; choose one of {', '.join(FAMILIES)}.")
        if self.padding not in PADDINGS:
            raise ParameterError(f"padding is {self.padding!r}; choose one of {', '.join(PADDINGS)}.")
        if self.attention and (self.family != "unet" or self.width % HEADS):
            raise ParameterError(f"attention is for a unet whose width is a multiple of {HEADS}; change one of them.")
        if self.norm and (self.family != "unet" or self.width % GROUPS):
            raise ParameterError(f"norm is for a unet whose width is a multiple of {GROUPS}; change one of them.")
        for name, low, high in (("channels", 1, 4), ("width", 4, 1024), ("classes", 0, 10_000)):
            if not low <= getattr(self, name) <= high:
                raise ParameterError(f"{name} is {getattr(self, name)}; choose a number from {low} to {high}.")

    def as_dict(self) -> dict:
        return asdict(self)


class Conditioning(nn.Module):
    """Embed the time and the class into one vector [B, EMBEDDING_WIDTH]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        half = EMBEDDING_WIDTH // 2
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(1000), half)), persistent=False)
        self.mlp = nn.Sequential(
            nn.Linear(EMBEDDING_WIDTH, EMBEDDING_WIDTH), nn.SiLU(), nn.Linear(EMBEDDING_WIDTH, EMBEDDING_WIDTH)
        )
        self.classes = nn.Embedding(classes, EMBEDDING_WIDTH) if classes else None

    def forward(self, t: Tensor, label: Tensor | None) -> Tensor:
        angles = t[:, None] * self.frequencies
        embedding = self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1))
        if self.classes is not None and label is not None:
            embedding = embedding + self.classes(label)
        return F.silu(embedding)


def conv3x3(inputs: int, outputs: int, padding: Padding) -> nn.Conv2d:
    """Return a 3×3 convolution that keeps the image's size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode=padding)


def normalise(channels: int, norm: bool) -> nn.Module:
    """Return group normalisation, or nothing."""
    return nn.GroupNorm(GROUPS, channels) if norm else nn.Identity()


class ConvLayer(nn.Module):
    """A 3×3 convolution of relu(norm(h + embedding)), shape-preserving but for the channels."""

    def __init__(self, inputs: int, outputs: int, padding: Padding, norm: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Linear(EMBEDDING_WIDTH, inputs)
        self.norm = normalise(inputs, norm)
        self.conv = conv3x3(inputs, outputs, padding)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return self.conv(F.relu(self.norm(h + self.embedding(embedding)[:, :, None, None])))


class ResNet(nn.Module):
    """3×3 convolution in, six residual 3×3 convolutions, 3×3 convolution out: receptive field 17 pixels."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.conditioning = Conditioning(config.classes)
        self.conv_in = conv3x3(config.channels, config.width, config.padding)
        self.layers = nn.ModuleList([ConvLayer(config.width, config.width, config.padding) for _ in range(6)])
        self.conv_out = conv3x3(config.width, config.channels, config.padding)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        embedding = self.conditioning(t, label)
        h = self.conv_in(x)
        for layer in self.layers:
            h = h + layer(h, embedding)
        return self.conv_out(F.relu(h))


class Level(nn.Module):
    """Two convolutions at one resolution of the UNet, the second one residual."""

    def __init__(self, inputs: int, outputs: int, padding: Padding, norm: bool) -> None:
        super().__init__()
        self.first = ConvLayer(inputs, outputs, padding, norm)
        self.second = ConvLayer(outputs, outputs, padding, norm)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        h = self.first(h, embedding)
        return h + self.second(h, embedding)


class SelfAttention(nn.Module):
    """Residual self-attention over all places of one resolution (Vaswani et al. 2017), at first the identity."""

    def __init__(self, channels: int, norm: bool = False) -> None:
        super().__init__()
        self.norm = normalise(channels, norm)
        self.ask = nn.Conv2d(channels, 3 * channels, 1)
        self.answer = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.zeros_(self.answer.weight)

    def heads(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each [B, heads, places, channels / heads]."""
        parts = self.ask(self.norm(h)).flatten(2).unflatten(1, (3, HEADS, -1))
        query, key, value = parts.transpose(3, 4).unbind(1)
        return query, key, value

    def weights(self, h: Tensor) -> Tensor:
        """Return how much each place looks at each other, [B, heads, places, places]; rows sum to one."""
        query, key, _ = self.heads(h)
        return (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).softmax(3)

    def forward(self, h: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(*self.heads(h))
        return h + self.answer(mixed.transpose(2, 3).reshape(h.shape))


class UNet(nn.Module):
    """Three resolutions joined by max-pooling and nearest-neighbour upsampling; skip connections are added."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width, padding, norm = config.width, config.padding, config.norm
        self.conditioning = Conditioning(config.classes)
        self.conv_in = conv3x3(config.channels, width, padding)
        self.down = nn.ModuleList([Level(width, width, padding, norm), Level(width, 2 * width, padding, norm)])
        self.middle = Level(2 * width, 4 * width, padding, norm)
        self.narrow = nn.ModuleList([nn.Conv2d(4 * width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)])
        self.up = nn.ModuleList([Level(2 * width, 2 * width, padding, norm), Level(width, width, padding, norm)])
        self.conv_out = conv3x3(width, config.channels, padding)

        def attention(channels: int) -> nn.Module:
            return SelfAttention(channels, norm) if config.attention else nn.Identity()

        self.look_down = nn.ModuleList([nn.Identity(), attention(2 * width)])
        self.look_middle = attention(4 * width)
        self.look_up = nn.ModuleList([attention(2 * width), nn.Identity()])

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if x.shape[-2] % 4 or x.shape[-1] % 4:
            raise ParameterError(f"the image is {x.shape[-2]}×{x.shape[-1]}; the UNet needs sides divisible by 4.")
        embedding = self.conditioning(t, label)
        h, skips = self.conv_in(x), []
        for level, look in zip(self.down, self.look_down, strict=True):
            h = look(level(h, embedding))
            skips.append(h)
            h = F.max_pool2d(h, 2)
        h = self.look_middle(self.middle(h, embedding))
        for narrow, level, look in zip(self.narrow, self.up, self.look_up, strict=True):
            h = look(level(F.interpolate(narrow(h), scale_factor=2) + skips.pop(), embedding))
        return self.conv_out(F.relu(h))


def build_network(config: NetworkConfig) -> nn.Module:
    """Return a freshly initialised network: (x [B,C,H,W], t [B], label [B] or None) → v [B,C,H,W]."""
    return {"unet": UNet, "resnet": ResNet}[config.family](config)


def parse_network(name: str) -> dict[str, Any]:
    """Read what a network's name says of its configuration: unet, resnet-circular, unet-attention, unet-standard …

    Raises:
        ParameterError: no such network.
    """
    family, _, rest = name.partition("-")
    known: dict[str, dict[str, Any]] = {
        "": {},
        "circular": {"padding": "circular"},
        "attention": {"attention": True},
        "standard": {"attention": True, "norm": True},
    }
    if family not in FAMILIES or rest not in known:
        raise ParameterError(
            f"network is {name!r}; choose unet, resnet, either with -circular, unet-attention or unet-standard."
        )
    return {"family": family, **known[rest]}


def place(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, in the memory layout in which convolutions are fastest."""
    return network.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def count_parameters(network: nn.Module) -> int:
    """Return the number of trained parameters."""
    return sum(p.numel() for p in network.parameters())
