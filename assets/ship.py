"""Put trained networks and precomputed results into `assets/`, and write down in the manifest what made them.

    python assets/ship.py network mnist-unet WEIGHTS.safetensors    copy the weights and record their metadata
    python assets/ship.py presets [NAME …]                          compute the shipped results anew

A network is stored as float16, half the size, unless `--dtype float32` is said. A preset is one image of
`python -m lm_core mosaic` with the parameters below, stored compactly (`MosaicResult.save`).
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lm_core import run  # noqa: E402
from lm_core.artifacts import asset_path, atomic_write, manifest  # noqa: E402
from lm_core.diffusion.weights import load_network, read_metadata, save_network  # noqa: E402
from lm_core.params import MosaicParams  # noqa: E402

PRESETS = {
    "digit": {
        "title": "A digit that never was",
        "lesson": "Strokes of many training digits make a new one, and the network, from the same noise, draws it too.",
        "params": MosaicParams(dataset="mnist", network="unet", seed=0, images=1000),
        "place": {"view": "mosaic", "step": 12, "pin": "12,16"},
    },
    "sleeve": {
        "title": "One sleeve too few",
        "lesson": "Once the window is smaller than the garment, nothing counts the sleeves, and both err alike.",
        "params": MosaicParams(dataset="fashion-mnist", label=2, network="unet", seed=1, images=1000),
        "place": {"view": "image", "step": 19, "pin": "16,3"},
    },
    "emoji": {
        "title": "An emoji chimera",
        "lesson": "Brows, mouths and cheeks of many faces; the briefly trained network has the colours, not the lines.",
        "params": MosaicParams(dataset="emoji", label=0, network="unet", seed=0, images=None),
        "place": {"view": "stitched", "step": 19},
    },
    "memorised": {
        "title": "Memorised!",
        "lesson": "The ideal score machine compares whole images, so it can only return a training image.",
        "params": MosaicParams(dataset="mnist", network="unet", seed=0, images=1000, machine="is"),
        "place": {"view": "image", "step": 19},
    },
    "border": {
        "title": "What the border does",
        "lesson": "A machine without borders (ELS) doesn't know where a digit belongs: it paints digit texture.",
        "params": MosaicParams(dataset="mnist", network="unet", seed=0, images=300, machine="els"),
        "place": {"view": "image", "step": 19},
    },
    "two-images": {
        "title": "Two-image world",
        "lesson": "With two training images every pixel is a vote between a few patches: the theory at its barest.",
        "params": MosaicParams(dataset="mnist", network=None, seed=3, images=2),
        "place": {"view": "mosaic", "step": 14},
    },
}


def record(section: str, name: str, entry: dict) -> None:
    """Write one entry of the manifest, whole or not at all; the others stay as they are."""
    content = json.loads(json.dumps(manifest()))
    content[section][name] = entry
    if section == "presets":
        content[section] = {key: content[section][key] for key in PRESETS if key in content[section]}
    atomic_write(asset_path("manifest.json"), (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def without_folders(command: str) -> str:
    """Shorten the paths of a command to file names: the folders of one machine say nothing elsewhere."""
    return " ".join(Path(word).name if word.endswith(".safetensors") else word for word in command.split())


def ship_network(name: str, weights: Path, dtype: torch.dtype) -> None:
    """Store a network's weights at their place and record what made it."""
    network, config, facts = load_network(weights, torch.device("cpu"))
    for made in filter(None, (facts, facts.get("started_from"))):
        made["command"] = without_folders(made["command"])
    target = asset_path("networks", f"{name}.safetensors")
    save_network(target, network, config, facts, dtype=dtype)
    entry = {"file": f"networks/{target.name}", "sha256": digest(target), "classes": config.classes}
    record("networks", name, entry | read_metadata(target))
    print(f"{name}: {facts['parameters']:,} parameters, loss {facts['loss']}, {target.stat().st_size / 1e6:.1f} MB")


def ship_preset(name: str) -> None:
    """Compute a preset and record it."""
    preset = PRESETS[name]
    result = run.mosaic(preset["params"], on_progress=lambda share, message, partial: None)
    target = asset_path("presets", f"{name}.npz")
    target.parent.mkdir(parents=True, exist_ok=True)
    result.save(target, compact=True)
    entry = {key: preset[key] for key in ("title", "lesson", "place")} | {"params": preset["params"].as_dict()}
    record("presets", name, entry | {"file": f"presets/{target.name}", "sha256": digest(target)})
    scores = {who: round(score["r"], 3) for who, score in result.scores.items()}
    print(f"{name}: r = {scores}, {result.seconds:.0f} s, {target.stat().st_size / 1e6:.2f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    network = commands.add_parser("network")
    network.add_argument("name")
    network.add_argument("weights", type=Path)
    network.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    presets = commands.add_parser("presets")
    presets.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    if options.command == "network":
        ship_network(options.name, options.weights, getattr(torch, options.dtype))
    else:
        for name in options.names or PRESETS:
            ship_preset(name)


if __name__ == "__main__":
    main()
