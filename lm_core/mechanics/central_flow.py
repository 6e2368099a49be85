"""The central flow of a small tanh network: gradient descent's path without its oscillation (Cohen et al. 2025).

The network is f(x) = Σ_j a_j tanh(w_j x + b_j) + c, its loss L = ½ mean (f − y)², its sharpness S the largest
eigenvalue of L's Hessian. Weights are one vector [P = 3h + 1]: w, b, a, c. The flow follows the middle of an
oscillation along one eigenvector; where a second eigenvalue reaches 2/η too, it is approximate. NumPy, float64, CPU.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

FLOW_STEP = 8  # steps of gradient descent in one of a flow; with 2 the default run's mean loss moves by under .1 %
STIFF = 8  # eigenvectors along which a step is exact; all other eigenvalues times the step are far below 1
AT_EDGE = 0.999  # share of 2/η from which the flow's sharpness counts as there


class Local(NamedTuple):
    """The network at its weights: tanh z and tanh′ z [n, h], weights a [h], residuals f − y [n], ∂f/∂weights [n, P]."""

    hidden: np.ndarray
    slope: np.ndarray
    a: np.ndarray
    residual: np.ndarray
    jacobian: np.ndarray

    @property
    def loss(self) -> float:
        return float(self.residual @ self.residual) / (2 * len(self.residual))

    @property
    def gradient(self) -> np.ndarray:
        return self.residual @ self.jacobian / len(self.residual)


class Flow(NamedTuple):
    """A flow at its steps [N]: loss, variance σ², the Hessian's two largest eigenvalues; NaN where it isn't yet."""

    step: np.ndarray
    loss: np.ndarray
    variance: np.ndarray
    sharpness: np.ndarray
    second: np.ndarray


def expand(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> Local:
    """Evaluate the network and its jacobian at weights [P]."""
    w, b, a = weights[:-1].reshape(3, -1)
    hidden = np.tanh(x[:, None] * w + b)
    slope = 1 - hidden**2
    back = slope * a
    jacobian = np.concatenate([x[:, None] * back, back, hidden, np.ones((len(x), 1))], axis=1)
    return Local(hidden, slope, a, hidden @ a + weights[-1] - y, jacobian)


def hessian_times(local: Local, x: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the Hessian (JᵀJ + Σ_i r_i ∇²f_i)/n times vectors [P, m]; ∇²f couples only w, b and a of the same unit."""
    out = local.jacobian.T @ (local.jacobian @ vectors)
    first = local.residual[:, None] * local.slope  # Σ_i over these: ∂²f/∂b∂a, and ∂²f/∂b∂b below
    second = -2 * local.hidden * first * local.a
    ww, wb, bb, wa, ba = (s[:, None] for s in (x**2 @ second, x @ second, second.sum(0), x @ first, first.sum(0)))
    w, b, a = vectors[:-1].reshape(3, -1, vectors.shape[1])
    out[:-1] += np.concatenate([ww * w + wb * b + wa * a, wb * w + bb * b + ba * a, wa * w + ba * b])
    return out / len(x)


def sharpness_gradient(local: Local, x: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return ∇S [P], the gradient of uᵀHu = mean (ḟ² + r f̈) for the top eigenvector u [P], held fixed.

    ḟ and f̈ are the first and second derivatives of f along u.
    """
    t, slope, a, r = local.hidden, local.slope, local.a, local.residual[:, None]
    bend = -2 * t * slope  # tanh″
    third = -2 * slope**2 - 2 * t * bend  # tanh‴
    dw, db, da = direction[:-1].reshape(3, -1)
    dz = x[:, None] * dw + db
    speed = (da * t + a * slope * dz).sum(1, keepdims=True) + direction[-1]
    turn = (2 * da * slope * dz + a * bend * dz**2).sum(1, keepdims=True)
    by_z = 2 * speed * (da * slope + a * bend * dz) + turn * a * slope + r * (2 * da * bend * dz + a * third * dz**2)
    by_a = 2 * speed * slope * dz + turn * t + r * bend * dz**2
    return np.concatenate([x @ by_z, by_z.sum(0), by_a.sum(0), turn.sum(0)]) / len(x)


def top_eigenpairs(local: Local, x: np.ndarray, start: np.ndarray, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the Hessian's largest eigenvalues [m], descending, and eigenvectors [P, m], by subspace iteration.

    Args:
        start: [P, m] a guess, such as the vectors a few steps before; eight of them make one round cut the top vector's
            error by the ratio of the ninth eigenvalue to the first, below .01 in these networks.
    """
    for _ in range(rounds):
        start = np.linalg.qr(hessian_times(local, x, start)).Q
    projected = start.T @ hessian_times(local, x, start)
    values, rotation = np.linalg.eigh((projected + projected.T) / 2)
    return values[::-1], start @ rotation[:, ::-1]


def first_eigenvectors(local: Local, x: np.ndarray) -> np.ndarray:
    """Return the top eigenvectors [P, m] without a guess to start from."""
    guess = np.random.default_rng(0).standard_normal((local.jacobian.shape[1], STIFF))
    return top_eigenpairs(local, x, guess, 30)[1]


def response(force: np.ndarray, values: np.ndarray, vectors: np.ndarray, time: float) -> np.ndarray:
    """Return how far a constant `force` [P] moves weights in `time` against the Hessian's top eigenpairs.

    (1 − e^{−λt})/λ along them, which is exact for a quadratic loss, and t elsewhere, Euler's step.
    """
    return time * force + vectors @ ((-np.expm1(-time * values) / values - time) * (vectors.T @ force))


def central_step(
    local: Local, x: np.ndarray, values: np.ndarray, vectors: np.ndarray, rate: float, time: float
) -> tuple[np.ndarray, float]:
    """Return the central flow's change of weights [P] over `time` steps of descent, and σ² (Cohen et al. 2025).

    ẇ = −η[∇L + ½σ²∇S] with σ² = max(0, −2∇L·∇S/‖∇S‖²) where S = 2/η, else 0. That σ² is what keeps S at 2/η; here it
    does so over a whole step, to first order in ∇S. From above 2/η, where the flow is not defined, S is put down to it
    at once.
    """
    slope = sharpness_gradient(local, x, vectors[:, 0])
    fall = response(-local.gradient, values, vectors, rate * time)
    push = response(-slope / 2, values, vectors, rate * time)
    variance = max(0.0, (values[0] + slope @ fall - 2 / rate) / -(slope @ push))
    return fall + variance * push, variance


def follow(
    weights: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    rate: float,
    steps: int,
    *,
    central: bool,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Flow:
    """Solve gradient flow ẇ = −η∇L, or the central flow, from weights [P]; time is counted in steps of descent.

    Args:
        central: whether to solve the central flow; on_progress: gets the share done; may raise to cancel.

    Ends early where weights are no longer finite.

    Cost: O(nPm + Pm²) a step.
    """
    found = Flow(np.arange(0, steps + 1, FLOW_STEP), *np.full((4, steps // FLOW_STEP + 1), np.nan))
    vectors = first_eigenvectors(expand(weights, x, y), x)
    for k in range(len(found.step)):
        local = expand(weights, x, y)
        values, vectors = top_eigenpairs(local, x, vectors, 1)
        if central:
            change, variance = central_step(local, x, values, vectors, rate, FLOW_STEP)
        else:
            change, variance = response(-local.gradient, values, vectors, rate * FLOW_STEP), 0.0
        found.loss[k], found.variance[k], found.sharpness[k], found.second[k] = local.loss, variance, *values[:2]
        weights = weights + change
        if not np.isfinite(weights).all():
            break
        if k % 50 == 0:
            on_progress(k / len(found.step))
    return found


def arrival(central: Flow, rate: float) -> int | None:
    """Return the step at which the central flow reaches 2/η, None if it doesn't."""
    there = np.flatnonzero(central.sharpness >= AT_EDGE * 2 / rate)
    return int(central.step[there[0]]) if len(there) else None


def predicted_loss(central: Flow, rate: float) -> np.ndarray:
    """Return L + σ²/η [N], the loss averaged over oscillations of variance σ² where S = 2/η (Cohen et al. 2025)."""
    return central.loss + central.variance / rate
