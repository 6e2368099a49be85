"""Run a machine on an edited training set, and machine and network from an edited noise."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lm_core import run
from lm_core.artifacts import load_dataset
from lm_core.edits import NoiseEdit, TrainingEdit, change, distance_to, radius_holding, reach
from lm_core.params import MosaicParams
from lm_core.progress import quiet
from lm_core.results import MosaicResult

Progress = Callable[[float, str, MosaicResult | None], None]


def edited(params: MosaicParams, edit: TrainingEdit, *, on_progress: Progress = quiet) -> MosaicResult:
    """Make a machine's image from an edited training set; the network of `params` stays what it was trained on."""
    return run.mosaic(params.with_(dataset=edit.dataset), data=edit.apply(), on_progress=on_progress)


def noise_of(params: MosaicParams) -> np.ndarray:
    """Return the starting noise of some parameters' seed, [C, H, W]."""
    from lm_core.diffusion.ddim import starting_noise

    return starting_noise(params.seed, load_dataset(params.dataset).images.shape[1:]).numpy()


@dataclass(frozen=True)
class Influence:
    """What an edit of the noise has changed, machine and network.

    Axis S+1 counts states from the noise to the image, S the estimates at each step.

    Attributes:
        before, after: the two runs.
        region: bool [H, W], where the noise was repainted.
        states, estimates: for "machine" and, if there is one, "network" [S+1, H, W] and [S, H, W]: mean over channels
            of |after − before|.
        state_radius, estimate_radius: the same names, [S+1] and [S]: pixels from the region that hold 90 % of it.
        reach: [S] pixels from the region that the machine's estimate can differ at, at most.
    """

    before: MosaicResult
    after: MosaicResult
    region: np.ndarray
    states: dict[str, np.ndarray]
    estimates: dict[str, np.ndarray]
    state_radius: dict[str, np.ndarray]
    estimate_radius: dict[str, np.ndarray]
    reach: np.ndarray


def influence(
    params: MosaicParams, edit: NoiseEdit, *, before: MosaicResult | None = None, on_progress: Progress = quiet
) -> Influence:
    """Run machine and network from the seed's noise and from the edited one, and measure where they differ.

    Args:
        before: the unedited run, if it is there already.
    """
    whole = before is None
    if before is None:
        before = run.mosaic(params, on_progress=lambda share, say, _: on_progress(share / 2, f"unedited, {say}", None))
    other = noise_of(params.with_(seed=edit.seed)) if edit.brush == "seed" else None

    def report(share: float, say: str, _: MosaicResult | None) -> None:
        on_progress((share + whole) / (1 + whole), f"edited, {say}", None)

    after = run.mosaic(params, noise=edit.apply(before.noise, other), on_progress=report)
    return compare_runs(before, after, edit.region)


def compare_runs(before: MosaicResult, after: MosaicResult, region: np.ndarray) -> Influence:
    """Measure where two runs of the same parameters differ."""
    pairs = {"machine": ("trajectory", "denoised"), "network": ("network_trajectory", "network_denoised")}
    states, estimates = {}, {}
    for who, (state, estimate) in pairs.items():
        if getattr(before, state) is not None and getattr(after, state) is not None:
            states[who] = change(getattr(before, state), getattr(after, state))
            estimates[who] = change(getattr(before, estimate), getattr(after, estimate))
    distance = distance_to(region)
    return Influence(
        before=before,
        after=after,
        region=region,
        states=states,
        estimates=estimates,
        state_radius={who: radius_holding(table, distance) for who, table in states.items()},
        estimate_radius={who: radius_holding(table, distance) for who, table in estimates.items()},
        reach=reach(before.patch_sizes, int(distance.max())),
    )
