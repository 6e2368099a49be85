"""The score machines as denoisers: from a noisy image to the posterior mean under a machine's candidates.

All of them are w = softmax(−‖x_Ω − √ᾱ p‖² / 2β), denoised = Σ w c with c the centre of patch p (Kamb & Ganguli 2025);
the score is (√ᾱ denoised − x)/β. This is the exact engine: it visits every candidate, streaming over the training
images. Another engine has the same call and returns the same `Denoised`.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lm_core.errors import ParameterError
from lm_core.score.candidates import TOP_K, Area, Chunk, Lines, Points, Query, groups
from lm_core.score.posterior import StreamingPosterior

CHUNK_BYTES = 96 * 2**20  # training patches held at once
TILE_LOGITS_CPU = 2**20  # logits held at once: 4 MB, small enough for the caches, large enough to hide the calls
TILE_LOGITS_GPU = 2**26
CHUNK_BYTES_GPU = 2**30  # where the kernel is fused, of images and what is noted of their patches


@dataclass(frozen=True)
class Denoised:
    """A batch of posterior means with their provenance.

    Attributes:
        mean: [B, C, H, W], in the images' range.
        effective_samples: [B, H, W] 1/Σw² in candidates.
        top_image, top_y, top_x: int64 [B, H, W, K] the heaviest candidates' image (row of the machine's images) and
            centre; −1 where there are fewer than K.
        top_weight: [B, H, W, K] their weights, descending; one minus their sum is everything else.
        bound: [B, H, W] how far off the mean can be at most, whatever the channel (certified); None if it is exact.
        deviation: [B, H, W] its standard error where only some of the images were used (an estimate); None if exact.
    """

    mean: Tensor
    effective_samples: Tensor
    top_image: Tensor
    top_y: Tensor
    top_x: Tensor
    top_weight: Tensor
    bound: Tensor | None = None
    deviation: Tensor | None = None


OnChunk = Callable[[float], None]
Walk = Callable[[int], Iterator[Chunk]]  # the training images in chunks of a size


def _quiet(share: float) -> None:
    """Report to nobody."""


class PosteriorEngine(Protocol):
    """What every engine offers: the posterior mean at one noise level, over some of its training images or all.

    Attributes:
        passes: over how many images a run that shows itself early should be made, in turn; the last is all.
    """

    passes: tuple[int, ...]

    def denoise(
        self, x: Tensor, alpha_bar: float, patch_size: int, on_chunk: OnChunk = ..., images: int | None = ...
    ) -> Denoised: ...


@dataclass(frozen=True)
class Question:
    """What an exact engine is asked: a batch of noisy images at one noise level, and how its pixels are grouped.

    Attributes:
        query: the noisy images relative to the engine's centre.
        groups: of a patch machine, a posterior for the pixels of each; none where whole images are compared.
    """

    query: Query
    groups: list[Area | Lines | Points]


def check(x: Tensor, shape: tuple[int, ...], alpha_bar: float, patch_size: int) -> None:
    """Raise ParameterError for what an engine of images of a shape can't be asked."""
    if x.dim() != 4 or tuple(x.shape[1:]) != shape:
        raise ParameterError(f"the noisy image has shape {tuple(x.shape)}; it must be [batch, {shape}].")
    if not bool(x.isfinite().all()):
        raise ParameterError("the noise contains values that are not finite; give finite numbers.")
    if patch_size < 1 or patch_size % 2 == 0:
        raise ParameterError(f"patch size is {patch_size}; choose an odd number from 1.")
    if not 0 < alpha_bar < 1:
        raise ParameterError(f"alpha_bar is {alpha_bar}; it must lie strictly between 0 and 1.")


class ExactEngine:
    """A score machine over all candidates of its training images.

    Cost: about H²W²·N multiply-adds of length C·P² for ELS; bbELS has (H−P+1)²(W−P+1)² interior pairs per image.
    Memory: `chunk_bytes` of patches and one tile of logits beside the images as uint8.
    """

    def __init__(
        self,
        images: np.ndarray,
        machine: str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        chunk_bytes: int | None = None,
        tile_logits: int | None = None,
        fused: bool | None = None,
        first: int = 0,
        centre: float | None = None,
    ) -> None:
        """Keep the training images; nothing is computed yet.

        Args:
            images: uint8 [N, C, H, W], or floating point in [−1, 1].
            machine: is, es, ls, els or bbels.
            dtype: float32, or float64 as an oracle.
            fused: whether windows are compared by the fused kernel of `score/fused.py`; where it can run if None.
            first: number of the first image, where these are a part of more.
            centre: value that images and query are taken relative to, the same for all parts; their median if None.

        Raises:
            ParameterError: unknown machine, no images, images that aren't finite, or fused in float64.
        """
        if machine not in ("is", "es", "ls", "els", "bbels"):
            raise ParameterError(f"machine is {machine!r}; choose one of is, es, ls, els, bbels.")
        if images.ndim != 4 or not len(images):
            raise ParameterError(f"images have shape {images.shape}; give at least one, as [N, C, H, W].")
        self.machine, self.dtype, self.device = machine, dtype, torch.device(device)
        self.images = torch.tensor(images, device=self.device)
        if self.images.dtype.is_floating_point and not bool(self.images.isfinite().all()):
            raise ParameterError("the training images contain values that are not finite.")
        gpu = self.device.type == "cuda"
        self.chunk_bytes = chunk_bytes or (CHUNK_BYTES_GPU if gpu else CHUNK_BYTES)
        self.tile_logits = tile_logits or (TILE_LOGITS_GPU if gpu else TILE_LOGITS_CPU)
        if fused and dtype != torch.float32:
            raise ParameterError(f"the fused kernel computes in float32; dtype is {dtype}: leave fused out.")
        self.area = _fused_area() if (can_fuse(self.device, dtype) if fused is None else fused) else Area
        self.passes, self.first = (len(self.images),), first
        # Distances don't change when images and query move together; small numbers lose less in q·p.
        sample = self.images[:: max(1, len(self.images) // 500)]
        self.centre = float(self._scale(sample).median()) if centre is None else centre

    def _scale(self, images: Tensor) -> Tensor:
        """Map uint8 to [−1, 1]."""
        return images.to(self.dtype) if images.dtype.is_floating_point else images.to(self.dtype) / 127.5 - 1

    def denoise(
        self, x: Tensor, alpha_bar: float, patch_size: int, on_chunk: OnChunk = _quiet, images: int | None = None
    ) -> Denoised:
        """Return the posterior mean of the clean image given a noisy one.

        Args:
            x: [B, C, H, W], finite.
            alpha_bar: signal share of the variance, in (0, 1).
            patch_size: odd window P; the ideal and the equivariant machine see the whole image whatever P is.
            on_chunk: called with the share of the training images done; may raise to cancel.
            images: how many of the training images to use, in the engine's order; None for all.

        Raises:
            ParameterError: wrong shape, values that aren't finite, P even or below 1, alpha_bar outside (0, 1).
        """
        question = self.ask(x, alpha_bar, patch_size)
        return self.assemble(question, self.posteriors(question, on_chunk, images))

    def ask(self, x: Tensor, alpha_bar: float, patch_size: int) -> Question:
        """Lay out what `denoise` is asked; arguments and errors are its."""
        check(x, tuple(self.images.shape[1:]), alpha_bar, patch_size)
        x = x.to(self.device, self.dtype) - alpha_bar**0.5 * self.centre
        query = Query(x, alpha_bar, patch_size, self.tile_logits)
        return Question(query, [] if self.machine in ("is", "es") else groups(self.machine, query, self.area))

    def posteriors(
        self, question: Question, on_chunk: OnChunk = _quiet, images: int | None = None
    ) -> list[StreamingPosterior]:
        """Return the posterior over this engine's images: a state per group, or one state where images are whole."""
        walk = partial(self._chunks, len(self.images) if images is None else images, on_chunk)
        if question.groups:
            return self._patches(question, walk)
        return [self._whole_images(question.query, walk)]

    def assemble(self, question: Question, states: Sequence[StreamingPosterior]) -> Denoised:
        """Turn the states of `posteriors`, merged where they come from several parts, into means and provenance."""
        if question.groups:
            return self._assemble(question, states)
        return self._merge_translates(states[0], question.query.x)

    def _patches(self, question: Question, walk: Walk) -> list[StreamingPosterior]:
        """One posterior per pixel, group by group."""
        batch, channels = question.query.x.shape[:2]
        states = [
            StreamingPosterior.empty(group.rows.numel() * batch, channels, TOP_K, self.device, self.dtype)
            for group in question.groups
        ]
        size = max(1, self.chunk_bytes // max(group.bytes_per_image() for group in question.groups))
        for chunk in walk(size):
            for group, state in zip(question.groups, states, strict=True):
                group.add(state, chunk)
        return states

    def _chunks(self, count: int, on_chunk: OnChunk, size: int) -> Iterator[Chunk]:
        """Walk over the first `count` training images, reporting the share done after each chunk."""
        for first in range(0, count, size):
            images = self._scale(self.images[first : min(first + size, count)]) - self.centre
            yield Chunk(images, self.first + first)
            on_chunk(min(1.0, (first + size) / count))

    def _assemble(self, question: Question, states: Sequence[StreamingPosterior]) -> Denoised:
        """Scatter the rows of all groups back to their pixels."""
        x = question.query.x
        batch, channels, height, width = x.shape
        mean = x.new_empty(batch, height, width, channels)
        effective = x.new_empty(batch, height, width, 1)
        weight = x.new_empty(batch, height, width, TOP_K)
        name = torch.empty(batch, height, width, TOP_K, dtype=torch.int64, device=self.device)
        for group, state in zip(question.groups, states, strict=True):
            for target, rows in (
                (mean, state.mean + self.centre),
                (effective, state.effective_samples),
                (weight, state.top_weight),
                (name, state.top_index),
            ):
                table = rows.view(len(group.rows), batch, -1, target.shape[-1]).transpose(0, 1)
                target[:, group.rows, group.cols] = table.to(target.dtype)
        missing, place = name < 0, name % (height * width)
        return Denoised(
            mean=mean.permute(0, 3, 1, 2).contiguous(),
            effective_samples=effective[..., 0],
            top_image=torch.where(missing, -1, name // (height * width)),
            top_y=torch.where(missing, -1, place // width),
            top_x=torch.where(missing, -1, place % width),
            top_weight=weight,
        )

    def _whole_images(self, query: Query, walk: Walk) -> StreamingPosterior:
        """One posterior per image, or per image and translate of it by (−dy, −dx): rows B·T, T = 1 or H·W.

        Comparing every translate of the query with every image is comparing the query with every translate of every
        image, so the equivariant machine is the ideal one asked H·W times and merged.
        """
        alpha_bar, beta = query.alpha_bar, 1 - query.alpha_bar
        flat = (_translates(query.x).flatten(0, 1) if self.machine == "es" else query.x).flatten(1)
        state = StreamingPosterior.empty(len(flat), flat.shape[1], TOP_K, self.device, self.dtype)
        size = max(1, min(self.chunk_bytes // (4 * flat.shape[1]), 4 * self.tile_logits // len(flat)))
        for chunk in walk(size):
            keys = chunk.images.flatten(1)
            offset = keys.square().sum(1) * (-0.5 * alpha_bar / beta)
            logits = torch.addmm(offset, flat * (alpha_bar**0.5 / beta), keys.T)
            index = torch.arange(chunk.first, chunk.first + len(keys), device=self.device)
            state.add(logits[None], keys[None], index[None])
        return state

    def _merge_translates(self, state: StreamingPosterior, x: Tensor) -> Denoised:
        """Turn one posterior per translate into one per image, every translate moved back to its place."""
        batch, channels, height, width = x.shape
        translates = len(state.peak) // batch
        peak = state.peak.view(batch, translates).double()
        scale = (peak - peak.amax(1, keepdim=True)).exp()  # B T
        mass = state.mass.view(batch, translates) * scale
        share = mass / mass.sum(1, keepdim=True)
        means = state.mean.view(batch, translates, channels, height, width)
        dy, dx = _shifts(translates, height, width)
        mean = torch.zeros(batch, channels, height, width, dtype=torch.float64, device=self.device)
        for t in range(translates):
            mean += share[:, t, None, None, None] * torch.roll(means[:, t], (dy[t], dx[t]), (-2, -1))
        square = (state.square_mass.view(batch, translates) * scale.square()).sum(1)
        effective = mass.sum(1).square() / square
        weight = state.top_weight.view(batch, translates, -1) * share[..., None]
        top = weight.flatten(1).topk(TOP_K, dim=1)
        image = state.top_index.view(batch, -1).gather(1, top.indices)
        shift = top.indices // TOP_K  # B K
        shift_y = torch.as_tensor(dy, device=self.device)[shift][:, None, None]
        shift_x = torch.as_tensor(dx, device=self.device)[shift][:, None, None]
        full = (batch, height, width, TOP_K)
        rows = torch.arange(height, device=self.device)[None, :, None, None]
        cols = torch.arange(width, device=self.device)[None, None, :, None]
        missing = (image < 0)[:, None, None]
        return Denoised(
            mean=(mean + self.centre).to(self.dtype),
            effective_samples=effective.to(self.dtype)[:, None, None].expand(batch, height, width).contiguous(),
            top_image=image[:, None, None].expand(full).contiguous(),
            top_y=torch.where(missing, -1, (rows - shift_y) % height).expand(full).contiguous(),
            top_x=torch.where(missing, -1, (cols - shift_x) % width).expand(full).contiguous(),
            top_weight=top.values.to(self.dtype)[:, None, None].expand(full).contiguous(),
        )


def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the fused kernel can run: in float32 on a CUDA card, with Triton and the C compiler it needs."""
    if device.type != "cuda" or dtype != torch.float32 or find_spec("triton") is None:
        return False
    if not (os.environ.get("CC") or any(shutil.which(name) for name in ("gcc", "clang", "cc"))):
        return False
    from lm_core.score.fused import OLDEST_CAPABILITY

    return torch.cuda.get_device_capability(device) >= OLDEST_CAPABILITY


def _fused_area() -> type[Area]:
    """Import the fused kernel, whose compiler is there only where a card is."""
    from lm_core.score.fused import FusedArea

    return FusedArea


def _shifts(translates: int, height: int, width: int) -> tuple[list[int], list[int]]:
    """Return the (dy, dx) of each translate: all of the torus, or only the identity."""
    if translates == 1:
        return [0], [0]
    return [s // width for s in range(height * width)], [s % width for s in range(height * width)]


def _translates(x: Tensor) -> Tensor:
    """Return every circular translate of x by (−dy, −dx): [B, H·W, C, H, W]."""
    dy, dx = _shifts(0, *x.shape[-2:])
    return torch.stack([torch.roll(x, (-a, -b), (-2, -1)) for a, b in zip(dy, dx, strict=True)], dim=1)
