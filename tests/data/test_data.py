"""Data: every way in gives the same table, and every mistake is named."""

import datasets
import numpy as np
import pytest
import torch
from conftest import class_folders, full_data, full_test, make_image, metadata_folder, png
from PIL import Image

from hfdiff.core.errors import BadInput
from hfdiff.data.config import ReadOptions
from hfdiff.data.loading import load_test_data, load_training_data
from hfdiff.data.registry import ASSETS
from hfdiff.data.table import ImageTable, has_clean_ground
from hfdiff.evaluation.clip import find_clip, load_clip
from hfdiff.evaluation.judge import find_judge


def test_embedded_data_is_balanced_small_and_licensed(fashion):
    train, validation = fashion
    assert train.class_counts() == [1000] * 10
    assert validation.class_counts() == [200] * 10
    assert train.pixels.shape == (10_000, 1, 28, 28)
    assert train.pixels.dtype == torch.uint8
    folder = ASSETS / "fashion_mnist_12k"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8 * 2**20
    assert "MIT" in (folder / "LICENSE").read_text()


def test_class_folders_keep_every_pixel(tmp_path):
    train, validation = load_training_data(str(class_folders(tmp_path, {"cat": 12, "dog": 8})))
    assert train.class_names == ("cat", "dog")
    assert len(train) == 18
    assert len(validation) == 2
    assert train.channels == 1
    pixels = torch.cat([train.pixels, validation.pixels]).numpy().reshape(20, -1)
    expected = [np.asarray(make_image(i)).ravel() for count in (12, 8) for i in range(count)]
    assert sorted(map(bytes, pixels)) == sorted(map(bytes, expected))


def test_the_same_images_are_held_out_each_time(tmp_path):
    folder = str(class_folders(tmp_path, {"cat": 12, "dog": 8}))
    first, second = load_training_data(folder), load_training_data(folder)
    assert [part.fingerprint for part in first] == [part.fingerprint for part in second]


def test_a_class_may_be_called_train(tmp_path):
    train, _ = load_training_data(str(class_folders(tmp_path, {"train": 5, "plane": 5})))
    assert train.class_names == ("plane", "train")


def test_split_folders_are_splits(tmp_path):
    class_folders(tmp_path / "Train", {"cat": 6, "dog": 6})
    class_folders(tmp_path / "validation", {"cat": 2, "dog": 2})
    class_folders(tmp_path / "test", {"cat": 3, "dog": 1})
    train, validation = load_training_data(str(tmp_path))
    test = load_test_data(str(tmp_path))
    assert [part.class_counts() for part in (train, validation, test)] == [[6, 6], [2, 2], [3, 1]]


def test_a_split_folder_beside_another_is_refused(tmp_path):
    class_folders(tmp_path / "train", {"cat": 3, "dog": 3})
    class_folders(tmp_path / "extras", {"cat": 3})
    with pytest.raises(BadInput, match=r"holds splits \(train\) beside extras"):
        load_training_data(str(tmp_path))


def test_colour_and_styles_of_one_split_alone(tmp_path):
    metadata_folder(tmp_path / "train", [{"kind": "ab"[i % 2], "styles": "old" if i else "plain"} for i in range(4)])
    metadata_folder(tmp_path / "validation", [{"kind": "ab"[i % 2], "styles": "plain"} for i in range(2)])
    make_image(0, mode="RGB").save(tmp_path / "train" / "0.png")
    train, validation = load_training_data(str(tmp_path))
    assert train.channels == validation.channels == 3
    assert train.style_names == validation.style_names == ("old",)
    assert not validation.style_weights.any()


def test_style_columns_may_be_named(tmp_path):
    rows = [{"kind": "ab"[i % 2], "worn": i % 2, "price": 10.5} for i in range(4)]
    folder = str(metadata_folder(tmp_path, rows))
    with pytest.raises(BadInput, match=r"several label columns \(kind, worn\).*--style_columns"):
        load_training_data(folder)
    train, _ = load_training_data(folder, ReadOptions(style_columns=("worn",)))
    assert train.style_names == ("worn",)
    assert train.style_weights.squeeze(1).tolist() == [0, 1, 0, 1]
    train, _ = load_training_data(folder, ReadOptions(style_columns=("none",), label_column="kind"))
    assert train.style_names == ()


def test_colour_images_of_any_size(tmp_path):
    train, _ = load_training_data(str(class_folders(tmp_path, {"a": 6, "b": 6}, mode="RGB", size=(20, 14))))
    assert train.pixels.shape[1:] == (3, 14, 20)


def test_mixed_sizes_are_refused_or_resized(tmp_path):
    class_folders(tmp_path, {"a": 3, "b": 3})
    make_image(9, (30, 20)).save(tmp_path / "b" / "big.png")
    with pytest.raises(BadInput, match=r"mixed sizes.*20x30.*--resolution"):
        load_training_data(str(tmp_path))
    train, _ = load_training_data(str(tmp_path), ReadOptions(resolution=16))
    assert train.size == (16, 16)


def test_odd_image_modes_become_plain_pixels(tmp_path):
    class_folders(tmp_path, {"a": 1, "b": 1})
    grey = np.arange(144, dtype=np.uint8).reshape(12, 12)
    Image.fromarray(grey.astype(np.uint16) * 256).save(tmp_path / "a" / "sixteen.png")
    Image.fromarray(grey).convert("RGB").quantize(32).save(tmp_path / "a" / "palette.png")
    Image.new("RGBA", (12, 12), (255, 0, 0, 0)).save(tmp_path / "b" / "transparent.png")
    Image.new("CMYK", (12, 12), (0, 255, 255, 0)).save(tmp_path / "b" / "print.jpg")
    train, _ = load_training_data(str(tmp_path))
    rows = {tuple(p[:, 5, 5].tolist()) for p in train.pixels}
    assert (65, 65, 65) in rows  # 16 bits: the high byte
    assert (255, 255, 255) in rows  # transparent: white
    assert any(r > 200 and g < 60 and b < 60 for r, g, b in rows)  # cyan-less print is red


def test_of_an_animation_the_first_frame_counts(tmp_path):
    class_folders(tmp_path, {"a": 3, "b": 3})
    frames = [Image.new("L", (12, 12), grey) for grey in (17, 200, 250)]
    frames[0].save(tmp_path / "a" / "moving.gif", save_all=True, append_images=frames[1:])
    train, _ = load_training_data(str(tmp_path))
    assert len(train) == 7
    assert [image.unique().tolist() for image in train.pixels].count([17]) == 1


def test_large_images_are_taken_quietly_and_huge_ones_refused(tmp_path, monkeypatch, recwarn):
    class_folders(tmp_path, {"a": 2, "b": 2})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow warns from here on, and refuses from twice as many
    train, _ = load_training_data(str(tmp_path))
    assert train.size == (12, 12)
    assert not [warning for warning in recwarn if warning.category is Image.DecompressionBombWarning]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 70)
    with pytest.raises(BadInput, match=r"not a readable image \(Image size \(144 pixels\) exceeds limit"):
        load_training_data(str(tmp_path))


@pytest.mark.parametrize("jsonl", [True, False])
def test_metadata_gives_classes_and_styles(tmp_path, jsonl):
    rows = [{"kind": "ab"[i % 2], "fuzzy": i / 19, "old": i % 2 == 0} for i in range(20)]
    train, validation = load_training_data(str(metadata_folder(tmp_path, rows, jsonl)))
    assert train.class_names == ("a", "b")
    assert train.style_names == ("fuzzy", "old")
    weights = torch.cat([train.style_weights, validation.style_weights])
    labels = torch.cat([train.labels, validation.labels])
    assert torch.equal(weights[:, 1], (labels == 0).float())
    assert torch.allclose(weights[:, 0].sort().values, torch.linspace(0, 1, 20))


def test_styles_as_lists_and_in_the_grammar(tmp_path):
    lists = [{"kind": "ab"[i % 2], "tags": ["old"] if i % 2 else []} for i in range(4)]
    texts = [{"kind": "ab"[i % 2], "styles": "old:0.5+wet" if i % 2 else "plain"} for i in range(4)]
    a, _ = load_training_data(str(metadata_folder(tmp_path / "a", lists)))
    c, _ = load_training_data(str(metadata_folder(tmp_path / "c", texts, jsonl=False)))
    b, _ = load_training_data(str(metadata_folder(tmp_path / "b", texts)))
    assert a.style_names == ("old",)
    assert a.style_weights.squeeze(1).tolist() == [0, 1, 0, 1]
    assert b.style_names == c.style_names == ("old", "wet")
    assert b.style_weights.tolist() == c.style_weights.tolist() == [[0, 0], [0.5, 1], [0, 0], [0.5, 1]]


def test_hub_layout_in_parquet_with_any_column_names(tmp_path):
    features = datasets.Features({"foto": datasets.Image(), "art": datasets.ClassLabel(names=["x", "y"])})
    rows = {"foto": [make_image(i) for i in range(6)], "art": [0, 1] * 3}
    datasets.Dataset.from_dict(rows, features).to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    train, validation = load_training_data(str(tmp_path))
    assert train.class_names == ("x", "y")
    assert np.array_equal(train.pixels[2, 0].numpy(), np.asarray(make_image(2)))
    assert len(train) == 6  # too few to hold any out: validated on themselves
    assert validation is train


def test_several_label_columns_need_a_choice(tmp_path):
    rows = [{"coarse": "ab"[i % 2], "fine": str(i % 4)} for i in range(8)]
    folder = str(metadata_folder(tmp_path, rows))
    with pytest.raises(BadInput, match=r"several label columns \(coarse, fine\).*--label_column"):
        load_training_data(folder)
    assert load_training_data(folder, ReadOptions(label_column="coarse"))[0].class_names == ("a", "b")


def parquet(folder, cells, labels, names=("x", "y")):
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=list(names))}
    )
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": c, "path": None} for c in cells], "label": labels}, features
    )
    table.cast_column("image", datasets.Image()).to_parquet(str(folder / "train.parquet"))
    return folder


def test_a_corrupt_image_is_named(tmp_path):
    class_folders(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "b" / "1.png").write_bytes(png(make_image(1))[:60])
    with pytest.raises(BadInput, match=r"b/1\.png: not a readable image"):
        load_training_data(str(tmp_path))


def test_a_corrupt_row_is_named(tmp_path):
    cells = [png(make_image(i)) for i in range(3)] + [b"no image"]
    with pytest.raises(BadInput, match="row 3: not a readable image"):
        load_training_data(str(parquet(tmp_path, cells, [0, 1, 0, 1])))


def test_a_label_out_of_range_is_named(tmp_path):
    cells = [png(make_image(i)) for i in range(3)]
    with pytest.raises(BadInput, match="row 2: label -1 out of range; valid: 0 to 1"):
        load_training_data(str(parquet(tmp_path, cells, [0, 1, -1])))


def test_a_strength_out_of_range_is_named(tmp_path):
    rows = [{"kind": "a", "fuzzy": 0.5}, {"kind": "b", "fuzzy": 1.5}]
    with pytest.raises(BadInput, match=r"row 1: column 'fuzzy': strength 1.5.*from 0 to 1"):
        load_training_data(str(metadata_folder(tmp_path, rows)))


def test_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(BadInput, match="no images in the folder"):
        load_training_data(str(tmp_path))


def test_images_without_classes(tmp_path):
    for i in range(3):
        make_image(i).save(tmp_path / f"{i}.png")
    with pytest.raises(BadInput, match="no label column"):
        load_training_data(str(tmp_path))


def test_split_names_taken_for_classes(tmp_path):
    class_folders(tmp_path / "images", {"train": 3, "test": 3})
    with pytest.raises(BadInput, match=r"test/0\.png lies in no class folder"):
        load_training_data(str(tmp_path))
    (tmp_path / "table").mkdir()
    cells = [png(make_image(i)) for i in range(4)]
    with pytest.raises(BadInput, match="names of splits"):
        load_training_data(str(parquet(tmp_path / "table", cells, [0, 1, 0, 1], names=("train", "test"))))


def test_one_class_is_a_class(tmp_path):
    train, _ = load_training_data(str(class_folders(tmp_path, {"cat": 3})))
    assert train.class_names == ("cat",)


def test_an_image_beside_the_class_folders_is_named(tmp_path):
    class_folders(tmp_path, {"a": 3, "b": 3})
    make_image(1).save(tmp_path / "stray.png")
    with pytest.raises(BadInput, match=r"stray\.png lies in no class folder"):
        load_training_data(str(tmp_path))


def test_a_label_column_of_another_kind_is_refused(tmp_path):
    folder = str(metadata_folder(tmp_path, [{"kind": "ab"[i % 2], "tags": ["x"]} for i in range(4)]))
    with pytest.raises(BadInput, match="column 'tags' is no label column"):
        load_training_data(folder, ReadOptions(label_column="tags"))


def test_unknown_dataset():
    with pytest.raises(BadInput, match=r"unknown dataset 'no such data'.*fashion_mnist_12k"):
        load_training_data("no such data")


def test_unknown_column(tmp_path):
    with pytest.raises(BadInput, match="unknown column 'labels'.*did you mean 'label'"):
        load_training_data(str(class_folders(tmp_path, {"a": 3, "b": 3})), ReadOptions(label_column="labels"))


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [("fashion_mnist", (1, 28, 28), 59_000), ("cifar10", (3, 32, 32), 49_000)],
)
def test_full_datasets(name, shape, count):
    train, test = load_training_data(full_data(name))[0], full_test(name)
    assert train.pixels.shape == (count, *shape)
    assert test.pixels.shape == (10_000, *shape)
    assert len(train.class_names) == 10
    assert find_judge(train).trained_on == name
    assert load_clip(find_clip(train))[0].config.trained_on == name


@pytest.mark.parametrize("split", ["test", "validation"])
def test_an_only_split_is_no_test_of_itself(tmp_path, split):
    class_folders(tmp_path / split, {"cat": 15, "dog": 15})
    train, _ = load_training_data(str(tmp_path))
    test = load_test_data(str(tmp_path))

    def keys(table: ImageTable) -> set[tuple[int, bytes]]:
        return {(label, image.numpy().tobytes()) for label, image in zip(table.labels.tolist(), table.pixels)}

    assert (len(keys(train)), len(keys(test))) == (27, 3)
    assert not keys(train) & keys(test)
    assert test.split == "validation"


def test_a_file_that_pillow_gives_to_another_program_is_no_image(tmp_path):
    class_folders(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "0.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 12\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(BadInput, match=r"a/0\.png: not a readable image \(cannot identify image file"):
        load_training_data(str(tmp_path))


@pytest.mark.parametrize("kind", ["AVIF", "DDS", "EPS", "ICNS", "ICO", "IM", "JPEG2000", "PCX", "PPM", "SGI", "TGA"])
def test_a_file_chooses_no_decoder_that_its_name_does_not_say(tmp_path, kind):
    class_folders(tmp_path, {"a": 3, "b": 3})
    Image.new("RGB", (16, 16)).save(tmp_path / "a" / "0.png", kind)
    with pytest.raises(BadInput, match=r"a/0\.png: not a readable image \(cannot identify image file"):
        load_training_data(str(tmp_path))


def test_a_name_may_say_another_format(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i, suffix in enumerate((".ppm", ".tga", ".png")):
            Image.new("RGB", (12, 12), (i, 0, 0)).save(tmp_path / name / f"{i}{suffix}")
    assert len(load_training_data(str(tmp_path))[0]) == 6


def test_a_clean_ground_is_told_from_a_photograph(fashion):
    assert has_clean_ground(fashion[0].pixels)
    assert has_clean_ground(255 - fashion[0].pixels)
    assert not has_clean_ground(torch.arange(256, dtype=torch.uint8).repeat(20, 1, 4, 1))
    assert not has_clean_ground(torch.full((3, 1, 8, 8), 200, dtype=torch.uint8))
