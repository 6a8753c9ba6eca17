"""Data sets as people have them, made from what packages ship or drawn here; always the same."""

import csv
import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Pixels = NDArray[np.uint8]
FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts its files; ``--fashion`` names another place."""
_PHOTOS = (
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png"),
    *("hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg"),
)
_CUT = 0.62
"""Training images are cut from this share of a photograph, at its left; test images from the rest."""


@dataclass(frozen=True, slots=True)
class OwnSet:
    """A data set to search on.

    Args:
        make: Writes its files into a folder; returns what ``--data`` names.
        about: What is in it, in words.
        mirrored: Whether somebody who knows the images would mirror them in training.
        options: Options of the command that the data need.
        seconds: Budget; ``None``: the usual one.
        needs: Module without which it can't be made; ``None``: none.
    """

    make: Callable[[Path], Path]
    about: str
    mirrored: bool
    options: tuple[str, ...] = ()
    seconds: float | None = None
    needs: str | None = None

    def missing(self) -> str | None:
        """What it takes and is not there; ``None``: nothing."""
        return self.needs if self.needs is not None and find_spec(self.needs) is None else None


def photograph(name: str) -> Image.Image:
    """A sample of scikit-image or scikit-learn, in colour."""
    module = find_spec("sklearn" if name in ("china.jpg", "flower.jpg") else "skimage")
    assert module is not None
    assert module.origin is not None
    inner = "datasets/images" if "sklearn" in module.origin else "data"
    return Image.open(Path(module.origin).parent / inner / name).convert("RGB")


def cut(photo: Image.Image, side: int, rng: np.random.Generator, *, test: bool) -> Image.Image:
    """A square of a photograph at random place, scale and turn, and in other light; training and test never overlap."""
    width, height = photo.size
    left, right = (_CUT * width, width) if test else (0, _CUT * width)
    extent = rng.uniform(0.55, 0.95) * min(right - left, height)
    box = rng.uniform(left, right - extent), rng.uniform(0, height - extent)
    part = photo.crop((*map(round, box), round(box[0] + extent), round(box[1] + extent)))
    part = part.resize((side, side), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    light, tint = rng.uniform(0.6, 1.3), rng.uniform(0.85, 1.15, 3)
    noise = rng.normal(0, 8, (side, side, 3))
    return Image.fromarray((np.asarray(part) * light * tint + noise).clip(0, 255).astype(np.uint8))


def _photos(folder: Path, names: Sequence[str], counts: Sequence[int], *, tests: int, side: int | None) -> Path:
    """JPEGs of a side, or of sides from 48 to 320 (``None``), with the photograph that they are cut from as label."""
    rng = np.random.default_rng(0)
    for name, train in zip(names, counts, strict=True):
        photo = photograph(name)
        for split, count in (("train", train), ("test", tests)):
            for number in range(count):
                size = side or int(rng.integers(48, 320))
                image = cut(photo, size, rng, test=split == "test")
                if side is None:  # neither is the shape always the same
                    image = image.resize((size, round(size * rng.uniform(0.6, 1.6))))
                image.save(_target(folder, split, Path(name).stem) / f"{number:04}.jpg", quality=88)
    return folder


def _target(folder: Path, split: str, label: str) -> Path:
    place = folder / split / label
    place.mkdir(parents=True, exist_ok=True)
    return place


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib as mpl

    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size=size)


_STYLES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSans-Oblique")


def sign(text: str, side: int, rng: np.random.Generator, *, styles: Sequence[str] = _STYLES) -> Image.Image:
    """A sign in one colour on a ground of another, turned, moved and noisy."""
    mask = Image.new("L", (2 * side, 2 * side))
    font = _font(styles[rng.integers(len(styles))], round(side * rng.uniform(0.9, 1.4)))
    ImageDraw.Draw(mask).text((side, side), text, fill=255, font=font, anchor="mm")
    moved = tuple(rng.uniform(-0.15, 0.15, 2) * side)
    mask = mask.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR, translate=moved).resize((side, side))
    ink = np.asarray(mask, dtype=np.float64)[..., None] / 255
    ground, colour = _apart(rng)
    light = np.linspace(-1, 1, side)[:, None, None] * rng.uniform(-40, 40, 3)
    noise = rng.normal(0, rng.uniform(4, 20), (side, side, 3))
    return Image.fromarray((ground + light + (colour - ground) * ink + noise).clip(0, 255).astype(np.uint8))


def _apart(rng: np.random.Generator) -> NDArray[np.float64]:
    """Two colours that differ in brightness, float64 [2, 3]."""
    while True:
        found = rng.uniform(20, 235, (2, 3))
        if abs(found[0].mean() - found[1].mean()) >= 60:
            return found


def _signs(folder: Path, texts: Sequence[str], *, side: int, train: int, tests: int) -> Path:
    rng = np.random.default_rng(1)
    for number, text in enumerate(texts):
        for split, count in (("train", train), ("test", tests)):
            for index in range(count):
                sign(text, side, rng).save(_target(folder, split, f"sign-{number:03}") / f"{index:03}.png")
    return folder


def _many_signs(count: int) -> list[str]:
    """Arrows and mathematical signs that the fonts draw, no two of them alike."""
    found: dict[bytes, str] = {}
    empty = bytes(_font("DejaVuSansMono", 32).getmask("\uffff"))
    for code in (*range(0x2190, 0x2200), *range(0x2200, 0x2300), *range(0x25A0, 0x2600)):
        drawn = bytes(_font("DejaVuSansMono", 32).getmask(chr(code)))
        if drawn != empty:
            found.setdefault(drawn, chr(code))
    return list(found.values())[:count]


def _letters(folder: Path, *, wrong: float) -> Path:
    """The package's own letters as files, some of the training labels wrong."""
    from graftwork.datasets import load_dataset

    letters, rng = load_dataset("letters"), np.random.default_rng(2)
    for number, (image, label) in enumerate(zip(letters.images, letters.labels.tolist(), strict=True)):
        split = "test" if number % 5 == 0 else "train"
        told = int(rng.integers(26)) if split == "train" and rng.random() < wrong else label
        Image.fromarray(image).save(_target(folder, split, letters.class_names[told]) / f"{number:04}.png")
    return folder


def _textures(folder: Path) -> Path:
    """Grey stripes, checks, spots, waves and noise of two grains at 48 pixels, in changing light and size."""
    rng, side = np.random.default_rng(3), 48
    rows, columns = np.mgrid[:side, :side].astype(float)
    for label in ("stripes", "checks", "rings", "waves", "fine", "coarse"):
        for number in range(170):
            angle, width = rng.uniform(0, np.pi), rng.uniform(1.5, 4)
            along = (rows * np.cos(angle) + columns * np.sin(angle)) / width + rng.uniform(0, 6)
            across = (columns * np.cos(angle) - rows * np.sin(angle)) / width + rng.uniform(0, 6)
            far = np.hypot(rows - rng.uniform(0, side), columns - rng.uniform(0, side)) / width
            drawn = {
                "stripes": np.sin(along),
                "checks": np.sin(along) * np.sin(across),
                "rings": np.sin(far),
                "waves": np.sin(along + 1.2 * np.sin(across / 2)),
                "fine": rng.normal(0, 1, (side, side)),
                "coarse": _blurred(rng, side, width),
            }[label]
            noisy = 128 + rng.uniform(15, 45) * drawn + rng.normal(0, 35, (side, side)) + rng.uniform(-40, 40)
            split = "test" if number < 50 else "train"
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(_target(folder, split, label) / f"{number}.png")
    return folder


def _blurred(rng: np.random.Generator, side: int, width: float) -> NDArray[np.float64]:
    noise = Image.fromarray(rng.normal(128, 50, (side, side)).clip(0, 255).astype(np.uint8))
    values = np.asarray(noise.filter(ImageFilter.GaussianBlur(width / 2)), dtype=np.float64)
    return (values - values.mean()) / values.std()


def _cells(folder: Path) -> Path:
    """Grey images of 16 bits and 128×128 pixels, few of whose levels are used: cells that differ in shape."""
    rng, side = np.random.default_rng(4), 128
    rows, columns = np.mgrid[:side, :side]
    for label in ("round", "long", "hollow", "paired"):
        for number in range(160):
            light = np.zeros((side, side))
            for _ in range(rng.integers(6, 18)):
                angle, size = rng.uniform(0, np.pi), rng.uniform(4, 8)
                place = rng.uniform(0, side, 2)
                for part in range(2 if label == "paired" else 1):
                    down, right = rows - place[0] - 2 * part * size, columns - place[1]
                    along = down * np.cos(angle) + right * np.sin(angle)
                    across = right * np.cos(angle) - down * np.sin(angle)
                    far = np.hypot(along / (2.2 if label == "long" else 1), across) / size
                    light += np.exp(-((far - 1) ** 2) / 0.08) if label == "hollow" else np.exp(-(far**4))
            values = 300 + rng.uniform(60, 240) * light + rng.normal(0, 60, (side, side))
            split = "test" if number < 50 else "train"
            Image.fromarray(values.clip(0, 4095).astype(np.uint16)).save(
                _target(folder, split, label) / f"{number}.png"
            )
    return folder


def _shapes(folder: Path) -> Path:
    """Filled shapes of 96×96 pixels on a transparent ground, whose hidden colours are noise."""
    rng, side = np.random.default_rng(5), 96
    corners = {"triangle": 3, "square": 4, "pentagon": 5, "heptagon": 7, "star": 10, "cross": 12, "circle": 40}
    for label, count in corners.items():
        for number in range(110):
            angles = np.arange(count) * 2 * np.pi / count + rng.uniform(0, 6)
            reach = rng.uniform(0.2, 0.42) * side * np.where(np.arange(count) % 2, 0.45 if label == "star" else 1, 1)
            reach = reach * (np.where(np.arange(count) % 3 == 0, 0.5, 1) if label == "cross" else 1)
            middle = side / 2 + rng.uniform(-0.08, 0.08, 2)[:, None] * side
            points = middle + reach * np.stack([np.cos(angles), np.sin(angles)])
            mask = Image.new("L", (side, side))
            ImageDraw.Draw(mask).polygon([tuple(point) for point in points.T], fill=int(rng.integers(150, 256)))
            colour = np.broadcast_to(rng.integers(0, 200, 3), (side, side, 3)) * (np.asarray(mask)[..., None] > 0)
            hidden = rng.integers(0, 256, (side, side, 3)) * (np.asarray(mask)[..., None] == 0)
            image = Image.fromarray((colour + hidden).astype(np.uint8))
            image.putalpha(mask)
            split = "test" if number < 40 else "train"
            image.save(_target(folder, split, label) / f"{number}.png")
    return folder


def _table(folder: Path, rows: Iterator[Mapping[str, str]]) -> Path:
    listed = list(rows)
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(listed[0]))
        writer.writeheader()
        writer.writerows(listed)
    return folder / "images.csv"


def _digits(folder: Path) -> Path:
    """scikit-learn's digits of 8×8 pixels, in one folder, with a table that says label and split."""
    from sklearn.datasets import load_digits

    found = load_digits()
    (folder / "all").mkdir(parents=True, exist_ok=True)

    def rows() -> Iterator[Mapping[str, str]]:
        for number, (image, label) in enumerate(zip(found.images, found.target, strict=True)):
            Image.fromarray((image * 15).astype(np.uint8)).save(folder / "all" / f"{number}.png")
            yield {"path": f"all/{number}.png", "label": str(label), "split": "test" if number % 4 == 0 else "train"}

    return _table(folder, rows())


def _patients(folder: Path) -> Path:
    """48 patients of three diagnoses, 20 images each, with light and tint that tell the patient and not what he has."""
    rng, side = np.random.default_rng(6), 64
    (folder / "all").mkdir(parents=True, exist_ok=True)
    rows_, columns = np.mgrid[:side, :side]

    def rows() -> Iterator[Mapping[str, str]]:
        for patient in range(48):
            tint, light, label = (
                rng.uniform(70, 200, 3),
                rng.uniform(-1, 1, 2),
                ("spots", "lines", "clear")[patient % 3],
            )
            for number in range(20):
                drawn = np.zeros((side, side))
                for _ in range(0 if label == "clear" else rng.integers(3, 9)):
                    angle, (down, right) = rng.uniform(0, np.pi), rng.uniform(5, side - 5, 2)
                    along = (rows_ - down) * np.cos(angle) + (columns - right) * np.sin(angle)
                    across = (columns - right) * np.cos(angle) - (rows_ - down) * np.sin(angle)
                    drawn += np.exp(-((along / (9 if label == "lines" else 3)) ** 2) - (across / 2) ** 2)
                shade = 30 * (light[0] * rows_ + light[1] * columns)[..., None] / side
                values = tint + shade - 28 * drawn[..., None] + rng.normal(0, 14, (side, side, 3))
                name = f"all/{patient}-{number}.png"
                Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(folder / name)
                split = "test" if patient < 15 else "train"
                yield {"path": name, "label": label, "patient": f"p{patient}", "split": split}

    return _table(folder, rows())


def _faces(folder: Path) -> Path:
    """scikit-image's 100 faces and 100 other images of 25×25 pixels."""
    module = find_spec("skimage")
    assert module is not None
    assert module.origin is not None
    images = np.load(Path(module.origin).parent / "data" / "lfw_subset.npy")
    for number, image in enumerate(images):
        target = _target(folder, "test" if number % 5 < 2 else "train", "face" if number < 100 else "other")
        Image.fromarray((255 * image).round().astype(np.uint8)).save(target / f"{number}.png")
    return folder


def fashion(folder: Path, *, train: int = 12_000, tests: int = 10_000) -> Path:
    """Fashion-MNIST: the first images of its training and its test split."""
    for split, name, most in (("train", "train", train), ("test", "t10k", tests)):
        with gzip.open(FASHION / f"{name}-images-idx3-ubyte.gz") as file:
            images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)[:most]
        with gzip.open(FASHION / f"{name}-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read(), np.uint8, offset=8)[:most]
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            Image.fromarray(image).save(_target(folder, split, str(label)) / f"{number:05}.png")
    return folder


_UNEVEN = ("brick.png", "grass.png", "gravel.png", "ihc.png", "retina.jpg")
_ALL = (*_PHOTOS, "china.jpg", "flower.jpg")

SETS: Mapping[str, OwnSet] = {
    "letters": OwnSet(lambda folder: Path("letters"), "the package's letters, 4,160 of 16×16", mirrored=False),
    "clear-letters": OwnSet(
        lambda folder: _signs(folder, "abcdefghijklmnopqrstuvwxyz", side=32, train=110, tests=40),
        "26 letters in colour, 32×32, 110 of each to train on",
        mirrored=False,
    ),
    "photos": OwnSet(
        lambda folder: _photos(folder, _ALL, [100] * 15, tests=35, side=224),
        "2,025 JPEGs of 224×224, cut from 15 photographs: training and test images from different parts",
        mirrored=True,
        needs="skimage",
    ),
    "ten-a-class": OwnSet(
        lambda folder: _photos(folder, _ALL[:10], [14] * 10, tests=40, side=160),
        "ten classes of 14 training images, JPEGs of 160×160 (10 are left to train on)",
        mirrored=True,
        needs="skimage",
    ),
    "mixed-sizes": OwnSet(
        lambda folder: _photos(folder, _ALL[3:13], [80] * 10, tests=40, side=None),
        "ten photographs, JPEGs of sides from 30 to 510 pixels",
        mirrored=True,
        needs="skimage",
    ),
    "uneven": OwnSet(
        lambda folder: _photos(folder, _UNEVEN, [500, 200, 80, 35, 15], tests=40, side=64),
        "five classes of 500, 200, 80, 35 and 15 training images, 64×64",
        mirrored=True,
        needs="skimage",
    ),
    "textures": OwnSet(_textures, "six textures in noise, grey, 48×48, 120 of each to train on", mirrored=True),
    "30-classes": OwnSet(
        lambda folder: _signs(folder, _many_signs(30), side=64, train=40, tests=20),
        "30 arrows, 64×64, 40 of each to train on",
        mirrored=False,
    ),
    "300-classes": OwnSet(
        lambda folder: _signs(folder, _many_signs(300), side=32, train=20, tests=5),
        "300 arrows and mathematical signs, 32×32, 20 of each to train on",
        mirrored=False,
    ),
    "16-bit": OwnSet(_cells, "four kinds of cells, grey of 16 bits, 128×128, 110 of each to train on", mirrored=True),
    "transparent": OwnSet(_shapes, "seven shapes, RGBA of 96×96, 70 of each to train on", mirrored=True),
    "csv": OwnSet(_digits, "scikit-learn's digits, 8×8, by a CSV file", mirrored=False),
    "patients": OwnSet(
        _patients,
        "three diagnoses of 48 patients, 64×64, by a CSV file with groups",
        mirrored=True,
        options=("--group-column", "patient"),
    ),
    "wrong-labels": OwnSet(
        lambda folder: _letters(folder, wrong=0.05), "the letters with 5 % of the training labels wrong", mirrored=False
    ),
    "faces": OwnSet(
        _faces, "100 faces and 100 others of 25×25, 60 of each to train on", mirrored=True, needs="skimage"
    ),
    "fashion": OwnSet(fashion, "Fashion-MNIST, 12,000 training images", mirrored=True, seconds=120),
}
