"""The score machines by plain loops in float64: slow, obvious, and what the engines are tested against."""

import numpy as np


def axis_class(position: int, size: int, radius: int) -> int:
    """Return 0 for the interior, else a number of its own for each distance from each edge."""
    return 0 if radius <= position < size - radius else position + 1


def window(image: np.ndarray, y: int, x: int, patch_size: int, *, circular: bool) -> np.ndarray:
    """Cut the window around (y, x) out of [C, H, W]; beyond the border it wraps or is zero."""
    _, height, width = image.shape
    tall, wide = (min(patch_size, height), min(patch_size, width)) if circular else (patch_size, patch_size)
    result = np.zeros((len(image), tall, wide))
    for i in range(tall):
        for j in range(wide):
            row, col = y + i - tall // 2, x + j - wide // 2
            if circular:
                result[:, i, j] = image[:, row % height, col % width]
            elif 0 <= row < height and 0 <= col < width:
                result[:, i, j] = image[:, row, col]
    return result


def candidates(machine: str, y: int, x: int, shape: tuple[int, int], patch_size: int) -> list[tuple[int, int]]:
    """List the locations that pixel (y, x) may be copied from."""
    height, width = shape
    everywhere = [(row, col) for row in range(height) for col in range(width)]
    if machine == "els":
        return everywhere
    if machine == "ls":
        return [(y, x)]
    radius = patch_size // 2
    kind = axis_class(y, height, radius), axis_class(x, width, radius)
    return [(r, c) for r, c in everywhere if (axis_class(r, height, radius), axis_class(c, width, radius)) == kind]


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def denoise(images: np.ndarray, machine: str, x: np.ndarray, alpha_bar: float, patch_size: int) -> dict:
    """Return mean [C, H, W], effective samples [H, W] and per pixel the weights by (image, y, x).

    Args:
        images: float [N, C, H, W]; x: [C, H, W].
    """
    images, x = images.astype(np.float64), x.astype(np.float64)
    _, channels, height, width = images.shape
    mean, effective, weights = np.zeros((channels, height, width)), np.zeros((height, width)), {}
    scale, beta = alpha_bar**0.5, 1 - alpha_bar
    if machine in ("is", "es"):
        shifts = [(0, 0)] if machine == "is" else [(a, b) for a in range(height) for b in range(width)]
        whole = [(n, a, b, np.roll(image, (a, b), (1, 2))) for n, image in enumerate(images) for a, b in shifts]
        share = softmax(np.array([-((x - scale * copy) ** 2).sum() / (2 * beta) for *_, copy in whole]))
        mean = sum(w * copy for w, (*_, copy) in zip(share, whole, strict=True))
        effective[:] = 1 / (share**2).sum()
        for y in range(height):
            for col in range(width):
                weights[y, col] = {
                    (n, (y - a) % height, (col - b) % width): w for w, (n, a, b, _) in zip(share, whole, strict=True)
                }
        return {"mean": mean, "effective": effective, "weights": weights}
    circular = machine == "els"
    for y in range(height):
        for col in range(width):
            query = window(x, y, col, patch_size, circular=circular)
            names = [
                (n, *place)
                for n in range(len(images))
                for place in candidates(machine, y, col, (height, width), patch_size)
            ]
            distance = [
                ((query - scale * window(images[n], a, b, patch_size, circular=circular)) ** 2).sum()
                for n, a, b in names
            ]
            share = softmax(-np.array(distance) / (2 * beta))
            mean[:, y, col] = sum(w * images[n][:, a, b] for w, (n, a, b) in zip(share, names, strict=True))
            effective[y, col] = 1 / (share**2).sum()
            weights[y, col] = dict(zip(names, share, strict=True))
    return {"mean": mean, "effective": effective, "weights": weights}
