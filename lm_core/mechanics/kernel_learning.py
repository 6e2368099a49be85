"""Exhibit a2: the learning curves of kernel ridge regression, from the kernel's eigenvalues alone (Simon et al. 2021).

The world is a pool of handwritten digits, each as likely as the next: training points are drawn from it with
replacement, and the error is taken over all of it, as the theory has it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lm_core.exhibit_params import Value
from lm_core.exhibit_results import Curve, Outcome, Panel
from lm_core.mechanics.digits import digits

SIZES = (8, 16, 32, 64, 128, 256, 512)
DRAWS = 20  # fewest training sets of a size
POINTS = 2560  # a size has as many sets as hold these together, if that is more; also the most points in a batch
TARGETS = ("odd or even", "is it a 0?", "is it an 8?", "shuffled labels")
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # of the eigenfunctions that are learnt as targets of their own
SHOWN_SIZES = (32, 128, 512)  # in the panel of learnabilities
REGIME = 0.99  # log-R² below which the verdict says why: the exhibit's tolerance

Report = Callable[[float, str, Sequence[Panel] | None], None]


class Pool(NamedTuple):
    """The world: kernel [N, N], eigenvalues [N] descending, eigenfunctions [N, N] of mean square 1, labels [N, 4]."""

    kernel: Tensor
    eigenvalues: np.ndarray
    eigenfunctions: Tensor
    labels: Tensor

    @property
    def power(self) -> np.ndarray:
        """The squared coefficients v² [N, 4] of the labels in the eigenfunctions; each column sums to 1."""
        size = len(self.labels)
        return (self.eigenfunctions.T @ self.labels / size).square().cpu().numpy()


class Fits(NamedTuple):
    """What fits to n points measured: for each draw the error over the pool and over the points not drawn, [draws, 4],
    and the learnabilities of the eigenfunctions of `RANKS`, [draws, 9]."""

    n: int
    pool: np.ndarray
    undrawn: np.ndarray
    learnability: np.ndarray


class Prediction(NamedTuple):
    """The law at sizes `grid` [49]: `errors` [49, 4], `unrepeated` [49, 4] for the number of different points among the
    draws, and the learnabilities `shares` [7, N] of all eigenfunctions at `SIZES`."""

    grid: np.ndarray
    errors: np.ndarray
    unrepeated: np.ndarray
    shares: np.ndarray


def relu_ntk(x: Tensor) -> Tensor:
    """Return the tangent kernel of a two-layer ReLU network without biases, [N, N], for x [N, d].

    ‖x‖‖z‖[sin θ + 2(π − θ)cos θ]/2π: E[relu(w·x)relu(w·z)] + x·z E[1(w·x > 0)1(w·z > 0)] over Gaussian w; arc-cosine
    kernels of degree 1 and 0 (Cho & Saul 2009; Jacot et al. 2018).
    """
    norms = x.norm(dim=1)
    norms = norms[:, None] * norms
    cosine = (x @ x.T / norms).clamp(-1, 1)
    cosine.fill_diagonal_(1)
    angle = cosine.arccos()
    return norms * (angle.sin() + 2 * (math.pi - angle) * cosine) / (2 * math.pi)


def kernel_matrix(name: str, x: Tensor) -> Tensor:
    """Return a kernel [N, N] of the rows of x [N, d], scaled to a mean of 1 on the diagonal.

    Args:
        name: "ReLU-NTK", "Gaussian" exp(−r²/2) or "Laplace" exp(−r), r in median distances.
    """
    if name == "ReLU-NTK":
        kernel = relu_ntk(x)
        return kernel / kernel.diagonal().mean()
    apart = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    apart = apart / apart[apart > 0].median()
    return torch.exp(-apart.square() / 2) if name == "Gaussian" else torch.exp(-apart)


def solve_kappa(eigenvalues: np.ndarray, n: float, ridge: float) -> float:
    """Return κ of n = Σλ/(λ+κ) + δ/κ (Simon et al. 2021), by bisection of log κ.

    At ridge 0, n must be below the number of eigenvalues above 0.
    """
    high = (eigenvalues.sum() + ridge) / n
    low = max(ridge / n, 1e-18 * high)
    for _ in range(100):
        kappa = math.sqrt(low * high)
        if (eigenvalues / (eigenvalues + kappa)).sum() + ridge / kappa > n:
            low = kappa
        else:
            high = kappa
    return math.sqrt(low * high)


def learnabilities(eigenvalues: np.ndarray, n: float, ridge: float) -> np.ndarray:
    """Return 𝓛 = λ/(λ+κ) [N]: which share of each eigenfunction the mean fit to n points finds."""
    return eigenvalues / (eigenvalues + solve_kappa(eigenvalues, n, ridge))


def law(eigenvalues: np.ndarray, power: np.ndarray, n: float, ridge: float, noise: float) -> np.ndarray:
    """Return the predicted mean squared error on fresh, equally noisy labels, [targets].

    n/(n − Σ𝓛²) [Σ(1−𝓛)²v² + σ²] (Simon et al. 2021), for power v² [N, targets] and label noise of standard deviation σ.
    """
    share = learnabilities(eigenvalues, n, ridge)
    return n / (n - (share**2).sum()) * ((1 - share) ** 2 @ power + noise**2)


def distinct(n: float, size: int) -> float:
    """Return how many different points n draws with replacement from a pool of `size` hold on average."""
    return size * (1 - (1 - 1 / size) ** n)


def draw_pool(name: str, size: int, generator: torch.Generator, device: torch.device) -> Pool:
    """Draw a pool of digits and find its kernel's eigensystem, float64. Cost: O(N³), 1–3 s of a core for all 1,797."""
    images, classes = digits(torch.float64)
    kept = torch.randperm(len(images), generator=generator)[:size]
    classes = classes[kept]
    odd = classes % 2 == 1
    answers = [odd, classes == 0, classes == 8, odd[torch.randperm(size, generator=generator)]]
    labels = 2 * torch.stack(answers, dim=1).to(device, torch.float64) - 1
    images = images[kept].to(device)
    kernel = kernel_matrix(name, images - images.mean(0))
    values, vectors = torch.linalg.eigh(kernel / size)
    return Pool(kernel, values.flip(0).clamp_min(0).cpu().numpy(), vectors.flip(1) * math.sqrt(size), labels)


def fit(kernel: Tensor, places: Tensor, answers: Tensor, ridge: float) -> Tensor:
    """Return kernel ridge regression's predictions for the whole pool, K(·, X)(K(X, X) + δI)⁻¹y.

    Args:
        kernel: [N, N]; places: [B, n] drawn points; answers: [B, n, T].

    Returns:
        [B, N, T]. Cost: B(n³/3 + nNT) multiplications.
    """
    rows = kernel[places]  # B n N
    gram = rows.gather(2, places[:, None, :].expand(-1, places.shape[1], -1))
    gram.diagonal(dim1=1, dim2=2).add_(ridge)
    return rows.mT @ torch.cholesky_solve(answers, torch.linalg.cholesky(gram))


def draws_of(n: int) -> int:
    """Return how many training sets of n points are drawn."""
    return max(DRAWS, POINTS // n)


def measure(
    pool: Pool, n: int, ridge: float, noise: float, generator: torch.Generator, on_batch: Callable[[], None]
) -> Fits:
    """Fit training sets of n points drawn with replacement, and measure errors as `law` has them."""
    size, many = pool.labels.shape
    modes, draws, batch = pool.eigenfunctions[:, [rank - 1 for rank in RANKS]], draws_of(n), max(1, POINTS // n)
    drawn = torch.randint(size, (draws, n), generator=generator).to(modes.device)
    errors = noise * torch.randn(draws, n, many, generator=generator, dtype=torch.float64).to(modes)
    found = []
    for places, added in zip(drawn.split(batch), errors.split(batch), strict=True):
        on_batch()
        answers = torch.cat([pool.labels[places] + added, modes[places]], dim=2)
        fitted = fit(pool.kernel, places, answers, ridge)
        squares = (fitted[..., :many] - pool.labels).square()
        undrawn = torch.ones_like(squares[..., 0]).scatter_(1, places, 0)[..., None]
        outside = (squares * undrawn).sum(1) / undrawn.sum(1)
        found.append((squares.mean(1), outside, (fitted[..., many:] * modes).mean(1)))
    inside, outside, learnt = (torch.cat(parts).double().cpu().numpy() for parts in zip(*found, strict=True))
    return Fits(n, inside + noise**2, outside + noise**2, learnt)


def predict(pool: Pool, ridge: float, noise: float) -> Prediction:
    """Predict everything that is measured, from the pool's eigenvalues and the labels' power."""
    values, power, size = pool.eigenvalues, pool.power, len(pool.labels)
    grid = np.geomspace(SIZES[0], SIZES[-1], 49)  # every eighth is one of `SIZES`
    return Prediction(
        grid,
        np.stack([law(values, power, n, ridge, noise) for n in grid]),
        np.stack([law(values, power, distinct(n, size), ridge, noise) for n in grid]),
        np.stack([learnabilities(values, n, ridge) for n in SIZES]),
    )


def log_r_squared(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Return the R² of log errors [sizes, targets], each target's spread taken around its own mean.

    So neither the levels of the targets nor a curve that stays flat, such as that of shuffled labels, raises it.
    """
    logs = np.log(measured)
    misses = ((logs - np.log(predicted)) ** 2).sum()
    return float(1 - misses / ((logs - logs.mean(0)) ** 2).sum())


def largest_factor(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Return by which factor, at least 1, a prediction misses at most."""
    return float(np.exp(np.abs(np.log(measured / predicted)).max()))


def panels(predicted: Prediction, fits: Sequence[Fits]) -> tuple[Panel, ...]:
    """Draw what has been measured so far over the predictions."""
    x, ranks = "training points n", "rank of the eigenvalue"
    seen = "Error over the whole pool for labels ±1: marks are means over training sets, bars their middle 80 %."
    ratio = (
        "Marks at 1 agree with the law; dotted, averaged over targets: the error over only the points not drawn, and "
        "the law if a point drawn twice counted once."
    )
    share = (
        "Which share of an eigenfunction the average fit finds when that is the target: lines λ/(λ+κ), marks measured."
    )
    level = {"level": 1.0, "level_name": "law"}
    return (
        Panel("Learning curves", x, "mean squared error", _errors(predicted, fits), seen, x_log=True, y_log=True),
        Panel("Measured over predicted", x, "error ÷ law", _ratios(predicted, fits), ratio, x_log=True, **level),
        Panel("Eigenfunctions learnt", ranks, "learnability 𝓛", _learnt(predicted, fits), share, x_log=True),
    )


def _errors(predicted: Prediction, fits: Sequence[Fits]) -> tuple[Curve, ...]:
    curves, sizes = [], [one.n for one in fits]
    for group, name in enumerate(TARGETS):
        curves.append(Curve.of(f"{name}, law", "prediction", predicted.grid, predicted.errors[:, group], group=group))
        draws = [one.pool[:, group] for one in fits]
        means = [errors.mean() for errors in draws]
        low, high = ([np.quantile(errors, share) for errors in draws] for share in (0.1, 0.9))
        curves.append(Curve.of(f"{name}, fits", "experiment", sizes, means, group=group, low=low, high=high))
    return tuple(curves)


def _ratios(predicted: Prediction, fits: Sequence[Fits]) -> tuple[Curve, ...]:
    sizes, pairs = [one.n for one in fits], list(zip(fits, predicted.errors[::8], strict=False))
    measured = np.array([one.pool.mean(0) / errors for one, errors in pairs]).reshape(-1, len(TARGETS))
    undrawn = [np.exp(np.log(one.undrawn.mean(0) / errors).mean()) for one, errors in pairs]
    once = np.exp(np.log(predicted.unrepeated / predicted.errors).mean(1))
    return (
        *(Curve.of(name, "experiment", sizes, measured[:, group], group=group) for group, name in enumerate(TARGETS)),
        Curve.of("over points not drawn", "reference", sizes, undrawn, group=len(TARGETS)),
        Curve.of("law, repeats counted once", "reference", predicted.grid, once, group=len(TARGETS) + 1),
    )


def _learnt(predicted: Prediction, fits: Sequence[Fits]) -> tuple[Curve, ...]:
    curves = []
    for group, n in enumerate(SHOWN_SIZES):
        share = predicted.shares[SIZES.index(n)]
        ranks = np.unique(np.geomspace(1, len(share), 60).round().astype(int))
        curves.append(Curve.of(f"n = {n}, law", "prediction", ranks, share[ranks - 1], group=group))
        means = [one.learnability.mean(0) for one in fits if one.n == n]
        curves += [Curve.of(f"n = {n}, fits", "experiment", RANKS, mean, group=group) for mean in means]
    return tuple(curves)


def verdict(size: int, scores: Mapping[str, float | None], law_misses: float, unrepeated_misses: float) -> str:
    """Say how well the law did, by which factor it misses at the largest n, and by which with repeats left out."""
    text = (
        f"log-R² = {scores['log-R²']:.4f} over {len(TARGETS)} targets and {len(SIZES)} sizes: errors are within a "
        f"factor of {scores['largest factor']:.3g} of the law, learnabilities within {scores['learnability error']:.3f}"
    )
    if (scores["log-R²"] or 0) >= REGIME:
        return f"{text}."
    if math.log(unrepeated_misses) > math.log(law_misses) / 2:
        return f"{text}. Choose a larger ridge, a larger pool or less noise."
    n = SIZES[-1]
    return (
        f"{text}. Of {n} draws from a pool of {size:,} only {distinct(n, size):.0f} are different, and with so small a "
        f"ridge a repeat teaches almost nothing: at n = {n} the law misses by a factor of up to {law_misses:.3g}, and "
        f"by {unrepeated_misses:.3g} if repeats count once."
    )


def run(values: Mapping[str, Value], seed: int, device: torch.device, report: Report) -> Outcome:
    """Fit kernel ridge regressions to digits and predict their learning curves."""
    ridge, noise, size = float(values["ridge"]), float(values["noise"]), int(values["pool"])
    generator = torch.Generator().manual_seed(seed)
    report(0.0, f"Finding the eigenvalues of a {size:,} × {size:,} kernel", None)
    home = torch.device("cpu") if device.type == "mps" else device  # MPS has neither float64 nor eigenvalues
    pool = draw_pool(str(values["kernel"]), size, generator, home)
    predicted = predict(pool, ridge, noise)
    dtype = torch.float32 if device.type == "mps" else torch.float64
    kernel, functions, labels = (part.to(device, dtype) for part in (pool.kernel, pool.eigenfunctions, pool.labels))
    pool = Pool(kernel, pool.eigenvalues, functions, labels)
    fits: list[Fits] = []
    for n in SIZES:
        share = 0.4 + 0.6 * sum(SIZES[: len(fits)]) / sum(SIZES)
        message = f"Fitting {draws_of(n)} training sets of {n} points"
        report(share, message, panels(predicted, fits))
        fits.append(measure(pool, n, ridge, noise, generator, partial(report, share, message, None)))
    return compare(size, predicted, fits)


def compare(size: int, predicted: Prediction, fits: Sequence[Fits]) -> Outcome:
    """Score fits at all of `SIZES` against the law."""
    measured, laws = np.stack([one.pool.mean(0) for one in fits]), predicted.errors[::8]
    expected = predicted.shares[:, [rank - 1 for rank in RANKS]]
    scores: dict[str, float | None] = {
        "log-R²": log_r_squared(laws, measured),
        "largest factor": largest_factor(laws, measured),
        "learnability error": float(np.abs(np.stack([one.learnability.mean(0) for one in fits]) - expected).max()),
    }
    facts = {
        "pool": size,
        "training points": list(SIZES),
        "training sets": [draws_of(n) for n in SIZES],
        "different points at the largest n": round(distinct(SIZES[-1], size), 1),
    }
    misses = (largest_factor(rival[-1], measured[-1]) for rival in (laws, predicted.unrepeated))
    return Outcome(panels(predicted, fits), scores, verdict(size, scores, *misses), facts=facts)
