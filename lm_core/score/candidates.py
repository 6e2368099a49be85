"""Which training patches a pixel may be copied from: the only thing in which the score machines differ.

A machine partitions the pixels into groups; a pixel is compared with every training patch at its group's locations.

- LS (local): every pixel is its own group: the same location in every training image.
- ELS (equivariant local): one group of all pixels; windows wrap around (circular).
- bbELS (boundary-broken ELS): the interior pixels are one group; the pixels at one distance from one edge are a group;
  a corner pixel is its own group. Windows see zeros beyond the border.
- IS and ES compare whole images, ES also every circular translate of them.

Each class below offers one kind of group as a stream of tiles of logits −‖x_Ω − √ᾱ p‖²/2β, up to a constant per pixel,
computed in the way that is cheapest for its kind. Tiles differ from the definition by rounding only.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_core.score.posterior import StreamingPosterior

TOP_K = 8


@dataclass(frozen=True)
class Query:
    """A batch of noisy images and how to compare them.

    Attributes:
        x: [B, C, H, W], relative to the engine's centre value, as the training images are.
        alpha_bar: signal share of the variance; patch_size: odd window P.
        tile_logits: how many logits to hold at once.
    """

    x: Tensor
    alpha_bar: float
    patch_size: int
    tile_logits: int

    @property
    def gain(self) -> float:
        """√ᾱ/β, what multiplies the product of window and patch in a logit."""
        return self.alpha_bar**0.5 / (1 - self.alpha_bar)

    @property
    def penalty(self) -> float:
        """−ᾱ/2β, what multiplies the squared norm of a patch in a logit."""
        return -0.5 * self.alpha_bar / (1 - self.alpha_bar)


@dataclass(frozen=True)
class Chunk:
    """Some consecutive training images [N, C, H, W], relative to the centre value; the first one's number."""

    images: Tensor
    first: int

    def names(self, rows: Tensor, cols: Tensor) -> Tensor:
        """Number candidates by (image, y, x): int64 [*rows.shape[:-1], N · rows.shape[-1]]."""
        height, width = self.images.shape[-2:]
        image = torch.arange(self.first, self.first + len(self.images), device=rows.device)
        return (image[:, None] * (height * width) + (rows * width + cols)[..., None, :]).flatten(-2)

    def centres(self, rows: Tensor, cols: Tensor) -> Tensor:
        """Return the pixels at [G, Q] locations of every image: [G, N·Q, C]."""
        return self.images[:, :, rows, cols].permute(2, 0, 3, 1).flatten(1, 2)


@dataclass(frozen=True)
class Keys:
    """M candidates of an area, as places in padded images.

    Attributes:
        padded: [N, C, H', W'].
        starts: int64 [M], where each one's window begins in the flattened padded images.
        penalty: [M] −ᾱ‖p‖²/2β.
        values: [M, C] centres; names: int64 [M].
    """

    padded: Tensor
    starts: Tensor
    penalty: Tensor
    values: Tensor
    names: Tensor


class Area:
    """One group of many locations, windows compared by one matrix product: the interior of bbELS, all of ELS.

    Patches that are background throughout (zero after centring) have a logit of 0 for every pixel and are counted
    instead of compared.
    """

    def __init__(self, query: Query, rows: Tensor, cols: Tensor, *, circular: bool) -> None:
        device = query.x.device
        grid = torch.cartesian_prod(rows, cols).to(device)
        self.rows, self.cols = grid[None, :, 0], grid[None, :, 1]  # [1, Q]
        self.query, self.circular = query, circular
        padded = pad(query.x, query.patch_size, circular=circular)
        self.window = window_sides(padded, query.x)
        self.queries = gather_windows(padded, self._starts(padded), self.window).T * query.gain  # B·Q, D
        self.buffer = torch.empty(0)

    def _starts(self, padded: Tensor) -> Tensor:
        """Return where the windows of every image begin in the flattened padded images, [N, Q]."""
        image = torch.arange(len(padded), device=padded.device) * padded[0].numel()
        return image[:, None] + (self.rows * padded.shape[-1] + self.cols)

    def bytes_per_image(self) -> int:
        return self.queries.element_size() * self.rows.numel() * self.queries.shape[1]

    def add(self, state: StreamingPosterior, chunk: Chunk) -> None:
        """Give the pixels of this group the candidates of a chunk of training images."""
        padded = pad(chunk.images, self.query.patch_size, circular=self.circular)
        squares = box_sum(padded.square(), self.window)[:, self.rows[0], self.cols[0]].flatten()
        names, values = chunk.names(self.rows[0], self.cols[0]), chunk.centres(self.rows, self.cols)[0]
        blank, kept = (squares == 0).nonzero()[:, 0], (squares != 0).nonzero()[:, 0]
        if len(blank):
            state.add_repeated(0.0, 0.0, names[blank[:TOP_K]], len(blank))
        if len(kept):
            starts, penalty = self._starts(padded).flatten()[kept], squares[kept] * self.query.penalty
            self.compare(state, Keys(padded, starts, penalty, values[kept], names[kept]))

    def compare(self, state: StreamingPosterior, keys: Keys) -> None:
        """Give every pixel some candidates, a tile of logits at a time."""
        windows = gather_windows(keys.padded, keys.starts, self.window)  # D, M
        tile = max(1, self.query.tile_logits // len(self.queries))
        if self.buffer.numel() == 0:
            self.buffer = windows.new_empty(len(self.queries) * tile)
        for start in range(0, len(keys.starts), tile):
            part = slice(start, min(start + tile, len(keys.starts)))
            shape = (len(self.queries), part.stop - part.start)
            logits = self.buffer[: shape[0] * shape[1]].view(shape)
            torch.addmm(keys.penalty[part], self.queries, windows[:, part], out=logits)
            state.add(logits[None], keys.values[None, part], keys.names[None, part])


class Lines:
    """Groups of the pixels at one distance from an edge: those of border row g, for the columns of the interior.

    The product of two windows is the sum of the products of their rows, so the rows are multiplied once and summed for
    every distance from the edge. `transposed` makes it border columns.
    """

    def __init__(self, query: Query, border: Tensor, interior: Tensor, *, transposed: bool) -> None:
        device = query.x.device
        along = border.to(device)[:, None].expand(-1, len(interior))
        across = interior.to(device)[None].expand(len(border), -1)
        self.rows, self.cols = (across, along) if transposed else (along, across)  # [G, Q]
        self.query, self.transposed = query, transposed
        self.border, self.interior = border.to(device), interior.to(device)
        self.queries = self._row_windows(query.x).transpose(1, 2) * query.gain  # H, B·Q, C·P

    def _row_windows(self, images: Tensor) -> Tensor:
        """Return the 1×P windows around the interior columns of every row: [H, C·P, N·Q]."""
        images = images.transpose(-1, -2) if self.transposed else images
        windows = images.unfold(-1, self.query.patch_size, 1)  # N C H Q P, inside the image throughout
        return windows.permute(2, 1, 4, 0, 3).flatten(3).flatten(1, 2)

    def bytes_per_image(self) -> int:
        side = self.query.x.shape[-1 if self.transposed else -2]
        return self.queries.element_size() * side * self.queries.shape[2] * len(self.interior)

    def add(self, state: StreamingPosterior, chunk: Chunk) -> None:
        """Give the pixels of these groups the candidates of a chunk of training images."""
        height, radius = len(self.queries), self.query.patch_size // 2
        per_image = height * self.queries.shape[1] * len(self.interior)
        size = max(1, 4 * self.query.tile_logits // per_image)
        for start in range(0, len(chunk.images), size):
            part = Chunk(chunk.images[start : start + size], chunk.first + start)
            window = (self.query.patch_size, self.query.patch_size)
            squares = box_sum(pad(part.images, self.query.patch_size, circular=False).square(), window)
            offset = squares[:, self.rows, self.cols].transpose(0, 1).flatten(1) * self.query.penalty  # G, N·Q
            products = self.queries @ self._row_windows(part.images)  # H, B·Q, N·Q
            logits = torch.stack([products[max(0, y - radius) : y + radius + 1].sum(0) for y in self.border.tolist()])
            logits += offset[:, None]
            state.add(logits, part.centres(self.rows, self.cols), part.names(self.rows, self.cols))


class Points:
    """Groups of one location each, compared with itself in every training image: LS, and the corners of bbELS.

    One map of squared differences per image, summed over the windows of all pixels at once.
    """

    def __init__(self, query: Query, rows: Tensor, cols: Tensor) -> None:
        grid = torch.cartesian_prod(rows, cols).to(query.x.device)
        self.rows, self.cols, self.query = grid[:, :1], grid[:, 1:], query  # [G, 1]

    def bytes_per_image(self) -> int:
        return 4 * self.query.x.element_size() * self.query.x.numel()

    def add(self, state: StreamingPosterior, chunk: Chunk) -> None:
        """Give every pixel the candidates of a chunk of training images."""
        query = self.query
        size = max(1, 4 * query.tile_logits // query.x[:, 0].numel())
        for start in range(0, len(chunk.images), size):
            part = Chunk(chunk.images[start : start + size], chunk.first + start)
            difference = (query.x[:, None] - query.alpha_bar**0.5 * part.images).flatten(0, 1)  # B·N C H W
            padded = pad(difference.square_(), query.patch_size, circular=False)
            distance = box_sum(padded, (query.patch_size, query.patch_size)).unflatten(0, (len(query.x), -1))
            logits = distance[:, :, self.rows[:, 0], self.cols[:, 0]] * (-0.5 / (1 - query.alpha_bar))  # B N G
            names = part.names(self.rows, self.cols)
            state.add(logits.permute(2, 0, 1).contiguous(), part.centres(self.rows, self.cols), names)


def groups(machine: str, query: Query, area: type[Area] = Area) -> list[Area | Lines | Points]:
    """Partition the pixels of a patch machine (ls, els, bbels); every pixel is in exactly one group.

    Args:
        area: the kind of area to make of the many locations whose windows are compared with each other.
    """
    rows, cols = (torch.arange(side) for side in query.x.shape[-2:])
    if machine == "els":
        return [area(query, rows, cols, circular=True)]
    if machine == "ls":
        return [Points(query, rows, cols)]
    radius = query.patch_size // 2
    (inner_rows, border_rows), (inner_cols, border_cols) = _split(rows, radius), _split(cols, radius)
    result: list[Area | Lines | Points] = []
    if len(inner_rows) and len(inner_cols):
        result.append(area(query, inner_rows, inner_cols, circular=False))
    if len(border_rows) and len(inner_cols):
        result.append(Lines(query, border_rows, inner_cols, transposed=False))
    if len(inner_rows) and len(border_cols):
        result.append(Lines(query, border_cols, inner_rows, transposed=True))
    if len(border_rows) and len(border_cols):
        result.append(Points(query, border_rows, border_cols))
    return result


def _split(positions: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Split positions along one axis into those whose window stays inside, and the others."""
    inside = (positions >= radius) & (positions < len(positions) - radius)
    return positions[inside], positions[~inside]


def pad(images: Tensor, patch_size: int, *, circular: bool) -> Tensor:
    """Extend images [N, C, H, W] so that a window fits around every pixel.

    A circular window as large as the image or larger is the whole image once, without repeats.
    """
    if not circular:
        return F.pad(images, (patch_size // 2,) * 4)
    height, width = images.shape[-2:]
    tall, wide = min(patch_size, height), min(patch_size, width)
    top, left = tall // 2, wide // 2
    images = torch.cat([images[..., height - top :, :], images, images[..., : tall - 1 - top, :]], dim=-2)
    return torch.cat([images[..., width - left :], images, images[..., : wide - 1 - left]], dim=-1)


def window_sides(padded: Tensor, images: Tensor) -> tuple[int, int]:
    """Return the height and width of the windows that `pad` made room for."""
    return padded.shape[-2] - images.shape[-2] + 1, padded.shape[-1] - images.shape[-1] + 1


def gather_windows(padded: Tensor, starts: Tensor, window: tuple[int, int]) -> Tensor:
    """Copy windows out of padded images, one window a column.

    Args:
        padded: [N, C, H', W'].
        starts: int64, any shape of M entries, where each window begins in the flattened padded images.

    Returns:
        [C · window height · window width, M].
    """
    flat, starts = padded.flatten(), starts.flatten()
    offsets = window_offsets(padded, window).tolist()
    result = padded.new_empty(len(offsets), len(starts))
    for row, offset in enumerate(offsets):
        torch.index_select(flat[offset:], 0, starts, out=result[row])
    return result


def window_offsets(padded: Tensor, window: tuple[int, int]) -> Tensor:
    """Return where the numbers of a window lie in flattened padded images, counted from its first: int64 [D]."""
    channels, tall, wide = padded.shape[1:]
    channel, y, x = (torch.arange(side, device=padded.device) for side in (channels, *window))
    return ((channel[:, None, None] * tall + y[:, None]) * wide + x).flatten()


def box_sum(padded: Tensor, window: tuple[int, int]) -> Tensor:
    """Sum padded images [N, C, H', W'] over channels and over the window of every pixel: [N, H, W].

    Two passes of plain sums, so cost grows with P and not P², and nothing cancels as it would in an integral image.
    """
    total = padded.sum(1, keepdim=True)
    total = F.avg_pool2d(total, (window[0], 1), 1, divisor_override=1)
    return F.avg_pool2d(total, (1, window[1]), 1, divisor_override=1)[:, 0]
