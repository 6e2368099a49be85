"""How alike the representations of independent networks are: random ones predicted, trained ones beside (exhibit e).

Centred kernel alignment of two kernels is ⟨A, B⟩/(‖A‖‖B‖) in the Frobenius product, both centred over the images
(Cortes, Mohri & Rostamizadeh 2012; Kornblith et al. 2019). Everything here is centred, prediction and experiment.

The prediction is derived here. Let φ be one centred feature on all images, K = E φφᵀ, and A = (1/N) Σ φ_i φ_iᵀ the
kernel of N independent, identically distributed features with finite fourth moments. A network's A is K, plus an error
along K, which only rescales it and which alignment doesn't see, plus an error across K of mean square V/N,

    V = E‖φφᵀ − K‖² − Var(φᵀKφ)/‖K‖² = E‖φ‖⁴ − E(φᵀKφ)²/‖K‖².

For two independent networks the errors across K are orthogonal on the mean, so CKA ≈ ‖K‖²/(‖K‖² + V/N). This is exact
to first order in 1/N; further down it takes a ratio of means for the mean of a ratio.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot, unfold

from lm_core.exhibit_params import Value
from lm_core.exhibit_results import Curve, Outcome, Panel, Table
from lm_core.mechanics.digits import CLASSES, PIXELS, digits

FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "cosine": lambda h: (2 * h).cos() + (2 * h).sin(),  # whose K is a Gaussian kernel (Rahimi & Recht 2007)
    "cubic": lambda h: h**3,
}
SMALLEST = 8
NETWORKS, BATCH = 48, 8  # random networks of each width, and how many are computed at once
DRAWS, CHUNK = 65536, 4096  # features that estimate K and V
HELD = 600  # images kept from training, on which alignment is measured
MLP_WIDTHS, CNN_WIDTHS = (8, 16, 32, 64, 128, 256, 512), (8, 16, 32, 64)
MLPS, CNNS, STEPS, BATCH_IMAGES, RATE = 6, 4, 200, 64, 0.01
REPORT_EVERY = 5

Report = Callable[[float, str, Sequence[Panel] | None], None]
Features = Callable[[Sequence[Tensor], Tensor], Tensor]  # of weights [[B, …], …] and images [B or 1, b, …]: [B, N, b]


class Images(NamedTuple):
    """Digits of norm √d: x [n, 64] and labels [n] in random order; the first HELD are never trained on."""

    x: Tensor
    labels: Tensor


class Law(NamedTuple):
    """‖K‖² of a feature, V across K, and E‖φφᵀ − K‖², which forgets that alignment ignores scale."""

    square: float
    across: float
    whole: float


class Trained(NamedTuple):
    """B networks of one shape: unit kernels [B, P²] before and after training, and accuracy on the HELD images."""

    start: Tensor
    kernels: Tensor
    accuracy: float


@dataclass
class Found:
    """What a run has found so far; its panels are drawn from this.

    Attributes:
        judged: "random" or "trained": which networks the law is held against.
        random, mlps, mixed: CKA [pairs] by width: of random networks, of trained MLPs, of trained MLPs with CNNs.
        accuracy: of the trained MLPs, by width; kernels: of the widest CNNs and the MLPs of that width.
    """

    kind: str
    images: int
    judged: str
    widths: list[int]
    law: Law
    random: dict[int, Tensor] = field(default_factory=dict)
    mlps: dict[int, Tensor] = field(default_factory=dict)
    mixed: dict[int, Tensor] = field(default_factory=dict)
    accuracy: dict[int, float] = field(default_factory=dict)
    kernels: dict[str, Tensor] = field(default_factory=dict)

    @property
    def judged_widths(self) -> Sequence[int]:
        """The widths at which the law is held against networks."""
        return self.widths if self.judged == "random" else MLP_WIDTHS

    @property
    def tested(self) -> dict[int, Tensor]:
        """CKA of the networks that the law is held against."""
        return self.random if self.judged == "random" else self.mlps

    def errors(self, gap: Callable[[Law, int], float]) -> list[float]:
        """Return (1 − CKA)/predicted − 1 at each width, the mean over pairs."""
        return [float(1 - pairs.mean()) / gap(self.law, width) - 1 for width, pairs in self.tested.items()]


def draw_images(generator: torch.Generator, device: torch.device | str) -> Images:
    """Return all digits, each scaled to norm √d."""
    images, labels = digits()
    order = torch.randperm(len(images), generator=generator)
    x = images * (PIXELS**0.5 / images.norm(dim=1, keepdim=True))
    return Images(x[order].to(device), labels[order].to(device))


def unit_kernels(features: Tensor) -> Tensor:
    """Return centred kernels of features [B, N, P], flattened and of norm 1: [B, P²]."""
    centred = features - features.mean(-1, keepdim=True)
    kernels = (centred.mT @ centred).flatten(1)
    return kernels / kernels.norm(dim=1, keepdim=True)


def alignments(left: Tensor, right: Tensor | None = None) -> Tensor:
    """Return CKA of every left with every right network from their unit kernels, or of every pair of left ones."""
    if right is not None:
        return (left @ right.mT).flatten()
    row, other = torch.triu_indices(len(left), len(left), offset=1)
    return (left @ left.mT)[row, other]


def random_weights(networks: int, width: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Draw standard normal weights [networks, width, 64]."""
    return torch.randn(networks, width, PIXELS, generator=generator).to(like)


def feature_values(weights: Tensor, x: Tensor, kind: str) -> Tensor:
    """Return φ(w·x/√d) [..., N, P] of weights [..., N, 64] on images [P, 64]."""
    return FEATURES[kind](weights @ x.mT / PIXELS**0.5)


def estimate_law(draw: Callable[[], Iterator[Tensor]]) -> Law:
    """Estimate ‖K‖² and V from M features.

    φ_jᵀKφ_j is taken with the K of the other features, so that its mean is ‖K‖² without bias.

    Args:
        draw: returns an iterator over the same features [m, P] each time.

    Cost: 4 M P² multiplications.
    """
    drawn, kernel = 0, torch.zeros(())
    for part in draw():
        centred = part - part.mean(-1, keepdim=True)
        drawn, kernel = drawn + len(part), kernel.to(part) + centred.mT @ centred
    along, fourth = [], []
    for part in draw():
        centred = part - part.mean(-1, keepdim=True)
        powers = centred.square().sum(-1).square()
        along.append((((centred @ kernel) * centred).sum(-1) - powers) / (drawn - 1))
        fourth.append(powers)
    products, mean_fourth = torch.cat(along).cpu().double(), float(torch.cat(fourth).cpu().double().mean())
    square = float(products.mean())
    return Law(square, mean_fourth - square - float(products.var()) / square, mean_fourth - square)


def predict(kind: str, x: Tensor, generator: torch.Generator, note: Report) -> Law:
    """Estimate ‖K‖² and V of random features on images x [P, 64] from DRAWS of them."""
    weights, chunks = random_weights(1, DRAWS, generator, x)[0], count()

    def draw() -> Iterator[Tensor]:
        for start in range(0, DRAWS, CHUNK):
            note(next(chunks) * CHUNK / (2 * DRAWS), "Estimating K and V", None)  # two passes
            yield feature_values(weights[start : start + CHUNK], x, kind)

    return estimate_law(draw)


def gap(law: Law, width: int) -> float:
    """Return the predicted 1 − CKA, V/(V + N‖K‖²)."""
    return law.across / (law.across + width * law.square)


def gap_with_scale(law: Law, width: int) -> float:
    """Return what 1 − CKA would be if alignment saw the networks' scale: with E‖φφᵀ − K‖² for V."""
    return law.whole / (law.whole + width * law.square)


def mlp_features(kind: str, weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """Return the hidden layer [B, N, b] of MLPs with weights [[B, N, 64]] on images [B or 1, b, 64]."""
    return feature_values(weights[0], x, kind)


def cnn_features(weights: Sequence[Tensor], patches: Tensor) -> Tensor:
    """Return the last hidden layer [B, 16 C, b] of CNNs with C channels: 3×3 of stride 1, ReLU, 2×2 of stride 2, ReLU.

    Args:
        weights: [B, C, 9] and [B, C, 4 C].
        patches: [B or 1, b, 9, 64], see `cut`.
    """
    first, second = weights
    columns = patches.permute(0, 2, 3, 1).flatten(2)  # 9 × (4 offsets in a block · 16 blocks · b)
    hidden = (first @ columns).relu().unflatten(2, (4, -1)).flatten(1, 2)
    return (second @ hidden).relu().unflatten(2, (16, -1)).flatten(1, 2)


def cut(x: Tensor) -> Tensor:
    """Return the 3×3 patches [n, 9, 64] around the pixels of images [n, 64], those of a 2×2 block 16 columns apart."""
    patches = unfold(x.reshape(-1, 1, 8, 8), 3, padding=1)
    return patches.unflatten(2, (4, 2, 4, 2)).permute(0, 1, 3, 5, 2, 4).flatten(2)


def mlp_weights(width: int, generator: torch.Generator, like: Tensor) -> list[Tensor]:
    """Draw MLPS one-hidden-layer networks: the random features' weights and a readout [MLPS, 10, width]."""
    readout = torch.randn(MLPS, CLASSES, width, generator=generator).to(like) / width**0.5
    return [random_weights(MLPS, width, generator, like), readout]


def cnn_weights(channels: int, generator: torch.Generator, like: Tensor) -> list[Tensor]:
    """Draw CNNS convolutional networks and their readouts [CNNS, 10, 16 channels]."""
    shapes = (channels, 9, 2), (channels, 4 * channels, 2), (CLASSES, 16 * channels, 1)  # out, in, gain
    return [
        torch.randn(CNNS, out, fan_in, generator=generator).to(like) * (gain / fan_in) ** 0.5
        for out, fan_in, gain in shapes
    ]


def descend(weights: Sequence[Tensor], features: Features, images: Images, generator: torch.Generator) -> Iterator[int]:
    """Train networks in place by Adam (Kingma & Ba 2015) on cross-entropy, each on batches of its own; yield each step.

    Args:
        weights: of B networks, the readout [B, 10, F] last.
        images: all that they may see.
    """
    moments = [(torch.zeros_like(weight), torch.zeros_like(weight)) for weight in weights]
    for step in range(1, STEPS + 1):
        shape = len(weights[0]), BATCH_IMAGES
        batch = torch.randint(len(images.x), shape, generator=generator).to(images.x.device)
        leaves = [weight.detach().requires_grad_() for weight in weights]
        logits = leaves[-1] @ features(leaves[:-1], images.x[batch])
        loss = cross_entropy(logits, images.labels[batch]) * len(batch)  # the sum of each network's own mean
        for weight, slope, (mean, square) in zip(weights, torch.autograd.grad(loss, leaves), moments, strict=True):
            mean.lerp_(slope, 0.1)
            square.lerp_(slope.square(), 0.001)
            scale = (square / (1 - 0.999**step)).sqrt_().add_(1e-8)
            weight.sub_(mean / scale, alpha=RATE / (1 - 0.9**step))
        yield step


def train(
    weights: Sequence[Tensor],
    features: Features,
    images: Images,
    compared: int,
    generator: torch.Generator,
    note: Callable[[float], None],
) -> Trained:
    """Train networks on all images but the HELD first ones; take their kernels on the first `compared`."""
    start = unit_kernels(features(weights[:-1], images.x[None, :compared]))
    for step in descend(weights, features, Images(*(part[HELD:] for part in images)), generator):
        if step % REPORT_EVERY == 0:
            note(step / STEPS)
    hidden = features(weights[:-1], images.x[None, :HELD])
    hits = (weights[-1] @ hidden).argmax(1) == images.labels[:HELD]
    return Trained(start, unit_kernels(hidden[..., :compared]), float(hits.float().mean()))


def align_random(found: Found, images: Images, generator: torch.Generator, note: Report) -> None:
    """Measure CKA of every pair of NETWORKS random networks at every width."""
    x = images.x[: found.images]
    for i, width in enumerate(found.widths):
        before, each = sum(found.widths[:i]) / sum(found.widths), width / sum(found.widths)
        kernels = []
        for done in range(0, NETWORKS, BATCH):
            message = f"Comparing {NETWORKS} random networks of width {width}"
            note(before + each * done / NETWORKS, message, panels(found) if done == 0 else None)
            kernels.append(unit_kernels(feature_values(random_weights(BATCH, width, generator, x), x, found.kind)))
        found.random[width] = alignments(torch.cat(kernels))


def align_trained(found: Found, images: Images, generator: torch.Generator, note: Report) -> None:
    """Train MLPs and CNNs of every width, and measure CKA of MLPs with MLPs and with CNNs."""
    patches = Images(cut(images.x), images.labels)

    def tell(before: float, width: int) -> Callable[[float], None]:
        """Return a note for networks that take half of a width's share, from `before` on."""
        return lambda share: note((before + share / 2) / len(MLP_WIDTHS), f"Training networks of width {width}", None)

    for i, width in enumerate(MLP_WIDTHS):
        note(i / len(MLP_WIDTHS), f"Training networks of width {width}", panels(found))
        weights = mlp_weights(width, generator, images.x)
        mlps = train(weights, partial(mlp_features, found.kind), images, found.images, generator, tell(i, width))
        found.mlps[width], found.accuracy[width] = alignments(mlps.kernels), mlps.accuracy
        if width in CNN_WIDTHS:
            weights = cnn_weights(width, generator, images.x)
            cnns = train(weights, cnn_features, patches, found.images, generator, tell(i + 0.5, width))
            found.mixed[width] = alignments(mlps.kernels, cnns.kernels)
            found.kernels = {
                "untrained MLPs": mlps.start,
                "untrained CNNs": cnns.start,
                "trained MLPs": mlps.kernels,
                "trained CNNs": cnns.kernels,
            }


def agreement(found: Found, images: Images) -> Table:
    """Return the mean CKA between kinds of networks of the widest CNNs' width, the pixels and the labels."""
    x, labels = (part[: found.images] for part in images)
    kernels = found.kernels | {"pixels": unit_kernels(x.mT[None])}
    kernels["labels"] = unit_kernels(one_hot(labels, CLASSES).to(x).mT[None])
    values = [
        [float(alignments(a, None if a is b and len(a) > 1 else b).mean()) for b in kernels.values()]
        for a in kernels.values()
    ]
    caption = (
        f"Mean CKA on {found.images} digits between networks of width {CNN_WIDTHS[-1]} (CNNs: channels), the raw "
        "pixels and the labels; on the diagonal, between networks of different seeds. The pixels agree too: a high CKA "
        "alone does not show that features were learned."
    )
    return Table.of("Who agrees with whom", tuple(kernels), tuple(kernels), values, caption)


def panels(found: Found) -> tuple[Panel, ...]:
    """Draw what there is so far, the headline first."""
    return _gaps(found), _alignment(found), _errors(found)


def _gaps(found: Found) -> Panel:
    tested, name = found.tested, f"{found.judged} networks"
    values = [(1 - pairs).quantile(pairs.new_tensor([0.05, 0.95])).tolist() for pairs in tested.values()]
    means = [1 - pairs.mean() for pairs in tested.values()]
    low, high = [pair[0] for pair in values], [pair[1] for pair in values]
    line = [gap(found.law, width) for width in found.judged_widths]
    curves = (
        Curve.of("random features, predicted", "prediction", found.judged_widths, line),
        Curve.of(name, "experiment", tuple(tested), means, low=low, high=high),
    )
    networks = NETWORKS if found.judged == "random" else MLPS
    caption = (
        f"1 − CKA of the hidden layers ({found.kind}) of two independent {name} on {found.images} digits: mean and "
        f"5–95 % of all pairs among {networks} networks of each width."
    )
    titles = "Independent networks grow alike", "width N (features)", "1 − CKA"
    return Panel(*titles, curves, caption, x_log=True, y_log=True)


def _alignment(found: Found) -> Panel:
    rows = (
        ("random networks", found.random, False),
        ("trained MLPs", found.mlps, True),
        ("trained MLP and CNN", found.mixed, True),
    )
    curves = [
        Curve.of(
            "random features, predicted", "prediction", found.widths, [1 - gap(found.law, n) for n in found.widths]
        )
    ]
    for group, (name, by_width, joined) in enumerate(rows):
        means = [pairs.mean() for pairs in by_width.values()]
        curves.append(Curve.of(name, "experiment", tuple(by_width), means, group=group, joined=joined))
    caption = (
        f"Mean CKA on {found.images} digits that no network was trained on: after {STEPS} steps even narrow networks "
        "agree, and so do two architectures (their width: hidden units, channels)."
    )
    return Panel(
        "Training makes them agree sooner",
        "width N",
        "CKA",
        tuple(curves),
        caption,
        x_log=True,
        level=1.0,
        level_name="the same up to rotation and scale",
    )


def _errors(found: Found) -> Panel:
    widths = tuple(found.tested)
    curves = (
        Curve.of("error of the prediction", "experiment", widths, found.errors(gap)),
        Curve.of("with E‖φφᵀ − K‖² for V", "reference", widths, found.errors(gap_with_scale)),
    )
    caption = (
        "Measured 1 − CKA over its prediction, less 1; the dotted line takes the kernel's fluctuations for V as they "
        "are, although CKA doesn't see those of its scale."
    )
    return Panel(
        "Error of the prediction",
        "width N",
        "relative error",
        curves,
        caption,
        x_log=True,
        level=0.0,
        level_name="exact",
    )


def scores(found: Found) -> dict[str, float | None]:
    """Return the largest relative error of 1 − CKA over all widths, and how far trained networks agree."""
    measured = {
        "largest error in 1 − CKA": max(map(abs, found.errors(gap))),
        f"CKA of trained MLPs, width {MLP_WIDTHS[0]}": float(found.mlps[MLP_WIDTHS[0]].mean()),
        f"CKA of trained MLPs, width {MLP_WIDTHS[-1]}": float(found.mlps[MLP_WIDTHS[-1]].mean()),
        f"CKA of trained MLP and CNN, width {CNN_WIDTHS[-1]}": float(found.mixed[CNN_WIDTHS[-1]].mean()),
    }
    return {name: value if math.isfinite(value) else None for name, value in measured.items()}


def verdict(found: Found, got: Mapping[str, float | None]) -> str:
    """Say in one sentence how well random features are predicted and what training changes."""
    if None in got.values():
        return f"Some networks of {found.kind} units diverged in training; choose relu or tanh."
    error, narrow, wide, mixed = got.values()
    first, last = MLP_WIDTHS[0], MLP_WIDTHS[-1]
    trained = (
        f"trained MLPs agree with CKA {narrow:.2f} at width {first} and {wide:.3f} at {last}, and MLPs with CNNs with "
        f"{mixed:.2f}"
    )
    if found.judged == "trained":
        return (
            f"At width {first} independent features would give CKA {1 - gap(found.law, first):.2f}, but {trained}: the "
            f"formula misses 1 − CKA by up to {error:.0%}, for training has fitted the units to one task."
        )
    return (
        f"Independent random networks differ as predicted within {error:.1%} of 1 − CKA at every width from "
        f"{found.widths[0]} to {found.widths[-1]}; {trained}."
    )


def run(values: Mapping[str, Value], seed: int, device: torch.device, report: Report) -> Outcome:
    """Compare independent networks' representations, random and trained, with the random-feature prediction."""
    kind, compared, largest = str(values["features"]), int(values["images"]), int(values["width"])
    generator = torch.Generator().manual_seed(seed)

    def part(start: float, end: float) -> Report:
        return lambda share, *rest: report(start + share * (end - start), *rest)

    report(0.0, "Estimating K and V", None)
    images = draw_images(generator, device)
    law = predict(kind, images.x[:compared], generator, part(0, 0.2))
    widths = [SMALLEST << i for i in range(largest.bit_length()) if SMALLEST << i < largest] + [largest]
    found = Found(kind, compared, str(values["networks"]), widths, law)
    align_random(found, images, generator, part(0.2, 0.5))
    align_trained(found, images, generator, part(0.5, 1))
    got = scores(found)
    facts = {
        "random networks of each width": NETWORKS,
        "features that estimate K and V": DRAWS,
        "V/‖K‖² (1 − CKA is ½ at this width)": law.across / law.square,
        "the same with the kernel's scale": law.whole / law.square,
        "images (trained on, compared)": [len(images.x) - HELD, compared],
        "trained MLPs and CNNs of each width": [MLPS, CNNS],
        "steps, images a step, Adam's step size": [STEPS, BATCH_IMAGES, RATE],
        "test accuracy of the MLPs, by width": {str(width): round(share, 4) for width, share in found.accuracy.items()},
    }
    return Outcome(panels(found), got, verdict(found, got), (agreement(found, images),), facts, None in got.values())
