"""A folder of images: what lies in it, which image is of which split and class, and what is left out."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hfdiff.core.errors import BadInput
from hfdiff.data.decoding import image_formats
from hfdiff.data.registry import TEST_NAMES, VALIDATION_NAMES

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
TRAIN_NAMES = ("train", "training")
# Folders that people keep images in, which name no class.
CONTAINERS = frozenset(("image", "images", "img", "imgs", "jpegimages"))
MASKS = frozenset(("annotations", "groundtruth", "gt", "mask", "masks", "segmentation", "segmentations"))


@dataclass
class Listing:
    """The files below a folder, by what they are; each in the order of its path."""

    images: list[Path] = field(default_factory=list)
    metadata: list[Path] = field(default_factory=list)
    parquet: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    hidden: int = 0

    def left_out(self) -> list[str]:
        """What is not read, in words; empty where all is."""
        kinds = Counter(path.suffix.lower() or "no suffix" for path in self.others)
        others = ", ".join(f"{kind} {count:,}" for kind, count in sorted(kinds.items()))
        hidden = f"{self.hidden:,} hidden" if self.hidden else ""
        words = "; ".join(
            filter(
                None,
                (f"{len(self.others):,} other file{'s' * (len(self.others) > 1)} ({others})" if others else "", hidden),
            )
        )
        return [f"left out: {words}"] if words else []


def list_files(folder: Path) -> Listing:
    """All below the folder, links inside it followed; BadInput for a link to what holds it."""
    listing = Listing()
    suffixes = image_formats()
    for place, folders, names in os.walk(folder, followlinks=True):
        if Path(place).is_symlink() and Path(place).parent.resolve().is_relative_to(Path(place).resolve()):
            raise BadInput(f"{place} is a link to a folder that it lies in; take it away")
        shown = [name for name in folders if not is_hidden(name)]
        listing.hidden += len(folders) - len(shown)
        folders[:] = shown
        for path in (Path(place, name) for name in names):
            kind = listing.others
            if is_hidden(path.name):
                listing.hidden += 1
                continue
            if path.name.lower() in METADATA:
                kind = listing.metadata
            elif path.suffix.lower() == ".parquet":
                kind = listing.parquet
            elif path.suffix.lower() in suffixes:
                kind = listing.images
            kind.append(check_text(path))
    for kind in (listing.images, listing.metadata, listing.parquet, listing.others):
        kind.sort(key=str)
    return listing


def is_hidden(name: str) -> bool:
    """What file managers and archives leave behind."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def check_text(path: Path) -> Path:
    """BadInput for a name of bytes that are no text."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"the name {str(path)!r} holds bytes that are no UTF-8; rename it") from error
    return path


@dataclass
class Tree:
    """A folder: the images that lie directly in it, and the folders that hold some."""

    place: Path
    loose: list[Path] = field(default_factory=list)
    folders: dict[str, "Tree"] = field(default_factory=dict)

    @classmethod
    def of(cls, place: Path, images: Iterable[Path]) -> "Tree":
        top = cls(place)
        for image in images:
            tree = top
            for name in image.relative_to(place).parts[:-1]:
                tree = tree.folders.setdefault(name, cls(tree.place / name))
            tree.loose.append(image)
        return top

    def images(self) -> Iterator[Path]:
        yield from self.loose
        for tree in self.folders.values():
            yield from tree.images()


def find_splits(root: Tree) -> dict[str, Tree]:
    """Split -> the folder with its images; all is "train" where no folders are named after splits.

    They may lie in a folder that holds nothing else, each may hold one of its own name, and may say more than its
    split ("seg_train", "train_images"). BadInput where something else lies beside them.
    """
    tree = root
    while not tree.loose:
        if names := split_names(tree):
            return {split: _undoubled(tree.folders[name]) for name, split in names.items()}
        if len(tree.folders) != 1:
            break
        tree = next(iter(tree.folders.values()))
    return {"train": root}


def split_names(tree: Tree) -> dict[str, str]:
    """Folder -> its split, where the folders are named after splits, and not after classes."""
    exact = {name: split for name in tree.folders if (split := split_of(name))}
    if tree.folders and len(exact) == len(tree.folders):
        return _each_once(exact, tree.place)
    alike = {name: split for name in tree.folders if (split := _split_word(name)[0])}
    nested = not any(inside.loose for inside in tree.folders.values())
    if len(alike) == len(tree.folders) and nested and "train" in alike.values():
        return _each_once(alike, tree.place)
    if any(tree.folders[name].folders for name in exact):
        others = ", ".join(name for name in tree.folders if name not in exact)
        raise BadInput(f"the folder {tree.place} holds splits ({', '.join(exact)}) beside {others}: move those away")
    return {}


def split_of(name: str) -> str | None:
    """ "train", "validation" or "test", where a folder's name means one."""
    names = {"train": TRAIN_NAMES, "validation": VALIDATION_NAMES, "test": TEST_NAMES}
    return next((split for split, words in names.items() if name.lower() in words), None)


def _split_word(name: str) -> tuple[str | None, str]:
    """The split that one word of a name means, and the rest of the name: "seg_train" -> ("train", "seg_")."""
    words = [word for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name) if split_of(word)]
    return (split_of(words[0]), name.replace(words[0], "", 1)) if len(words) == 1 else (None, name)


def _each_once(splits: dict[str, str], place: Path) -> dict[str, str]:
    for split, count in Counter(splits.values()).items():
        if count > 1:
            same = ", ".join(name for name in splits if splits[name] == split)
            raise BadInput(f"the folder {place} holds the split {split!r} {count} times: {same}; keep one")
    return splits


def _undoubled(tree: Tree) -> Tree:
    name = tree.place.name
    return _undoubled(tree.folders[name]) if not tree.loose and list(tree.folders) == [name] else tree


def folder_classes(tree: Tree) -> dict[Path, str]:
    """Image -> its class, which is the folder right under the split, at whatever depth the image lies.

    BadInput names the layout where that folder is no class.
    """
    if tree.loose:
        raise BadInput(f"no label column: {tree.loose[0]} lies in no class folder, and there is no metadata.csv/.jsonl")
    for folder in tree.folders.values():
        _check_class_folder(folder, tree)
    _check_joined(tree)
    return {image: name for name, folder in tree.folders.items() for image in folder.images()}


def _check_class_folder(folder: Tree, above: Tree) -> None:
    name = folder.place.name
    if name.lower() in CONTAINERS:
        raise BadInput(
            f"the folder {above.place} holds {', '.join(above.folders)}, and {name!r} names no class; give the folder "
            "that holds the class folders, or write a metadata.csv"
        )
    if len(above.folders) == 1 and len(folder.folders) > 1 and not folder.loose:
        raise BadInput(
            f"the folder {above.place} holds one folder, {name}, with folders inside "
            f"({', '.join([*folder.folders][:5])}); give {folder.place} if those are the classes, or put the images of "
            f"{name} right into it"
        )
    masks = [inside for inside in folder.folders if inside.lower() in MASKS]
    if masks:
        raise BadInput(
            f"the class folder {folder.place} holds {masks[0]}, which are no images of {name}; move them away"
        )
    splits = [inside for inside in folder.folders if split_of(inside) in ("test", "validation")]
    if splits:
        raise BadInput(
            f"the splits ({', '.join(splits)}) lie inside the class folder {folder.place}; put the class folders into "
            "train and test"
        )


def _check_joined(tree: Tree) -> None:
    """BadInput for folders that name a split and a class at once: train_cat, test_cat."""
    splits: dict[str, dict[str, str]] = {}
    for name in tree.folders:
        split, rest = _split_word(name)
        if split and rest.strip(" _-."):
            splits.setdefault(rest.strip(" _-.").lower(), {})[split] = name
    joined = next((names for names in splits.values() if len(names) > 1), None)
    if joined:
        raise BadInput(
            f"the folders {', '.join(joined.values())} in {tree.place} name a split and a class at once; put the class "
            "folders into train and test"
        )
