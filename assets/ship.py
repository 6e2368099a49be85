"""Put trained networks and precomputed results into `assets/`, and write down in the manifest what made them.

    python assets/ship.py network mnist-unet WEIGHTS.safetensors    copy the weights and record their metadata
    python assets/ship.py presets [NAME …]                          compute the shipped results anew

A preset is one image of `python -m lm_core mosaic` with the parameters below.
"""

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lm_core import run  # noqa: E402
from lm_core.artifacts import asset_path, atomic_write, manifest  # noqa: E402
from lm_core.diffusion.weights import read_metadata  # noqa: E402
from lm_core.params import MosaicParams  # noqa: E402

PRESETS = {
    "digit": {
        "title": "A digit that never was",
        "lesson": "Strokes from many training digits, one new digit: the network draws nearly the same.",
        "params": MosaicParams(dataset="mnist", network="unet", seed=0, images=1000),
        "place": {"view": "mosaic", "step": 12, "pin": "12,16"},
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


def ship_network(name: str, weights: Path) -> None:
    """Copy a weights file to its place and record what made it."""
    facts = read_metadata(weights)
    target = asset_path("networks", f"{name}.safetensors")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights, target)
    kept = ("parameters", "steps", "images_seen", "loss", "minutes", "device", "torch", "command", "data_sha256")
    entry = {"file": f"networks/{target.name}", "sha256": digest(target), "classes": facts["network"]["classes"]}
    record("networks", name, entry | {"network": facts["network"]} | {key: facts[key] for key in kept})
    print(f"{name}: {facts['parameters']:,} parameters, loss {facts['loss']}, {target.stat().st_size / 1e6:.1f} MB")


def ship_preset(name: str) -> None:
    """Compute a preset and record it."""
    preset = PRESETS[name]
    result = run.mosaic(preset["params"], on_progress=lambda share, message, partial: None)
    target = asset_path("presets", f"{name}.npz")
    target.parent.mkdir(parents=True, exist_ok=True)
    result.save(target)
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
    presets = commands.add_parser("presets")
    presets.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    if options.command == "network":
        ship_network(options.name, options.weights)
    else:
        for name in options.names or PRESETS:
            ship_preset(name)


if __name__ == "__main__":
    main()
