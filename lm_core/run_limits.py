"""Where the theory stops, measured: attention's long looks, borders, local consistency. Torch loads on first use."""

import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_core import cifar, run
from lm_core.artifacts import load_dataset, search_paths
from lm_core.device import choose_device
from lm_core.errors import AssetError, ParameterError
from lm_core.params import MAX_SEED, MosaicParams, require_int
from lm_core.progress import Progress, quiet
from lm_core.results import MosaicResult, agreement

if TYPE_CHECKING:
    import torch

STEPS = (5, 10, 20, 50, 100)
GREY_LEVELS = (1, 2, 4, 8, 16, 32)  # of 255 between black and white; one is 1/127.5
BLANK = -0.9  # a pixel darker than this, in the image and in its nearest patch, shows nothing
LIBRARY = 3000  # training images that a network's image is checked against, beside the machine's own
BORDER_PAIRS = {"resnet": "bbels", "resnet-circular": "els"}
ATTENTION_NETWORKS = ("unet-attention", "ddpm-cifar10-32")
SIZE = 32

# -- attention --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttentionRun:
    """A network with self-attention on its way from noise to image.

    Attributes:
        network, seed, label: which; label is None for a network without classes.
        states: [S+1, C, H, W] its noisy states; estimates: [S, C, H, W] what it takes the clean image to be.
    """

    network: str
    seed: int
    label: int | None
    states: np.ndarray
    estimates: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.estimates)


def attention_networks() -> list[str]:
    """Return the networks with self-attention that are on this machine, by name."""
    found = []
    for name in ATTENTION_NETWORKS:
        try:
            run.network_path("cifar10", name)
        except (ParameterError, AssetError):
            continue
        found.append(name)
    return found


def has_cifar() -> bool:
    """Whether the user's CIFAR-10 is on this machine."""
    try:
        cifar.find(search_paths())
    except AssetError:
        return False
    return True


def attention_run(
    network: str, seed: int, *, steps: int = 20, device: str = "auto", on_progress: Progress = quiet
) -> AttentionRun:
    """Sample a network with self-attention from a seed's noise; its weights are enough, no data set is read.

    Args:
        network: a name from `attention_networks`, or a file or folder; with classes it gets seed modulo classes.
    """
    import torch

    from lm_core.diffusion.ddim import sample, starting_noise

    require_int("seed", seed, 0, MAX_SEED)
    on_progress(0.0, "loading the network", None)
    opened = _open(network, device)
    label = seed % opened.classes if opened.classes else None
    start = starting_noise(seed, (opened.channels, SIZE, SIZE))[None].to(choose_device(device))
    states, estimates = [start], []

    def on_step(step: int, denoised: "torch.Tensor", x: "torch.Tensor") -> None:
        estimates.append(denoised)
        states.append(x)
        on_progress((step + 1) / steps, f"step {step + 1} of {steps}", None)

    sample(opened.at(steps, label), start, steps, on_step)
    return AttentionRun(network, seed, label, *(torch.cat(table).cpu().numpy() for table in (states, estimates)))


def attention_theory(
    made: AttentionRun, images: int = 300, *, device: str = "auto", on_progress: Progress = quiet
) -> MosaicResult:
    """Make the boundary-broken machine's image of the same class from the same noise, with its tiles.

    Args:
        images: training images that it draws on.

    Raises:
        AssetError: CIFAR-10 isn't on this machine.
    """
    asked = MosaicParams("cifar10", label=made.label, network=made.network, seed=made.seed, steps=made.steps)
    asked = asked.with_(images=images, engine="fast", patch_sizes=run.default_curve(asked), network=None)
    return run.mosaic(asked, device=device, on_progress=on_progress)


def attention_at(made: AttentionRun, step: int, device: str = "auto") -> dict[str, np.ndarray]:
    """Return where every attention layer looks at one step of a run: layer → float16 [heads, places, places].

    Cost: one evaluation of the network.
    """
    import torch

    from lm_core.diffusion.attention import watch_attention

    require_int("step", step, 0, made.steps - 1)
    opened = _open(made.network, device)
    x = torch.from_numpy(made.states[step])[None].to(choose_device(device))
    with watch_attention(opened.network) as maps:
        opened.at(made.steps, made.label)(x, step)
    return {name: weights[0].half().cpu().numpy() for name, weights in maps.items()}


def beyond_window(weights: np.ndarray, patch_size: int, side: int = SIZE) -> tuple[float, float]:
    """Return the share of attention that goes further than a window, and what it would be if spread evenly.

    Args:
        weights: [heads, places, places] of one layer, places in reading order of a square.
        patch_size: the window P, in pixels of an image of `side` pixels; a place counts as within it if its centre is.
    """
    places = round(weights.shape[-1] ** 0.5)
    centre = (np.arange(places) + 0.5) * side / places
    near = np.abs(centre[:, None] - centre[None]) <= patch_size / 2
    outside = ~(near[:, None, :, None] & near[None, :, None, :]).reshape(places**2, places**2)
    looked = (weights.astype(np.float32).mean(0) * outside).sum(1).mean()
    return float(looked), float(outside.mean())


def _open(network: str, device: str) -> Any:
    from lm_core.diffusion.denoisers import open_network

    return open_network(run.network_path("cifar10", network), choose_device(device))


# -- borders ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BorderRun:
    """Zero-padded and circular networks and their machines from one noise.

    Attributes:
        images: [C, H, W] in [−1, 1] by name: each network of `BORDER_PAIRS`, each of their machines.
        r: Pearson's r of machine and network, by network.
    """

    seed: int
    training_images: int
    images: dict[str, np.ndarray] = field(default_factory=dict)
    r: dict[str, float] = field(default_factory=dict)


def borders(
    seed: int,
    *,
    dataset: str = "mnist",
    images: int = 300,
    steps: int = 20,
    pairs: dict[str, str] | None = None,
    device: str = "auto",
    on_progress: Progress = quiet,
) -> BorderRun:
    """Make both networks' images and both machines' from one seed's noise.

    Args:
        pairs: network → its machine.
        on_progress: gets a `BorderRun` of what is there as soon as something is.
    """
    pairs = pairs or BORDER_PAIRS
    base = MosaicParams(dataset, seed=seed, images=images, steps=steps, engine="fast")
    asked = {name: run.resolve(base.with_(network=name, machine=machine)) for name, machine in pairs.items()}
    chosen = choose_device(device)
    made: dict[str, np.ndarray] = {}
    for name, params in asked.items():
        on_progress(0.02, "the networks", BorderRun(seed, images, dict(made)))
        made[name] = run.network_image(params, run.noise_of(params).to(chosen), chosen)
    scores: dict[str, float] = {}
    for position, (name, params) in enumerate(asked.items()):

        def report(share: float, message: str, partial: Any, position: int = position) -> None:
            done = 0.05 + 0.95 * (position + share) / len(asked)
            on_progress(done, f"machine {position + 1} of {len(asked)}, {message}", None)

        on_progress(0.05 + 0.95 * position / len(asked), "", BorderRun(seed, images, dict(made), dict(scores)))
        result = run.mosaic(params.with_(network=None), device=device, on_progress=report)
        made[params.machine] = result.image
        scores[name] = agreement(result.image, made[name]).r
    return BorderRun(seed, images, made, scores)


def ring_mask(side: int, width: int) -> np.ndarray:
    """Return [side, side], True within `width` pixels of the border."""
    inside = np.zeros((side, side), dtype=bool)
    inside[width : side - width, width : side - width] = True
    return ~inside


def explained_by_place(tiles: np.ndarray) -> float:
    """Return the share of the pixels' variance that their place alone explains, 0 to 1.

    It is the variance over places of the mean image, over the variance of all pixels of all images: near 1 if every
    image puts its ink in the same places, about 1/n if n images put it anywhere.

    Args:
        tiles: [n, H, W].
    """
    values = tiles.astype(np.float64)
    whole = values.var()
    return float(values.mean(0).var() / whole) if whole else float("nan")


def explained_by_chance(tiles: np.ndarray, draws: int = 20, seed: int = 0) -> float:
    """Return what `explained_by_place` comes to when each image is first rolled to a random place; mean of draws."""
    source, side = np.random.default_rng(seed), tiles.shape[1:]
    rolled = [
        explained_by_place(np.stack([np.roll(tile, source.integers(0, side), (0, 1)) for tile in tiles]))
        for _ in range(draws)
    ]
    return float(np.mean(rolled))


def ring_share(tiles: np.ndarray, width: int) -> np.ndarray:
    """Return for each image the share of its ink that lies within `width` pixels of the border, [n], NaN if blank.

    Args:
        tiles: uint8 [n, H, W], ink is light.
    """
    ink = tiles.astype(np.float64)
    total = ink.sum((1, 2))
    near = ink[:, ring_mask(tiles.shape[1], width)].sum(1)
    return np.divide(near, total, out=np.full(len(tiles), np.nan), where=total > 0)


# -- local consistency ------------------------------------------------------------------------------------------------


def consistency(
    params: MosaicParams,
    steps: Sequence[int] = STEPS,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    *,
    library: int | None = LIBRARY,
    device: str = "auto",
    on_progress: Progress = quiet,
) -> dict[str, Any]:
    """Measure which share of an image's pixels is not the centre of its nearest allowed training patch.

    Three checks of each image: the machine's against its own training images, the network's against the same ones, and
    the network's against a larger library, since it was trained on more images than the machine draws on.

    Args:
        params: its seed, steps and patch sizes are not used; windows are the published curve's.
        steps: numbers of DDIM steps to try.
        library: how many images that library has, the first ones; None for all.
        on_progress: gets the dictionary of what is there after every number of steps.

    Returns:
        JSON-ready: per_seed [{seed, label, shares {check: {steps: {levels: share}}}, inked {…}}] for each tolerance of
        `GREY_LEVELS`, of all pixels and of those that aren't blank; pictures {steps: {check: {image, difference}}} of
        the first seed, packed by `pack`, the difference in quarter grey levels; patch_size of the check; provenance;
        seconds.
    """
    if not params.network:
        raise ParameterError("network is missing; name the network to check beside the machine.")
    if params.machine not in ("ls", "els", "bbels"):
        raise ParameterError(f"machine is {params.machine!r}; the theorem is about ls, els and bbels.")
    if not steps or not seeds:
        raise ParameterError("steps or seeds are empty; give at least one of each.")
    began, most = time.monotonic(), max(steps)
    window = run.resolve(params.with_(steps=most, patch_sizes=None))
    classmates = load_dataset(params.dataset).take(None, window.label).images
    library = min(library or len(classmates), len(classmates))
    facts: dict[str, Any] = {
        "dataset": params.dataset,
        "network": params.network,
        "machine": params.machine,
        "images": window.images,
        "library": library,
        "steps": list(steps),
        "seeds": list(seeds),
        "grey_levels": list(GREY_LEVELS),
        "patch_size": (window.patch_sizes or (3,))[-1],
        "per_seed": [],
        "pictures": {},
        "provenance": run.provenance(params),
    }
    work = len(seeds) * (sum(steps) + 10 * len(steps))  # a check of both images costs about ten steps
    done = 0
    for seed in seeds:
        row: dict[str, Any] = {"seed": seed, "label": None, "shares": {}, "inked": {}}
        facts["per_seed"].append(row)
        for count in steps:
            one = run.resolve(params.with_(seed=seed, steps=count, patch_sizes=None))
            row["label"] = one.label

            def say(step: int, done: int = done, seed: int = seed, count: int = count) -> None:
                on_progress((done + step) / work, f"seed {seed}, step {step} of {count}", None)

            pictures = _check_images(one, facts["patch_size"], library, device, say)
            done += count + 10
            for who, (_, difference, inked) in pictures.items():
                row["shares"].setdefault(who, {})[str(count)] = _shares(difference)
                row["inked"].setdefault(who, {})[str(count)] = _shares(difference[inked])
            if seed == seeds[0]:
                facts["pictures"][str(count)] = {
                    who: {"image": pack(image), "difference": pack_difference(difference)}
                    for who, (image, difference, _) in pictures.items()
                }
            facts["seconds"] = round(time.monotonic() - began, 1)
            on_progress(done / work, f"seed {seed}, {count} steps", _snapshot(facts))
    return facts


def _check_images(
    params: MosaicParams, patch_size: int, library: int, device: str, say: Callable[[int], None]
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Make a machine's and a network's image and check them; by check: image [C, H, W], difference [H, W], inked."""
    import torch

    from lm_core.diffusion.ddim import sample
    from lm_core.diffusion.schedule import alpha_bar, step_times
    from lm_core.score.consistency import check_consistency

    chosen = choose_device(device)
    start = run.noise_of(params).to(chosen)
    engine, levels = run.engine_for(params, str(chosen)), alpha_bar(step_times(params.steps))
    sizes = params.patch_sizes or ()
    machine = sample(
        lambda x, step: engine.denoise(x, float(levels[step]), sizes[step]).mean,
        start,
        params.steps,
        lambda step, denoised, x: say(step + 1),
    )
    network = torch.from_numpy(run.network_image(params, start, chosen))[None].to(chosen)
    found = {}
    wider = params.with_(images=min(library, len(load_dataset(params.dataset).take(None, params.label).images)))
    for who, image, asked in (
        ("machine", machine, params),
        ("network", network, params),
        ("network-library", network, wider),
    ):
        data = load_dataset(asked.dataset).take(asked.images, asked.label)
        checked = check_consistency(run.engine_for(asked, str(chosen)), data.images, image, patch_size)
        shown = torch.maximum(image, checked.nearest).amax(1)[0] > BLANK
        found[who] = (image[0].cpu().numpy(), checked.difference[0].cpu().numpy(), shown.cpu().numpy())
    return found


def _shares(difference: np.ndarray) -> dict[str, float | None]:
    """Return the share of pixels that differ by more than each tolerance, None where there is no pixel."""
    if not difference.size:
        return {str(level): None for level in GREY_LEVELS}
    return {str(level): round(float((difference > level / 127.5).mean()), 5) for level in GREY_LEVELS}


def _snapshot(facts: dict[str, Any]) -> dict[str, Any]:
    """Copy what grows, so that a page may draw it while the work goes on."""
    rows = [
        row | {name: {who: dict(table) for who, table in row[name].items()} for name in ("shares", "inked")}
        for row in facts["per_seed"]
    ]
    return facts | {"per_seed": rows, "pictures": dict(facts["pictures"])}


def pack(image: np.ndarray) -> str:
    """Turn [C, H, W] in [−1, 1] into text: base64 of its bytes, a byte a channel."""
    return base64.b64encode(np.clip((image + 1) * 127.5, 0, 255).round().astype(np.uint8).tobytes()).decode()


def pack_difference(difference: np.ndarray) -> str:
    """Turn differences [H, W] on [−1, 1] into text: base64 of bytes that count quarter grey levels, 255 for more.

    They are rounded up, so that what exceeds a whole number of levels still does.
    """
    return base64.b64encode(np.clip(np.ceil(difference * 127.5 * 4), 0, 255).astype(np.uint8).tobytes()).decode()


def unpack(text: str, channels: int = 1, side: int = SIZE) -> np.ndarray:
    """Return what `pack` wrote, uint8 [C, side, side]; of `pack_difference`, [1, side, side] quarter grey levels.

    Raises:
        AssetError: it isn't that many bytes.
    """
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), np.uint8).reshape(channels, side, side)
    except ValueError as error:
        raise AssetError(f"a packed picture is damaged ({error}); make the file again.") from None
