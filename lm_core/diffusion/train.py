"""Train a network on a data set for a time budget: resumable, and every weight file says what made it.

It does not choose data or paths and does not sample images; `python -m lm_core train` does the one, `ddim` the other.
"""

import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from lm_core.artifacts import ImageData
from lm_core.device import bfloat16_is_fast
from lm_core.diffusion.networks import NetworkConfig, build_network, count_parameters, place
from lm_core.diffusion.schedule import COSINE_OFFSET
from lm_core.diffusion.weights import load_network, save_network
from lm_core.errors import ParameterError

LONGEST_STEP = 5.0  # seconds; a longer gap is a machine asleep or a process stopped, and not training time
LOSS_MEMORY = 0.998  # weight of the past in the reported running loss


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train.

    Attributes:
        minutes: time budget of the whole training, resumed parts included.
        batch: images per step.
        learning_rate: peak of Adam's rate: linear warm-up, then a cosine to zero at the end of the budget.
        ema: weight of the past in the moving average of the weights; the average is what is saved.
        objective: "v", the mean squared error of the velocity, or "eps", that of the noise as in the paper. The two
            differ by the weight ᾱ(t): "eps" cares little for how an image looks through much noise.
        seed: of the initial weights and the batches.
    """

    minutes: float = 30.0
    batch: int = 32
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    ema: float = 0.999
    clip: float = 1.0
    objective: str = "v"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.minutes <= 100_000:
            raise ParameterError(f"minutes is {self.minutes}; choose a positive number of minutes.")
        if self.objective not in ("v", "eps"):
            raise ParameterError(f"objective is {self.objective!r}; choose v or eps.")


@dataclass
class TrainState:
    """Everything a training continues from."""

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0
    seconds: float = 0.0
    loss: float = float("nan")
    history: list[tuple[int, float]] = field(default_factory=list)


def start(config: NetworkConfig, train: TrainConfig, device: torch.device) -> TrainState:
    """Return the state before the first step."""
    torch.manual_seed(train.seed)
    network = place(build_network(config), device)
    return TrainState(
        network=network,
        average=copy.deepcopy(network).requires_grad_(False).eval(),
        optimizer=torch.optim.Adam(network.parameters(), lr=train.learning_rate, betas=(0.9, 0.99)),
        generator=torch.Generator(device=device).manual_seed(train.seed),
    )


def denoising_loss(
    network: nn.Module, images: Tensor, labels: Tensor | None, generator: torch.Generator, objective: str = "v"
) -> Tensor:
    """Return the mean squared error of the predicted velocity, or noise, at uniformly drawn times.

    With η̂ = √β x + √ᾱ v̂ the error of the noise is √ᾱ times that of the velocity (Salimans & Ho 2022).

    Args:
        images: [B, C, H, W] in [−1, 1].
        labels: [B] or None.
    """
    t = torch.rand(len(images), generator=generator, device=images.device)
    angle = (torch.pi / 2 / COSINE_OFFSET * t)[:, None, None, None]  # √ᾱ = cos, √β = sin
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    noisy = angle.cos() * images + angle.sin() * noise
    velocity = angle.cos() * noise - angle.sin() * images
    error = network(noisy.contiguous(memory_format=torch.channels_last), t, labels).float() - velocity
    return (error * angle.cos() if objective == "eps" else error).square().mean()


def train_step(state: TrainState, images: Tensor, labels: Tensor | None, train: TrainConfig, rate: float) -> float:
    """Take one Adam step, move the average of the weights, return the loss."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    device = images.device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16_is_fast(device)):
        loss = denoising_loss(state.network, images, labels, state.generator, train.objective)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(state.network.parameters(), train.clip)
    state.optimizer.step()
    memory = min(train.ema, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(state.average.parameters()), list(state.network.parameters()), 1 - memory)
    return float(loss.detach())


def learning_rate(train: TrainConfig, step: int, share_done: float) -> float:
    """Return the rate: linear warm-up times a cosine over the share of the time budget that is spent."""
    warmup = min(1.0, (step + 1) / train.warmup_steps)
    return train.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, share_done)))


def train_network(
    data: ImageData,
    config: NetworkConfig,
    train: TrainConfig,
    out: Path,
    *,
    device: torch.device,
    command: str = "",
    start_from: Path | None = None,
    snapshots: Sequence[float] = (),
    on_progress: Callable[[TrainState, float], None] = lambda state, eta: None,
    report_seconds: float = 15.0,
) -> TrainState:
    """Train until the time budget is spent, then write `out` (safetensors) with all that made it in its metadata.

    A checkpoint beside `out` is written about every two minutes and continued from if it is there; it is removed
    when the training is complete. `start_from` names weights to begin with instead of random ones; what made them is
    kept in the metadata. `snapshots` names minutes after which the average of the weights is written as well, beside
    `out`: OUT-3min.safetensors.

    Raises:
        ParameterError: a checkpoint is there, but of another network or data set; or `start_from` is another network.
    """
    state, checkpoint = start(config, train, device), out.with_suffix(".checkpoint.pt")
    before = begin_with(state, start_from, config) if start_from else None
    facts = {"network": config.as_dict(), "data": data.name, "data_sha256": data.sha256, "batch": train.batch}
    if checkpoint.exists():
        resume(state, checkpoint, facts)
    images = torch.tensor(data.images, device=device)
    labels = torch.tensor(data.labels, device=device) if config.classes else None

    def write(path: Path) -> None:
        made = {"train": asdict(train), "steps": state.step, "images_seen": state.step * train.batch}
        made |= {"loss": round(state.loss, 6), "minutes": round(state.seconds / 60, 2)}
        made |= {"parameters": count_parameters(state.network), "device": device.type, "torch": torch.__version__}
        save_network(path, state.average, config, facts | made | {"command": command, "started_from": before})

    if not all(0 < minutes <= train.minutes for minutes in snapshots):
        raise ParameterError(f"snapshots are {list(snapshots)}; choose minutes above 0 and up to {train.minutes:g}.")
    due = [60 * minutes for minutes in sorted(snapshots) if 60 * minutes > state.seconds]
    last_step = last_report = last_save = time.monotonic()
    while state.seconds < 60 * train.minutes:
        rate = learning_rate(train, state.step, state.seconds / (60 * train.minutes))
        index = torch.randint(len(images), (train.batch,), generator=state.generator, device=device)
        batch = images[index].float() / 127.5 - 1
        loss = train_step(state, batch, labels[index] if labels is not None else None, train, rate)
        state.loss = loss if math.isnan(state.loss) else LOSS_MEMORY * state.loss + (1 - LOSS_MEMORY) * loss
        state.step += 1
        now = time.monotonic()
        state.seconds += min(now - last_step, LONGEST_STEP)
        last_step = now
        if now - last_report > report_seconds:
            last_report = now
            state.history.append((state.step, state.loss))
            on_progress(state, 60 * train.minutes - state.seconds)
        if due and state.seconds >= due[0]:
            write(out.with_name(f"{out.stem}-{due.pop(0) / 60:g}min{out.suffix}"))
        if now - last_save > 120:
            last_save = now
            save_checkpoint(state, checkpoint, facts)
    write(out)
    checkpoint.unlink(missing_ok=True)
    return state


def begin_with(state: TrainState, path: Path, config: NetworkConfig) -> dict:
    """Give a fresh state the weights of a file; returns what made them.

    Raises:
        ParameterError: the file holds another network.
    """
    network, found, metadata = load_network(path, torch.device("cpu"))
    if found != config:
        raise ParameterError(f"{path.name} holds another network ({found}); name weights of {config}.")
    for module in (state.network, state.average):
        module.load_state_dict(network.state_dict())
    kept = ("command", "steps", "images_seen", "loss", "minutes", "train", "data_sha256")
    return {name: metadata.get(name) for name in kept}


def save_checkpoint(state: TrainState, path: Path, facts: dict) -> None:
    """Write the state beside the weights, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(
        {
            "facts": json.dumps(facts, sort_keys=True),
            "network": state.network.state_dict(),
            "average": state.average.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "generator": state.generator.get_state(),
            "progress": [state.step, state.seconds, state.loss],
            "history": state.history,
        },
        temporary,
    )
    temporary.replace(path)


def resume(state: TrainState, path: Path, facts: dict) -> None:
    """Fill the state from a checkpoint.

    Raises:
        ParameterError: the checkpoint is of another network or data set.
    """
    saved = torch.load(path, weights_only=True, map_location=next(state.network.parameters()).device)
    if saved["facts"] != json.dumps(facts, sort_keys=True):
        raise ParameterError(f"{path.name} is of another network, data set or batch size; move it away to start anew.")
    state.network.load_state_dict(saved["network"])
    state.average.load_state_dict(saved["average"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.generator.set_state(saved["generator"].cpu())
    state.step, state.seconds, state.loss = saved["progress"]
    state.history = [tuple(entry) for entry in saved["history"]]
