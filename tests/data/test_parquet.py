"""Parquet as people write it: each image with its own class, whoever wrote the file."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_image, png

from hfdiff.core.errors import BadInput
from hfdiff.data.loading import load_test_data, load_training_data

CELLS = [png(make_image(i)) for i in range(4)]
KINDS = ["cat", "dog", "cat", "dog"]


def write(file, **columns):
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)
    return str(file.parent)


def labelled(names, ids=(0, 1, 0, 1), cells=CELLS):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [{"bytes": cell, "path": None} for cell in cells], "label": list(ids)}
    return datasets.Dataset.from_dict(rows, features=features)


def kinds(table):
    """The classes in the order of the images."""
    assert len(table) % 4 == 0
    return [table.class_names[i] for i in table.labels.tolist()]


@pytest.mark.parametrize(
    "image",
    [
        pa.array([{"bytes": cell, "path": None} for cell in CELLS]),
        pa.array([{"path": "a.jpg", "bytes": cell} for cell in CELLS]),
        pa.array([{"bytes": cell} for cell in CELLS]),
        pa.array(CELLS),
        pa.array(CELLS, pa.large_binary()),
    ],
    ids=["struct", "another order", "bytes alone in it", "bytes", "large bytes"],
)
def test_images_are_recognised_by_their_first_bytes(tmp_path, image):
    assert kinds(load_training_data(write(tmp_path / "train.parquet", picture=image, kind=KINDS))[0]) == KINDS


@pytest.mark.parametrize(
    "kind",
    [pa.array(KINDS).dictionary_encode(), pa.array(KINDS, pa.large_string()), pa.array(KINDS).cast(pa.string_view())],
    ids=["dictionary", "large", "view"],
)
def test_text_of_every_type_is_text(tmp_path, kind):
    assert kinds(load_training_data(write(tmp_path / "train.parquet", image=CELLS, kind=kind))[0]) == KINDS


def test_class_ids_follow_the_names_over_splits_and_shards(tmp_path):
    other = labelled(["dog", "cat"], ids=[1, 0, 1, 0])
    for name, part in {
        "train-00000-of-00002": labelled(["cat", "dog"]),
        "train-00001-of-00002": other,
        "test": other,
    }.items():
        part.to_parquet(str(tmp_path / f"{name}.parquet"))
    train, _ = load_training_data(str(tmp_path))
    assert train.class_names == ("cat", "dog")
    assert kinds(train) == KINDS * 2
    assert kinds(load_test_data(str(tmp_path))) == KINDS


def test_a_column_of_two_kinds_is_named(tmp_path):
    write(tmp_path / "train-00000-of-00002.parquet", image=CELLS, label=KINDS)
    write(tmp_path / "train-00001-of-00002.parquet", image=CELLS, label=[0, 1, 0, 1])
    with pytest.raises(BadInput, match="column 'label' is int64 in .*00001.*parquet and string in .*00000"):
        load_training_data(str(tmp_path))


def test_an_empty_split_stops_nothing_but_training(tmp_path):
    labelled(["cat", "dog"]).to_parquet(str(tmp_path / "train.parquet"))
    labelled(["cat", "dog"], ids=[], cells=[]).to_parquet(str(tmp_path / "test.parquet"))
    train, _ = load_training_data(str(tmp_path))
    assert "left out: the split 'test', which is empty" in train.notes
    labelled(["cat", "dog"]).to_parquet(str(tmp_path / "test.parquet"))
    labelled(["cat", "dog"], ids=[], cells=[]).to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(BadInput, match="no images in its split 'train'"):
        load_training_data(str(tmp_path))


@pytest.mark.parametrize("in_splits", [True, False])
def test_what_save_to_disk_wrote_is_read(tmp_path, in_splits):
    saved = labelled(["cat", "dog"])
    (datasets.DatasetDict({"train": saved}) if in_splits else saved).save_to_disk(str(tmp_path / "saved"))
    assert kinds(load_training_data(str(tmp_path / "saved"))[0]) == KINDS


def test_images_beside_parquet_are_said_or_refused(tmp_path):
    labelled(["cat", "dog"]).to_parquet(str(tmp_path / "train.parquet"))
    make_image(0).save(tmp_path / "preview.png")
    assert "left out: 1 other file (.png 1)" in load_training_data(str(tmp_path))[0].notes
    (tmp_path / "cat").mkdir()
    make_image(0).save(tmp_path / "cat" / "0.png")
    with pytest.raises(BadInput, match="holds parquet and images in folders"):
        load_training_data(str(tmp_path))
