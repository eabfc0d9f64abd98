"""What people have in their folders: read rightly, or refused with the layout named."""

import os
import shutil

import pytest
from conftest import make_image

from hfdiff.core.errors import BadInput
from hfdiff.data.folder import Tree, find_splits, folder_classes, list_files, split_of
from hfdiff.data.loading import load_test_data, load_training_data
from hfdiff.data.table import describe


def fill(root, *paths):
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        make_image(number).save(root / path)
    return root


def classes(root):
    trees = find_splits(Tree.of(root, list_files(root).images))
    return {split: sorted(set(folder_classes(tree).values())) for split, tree in trees.items()}


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["cat/s1/0.png", "cat/s2/0.png", "dog/s1/0.png", "dog/s2/0.png"], {"train": ["cat", "dog"]}),
        (["cat/0.png", "dog/0.png", "cat/old/1.png"], {"train": ["cat", "dog"]}),
        (["__background__/0.png", "dog/0.png"], {"train": ["__background__", "dog"]}),
        (["train/cat/s1/0.png", "Test/cat/s1/1.png"], {"train": ["cat"], "test": ["cat"]}),
        (
            ["train/cat/0.png", "valid/cat/1.png", "test/cat/1.png"],
            {split: ["cat"] for split in ("train", "validation", "test")},
        ),
        (["seg_train/seg_train/cat/0.png", "seg_test/seg_test/cat/1.png"], {"train": ["cat"], "test": ["cat"]}),
        (["train_images/cat/0.png", "test_images/cat/1.png"], {"train": ["cat"], "test": ["cat"]}),
        (["mnist/training/3/0.png", "mnist/testing/3/1.png"], {"train": ["3"], "test": ["3"]}),
        (["train_station/0.png", "bus_station/1.png"], {"train": ["bus_station", "train_station"]}),
        (["mask/0.png", "no mask/0.png"], {"train": ["mask", "no mask"]}),
        (["cat/0.png", "dog/0.png", ".cache/dog/1.png", "__MACOSX/cat/2.png"], {"train": ["cat", "dog"]}),
    ],
)
def test_the_class_is_the_folder_right_under_the_split(tmp_path, paths, expected):
    assert classes(fill(tmp_path, *paths)) == expected


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (["images/cat/0.png", "masks/cat/0.png"], "'images' names no class"),
        (["cat/images/0.png", "cat/masks/0.png", "dog/images/0.png"], "holds masks, which are no images of cat"),
        (["archive/cat/0.png", "archive/dog/0.png"], "holds one folder, archive, with folders inside"),
        (["cat/train/0.png", "cat/test/1.png", "dog/0.png"], "splits .test. lie inside the class folder"),
        (["train_cat/0.png", "test_cat/1.png"], "name a split and a class at once"),
        (["train/cat/0.png", "training/cat/0.png"], "holds the split 'train' 2 times: train, training"),
        (["train/cat/0.png", "extras/0.png"], r"holds splits \(train\) beside extras"),
    ],
)
def test_a_layout_that_can_be_read_in_two_ways_is_named(tmp_path, paths, reason):
    with pytest.raises(BadInput, match=reason):
        classes(fill(tmp_path, *paths))


def test_every_word_for_a_split_is_one():
    assert [split_of(name) for name in ("Train", "TRAINING", "val", "dev", "testing", "cat")] == [
        "train", "train", "validation", "validation", "test", None
    ]  # fmt: skip


def test_links_inside_the_folder_are_followed(tmp_path):
    fill(tmp_path, "cat/0.png", "cat/1.png", "dog/0.png")
    (tmp_path / "lynx").symlink_to(tmp_path / "cat")
    assert load_training_data(str(tmp_path))[0].class_counts() == [2, 1, 2]
    (tmp_path / "cat" / "all").symlink_to(tmp_path)
    with pytest.raises(BadInput, match="is a link to a folder that it lies in"):
        load_training_data(str(tmp_path))


def test_what_is_left_out_is_said(tmp_path):
    fill(tmp_path, *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(3)))
    (tmp_path / "cat" / "raw.npy").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".DS_Store").touch()
    said = describe(load_training_data(str(tmp_path))[0])
    assert "left out: 2 other files (.npy 1, .txt 1); 1 hidden" in said
    assert "files: PNG L 6" in said
    assert "warning: classes with fewer than 10 training images: cat 3, dog 3" in said


def test_an_archive_alone_is_to_be_unpacked(tmp_path):
    shutil.make_archive(str(tmp_path / "pets"), "zip", fill(tmp_path / "x", "cat/0.png"))
    shutil.rmtree(tmp_path / "x")
    with pytest.raises(BadInput, match=r"no images in the folder .*; unpack pets\.zip"):
        load_training_data(str(tmp_path))


def test_a_name_of_bytes_that_are_no_text_is_refused(tmp_path):
    fill(tmp_path, "cat/0.png", "dog/0.png")
    (tmp_path / "cat").rename(tmp_path / os.fsdecode(b"caf\xe9"))
    with pytest.raises(BadInput, match="holds bytes that are no UTF-8"):
        load_training_data(str(tmp_path))


@pytest.mark.parametrize(("one", "other"), [("cat", " cat"), ("caf\u00e9", "cafe\u0301")])
def test_classes_that_are_one_name_are_refused(tmp_path, one, other):
    with pytest.raises(BadInput, match="are one name, but for how it is written"):
        load_training_data(str(fill(tmp_path, f"{one}/0.png", f"{other}/1.png")))


def test_the_last_image_of_a_class_is_not_held_out(tmp_path):
    fill(tmp_path, *(f"{i}/0.png" for i in range(40)), *(f"many/{i}.png" for i in range(20)))
    train, validation = load_training_data(str(tmp_path))
    assert min(train.class_counts()) == 1
    assert {validation.class_names[i] for i in validation.labels.tolist()} == {"many"}


def test_a_class_of_the_test_split_alone_is_refused(tmp_path):
    fill(tmp_path, "train/cat/0.png", "train/dog/0.png", "test/cat/1.png", "test/eel/1.png")
    for load in (load_training_data, load_test_data):
        with pytest.raises(BadInput, match="class 'eel' has images in the split 'test' and none in 'train'"):
            load(str(tmp_path))
