"""Metadata is text, and each image has one row."""

import os

import pytest
from conftest import make_image

from hfdiff.core.errors import BadInput
from hfdiff.data.config import BY_TYPE, ReadOptions
from hfdiff.data.loading import load_training_data
from hfdiff.data.metadata import typed_columns


def table(folder, text, count=4, encoding="utf-8", name="metadata.csv"):
    folder.mkdir(exist_ok=True)
    for i in range(count):
        make_image(i).save(folder / f"{i}.png")
    (folder / name).write_bytes(text.encode(encoding))
    return str(folder)


def csv(*labels, header="file_name,label", separator=","):
    return "\n".join([header.replace(",", separator), *(f"{i}.png{separator}{c}" for i, c in enumerate(labels))]) + "\n"


def read(folder, **options):
    train, _ = load_training_data(folder, ReadOptions(**options))
    return [train.class_names[i] for i in train.labels.tolist()]


@pytest.mark.parametrize(
    "names", [("007", "7"), ("NA", "None"), ("null", "nan"), ("true", "false"), ("1.0", "2.5"), ("1e3", "1000")]
)
def test_a_class_is_called_what_is_written(tmp_path, names):
    labels = [*names, *names]
    assert read(table(tmp_path, csv(*labels))) == labels


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (csv("cat", "dog", "cat", "dog", separator=";"), "utf-8"),
        (csv("cat", "dog", "cat", "dog", separator="\t"), "utf-16"),
        (csv("cat", "dog", "cat", "dog", separator=", "), "utf-8-sig"),
        (csv("cat", '"dog"', "cat", "dog").replace("\n", "\r\n"), "utf-8"),
        (csv("cat", "dog", "cat", "dog").replace("0.png", ".\\0.png"), "utf-8"),
        (csv("cat,", "dog,", "cat,", "dog,", header="file_name,label,") + ",,\n\n", "utf-8"),
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path, text, encoding):
    assert read(table(tmp_path, text, encoding=encoding)) == ["cat", "dog", "cat", "dog"]


def test_whole_numbers_are_in_their_order(tmp_path):
    train, _ = load_training_data(table(tmp_path, csv("10", "9", "10", "9")))
    assert train.class_names == ("9", "10")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (csv("a", "b", "a"), r"1 of 4 images have no row in the metadata \(.*3.png\)"),
        (csv("a", "b", "a", "b") + "3.png,a\n", "'3.png' has two rows"),
        (csv("a", "b", "a", "b", "a"), "row 5 names '4.png', which is no image"),
        (csv("a", "b", "a", "b") + "../x.png,a\n", "names '../x.png', which lies outside the dataset"),
        (csv("a", "b", "a", "b,c"), "3 cells under 2 columns"),
        (csv("a", "b", "a", '"b'), "is not CSV"),
        (csv("a", "b", "a", "b", header="image,label"), "has no column 'file_name'; its first line: 'image,label'"),
        (csv("a", "b", "a", "b", header="file_name,file_name"), "names a column twice"),
        (csv("a red cat", "two dogs", "a boat", "the sea"), "a value of its own for most images, as captions and ids"),
        (csv("a", "b", "", "b"), "row 2: column 'label' gives no class"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, text, reason):
    with pytest.raises(BadInput, match=reason):
        read(table(tmp_path, text))


def test_another_encoding_is_refused_by_its_byte(tmp_path):
    with pytest.raises(BadInput, match=r"metadata.csv is no UTF-8 \(byte 25\); save it as UTF-8"):
        read(table(tmp_path, csv("café", "b", "a", "b"), encoding="latin-1"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [("{", "metadata.jsonl:1 is not JSON"), ("[1]", "holds a list; valid: an object with file_name")],
)
def test_a_line_that_is_no_object_is_named(tmp_path, line, reason):
    with pytest.raises(BadInput, match=reason):
        read(table(tmp_path, line, name="metadata.jsonl"))


def test_a_file_is_found_however_its_name_is_composed(tmp_path):
    make_image(0).save(tmp_path / "cafe\u0301.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\ncaf\u00e9.png,cat\n", encoding="utf-8")
    assert read(str(tmp_path)) == ["cat"]


def test_a_caption_or_an_id_beside_the_class_is_no_second_class(tmp_path):
    text = "file_name,kind,id\n" + "".join(f"{i}.png,{'ab'[i % 2]},{i}\n" for i in range(4))
    assert read(table(tmp_path, text)) == ["a", "b", "a", "b"]
    assert read(table(tmp_path, text), label_column="id") == ["0", "1", "2", "3"]


def test_class_folders_keep_their_class_beside_a_style(tmp_path):
    for name in ("cat", "dog"):
        table(tmp_path / name, "", count=2)
        (tmp_path / name / "metadata.csv").unlink()
    rows = [f"{name}/{i}.png,0.5" for name in ("cat", "dog") for i in range(2)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,furry", *rows]))
    train, _ = load_training_data(str(tmp_path))
    assert (train.class_names, train.style_names, train.class_counts()) == (("cat", "dog"), ("furry",), [2, 2])


def test_types_are_decided_here():
    rows = [{"kind": "a", "old": "0.5", "wet": "True", "tags": ["x", "y"], "box": {"x": 1}}, {"kind": "b", "old": "1"}]
    columns, notes = typed_columns(rows, BY_TYPE, has_class_folders=False)
    assert {name: values for name, (values, _) in columns.items()} == {
        "kind": ["a", "b"], "old": [0.5, 1.0], "wet": [True, None], "tags": [["x", "y"], None]
    }  # fmt: skip
    assert notes == ["metadata: column 'box' holds objects, and is left out"]


def test_a_corrected_table_with_its_time_kept_is_read_anew(tmp_path):
    folder = table(tmp_path, csv("cat", "cat", "dog", "dog"))
    file = tmp_path / "metadata.csv"
    time = file.stat().st_mtime_ns
    assert read(folder) == ["cat", "cat", "dog", "dog"]
    file.write_text(csv("dog", "dog", "cat", "cat"))
    os.utime(file, ns=(time, time))
    assert read(folder) == ["dog", "dog", "cat", "cat"]
