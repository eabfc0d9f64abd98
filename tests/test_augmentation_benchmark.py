"""The parts of the benchmark of generated images as training data."""

import math

import pytest
import torch
from augmentation import additions, cut, half_width, join, main, name_of_generated
from conftest import class_folders

from hfdiff.core.errors import BadInput
from hfdiff.data.loading import load_training_data
from hfdiff.evaluation.statistics import student_t
from hfdiff.training.checkpoint import save_checkpoint
from hfdiff.training.run_folder import RunFolder

pytestmark = pytest.mark.slow


def test_the_cut_keeps_the_share_of_one_class_and_all_of_the_others(fashion):
    table = fashion[0]
    keep = cut(table, "shirt", 0.05)
    assert table.part(keep).class_counts() == [1000] * 6 + [50] + [1000] * 3
    assert set(table.labels[~keep].tolist()) == {6}
    assert torch.equal(keep, cut(table, "Shirt", 0.05))


@pytest.mark.parametrize(
    ("rare_class", "share", "message"), [("hat", 0.05, "unknown rare_class"), ("Bag", 1.0, "share 1.0")]
)
def test_a_cut_that_cannot_be_is_refused(table, rare_class, share, message):
    with pytest.raises(BadInput, match=message):
        cut(table, rare_class, share)


def test_every_way_balances_the_classes_with_as_many_images(fashion):
    table = fashion[0].part(torch.cat([(fashion[0].labels == label).nonzero()[:100, 0] for label in range(10)]))
    keep = cut(table, "Shirt", 0.05)
    kept, removed = table.part(keep), table.part(~keep)
    added = additions(kept, removed, torch.Generator().manual_seed(0))
    nothing, copies, augmented, real = added.values()
    assert [len(images) for images in added.values()] == [95] * 4
    assert nothing.class_counts()[6] < 10
    for images in (copies, augmented, real):
        assert join(kept, images).class_counts() == [100] * 10
    left = {image.numpy().tobytes() for image in kept.pixels[kept.labels == 6]}
    assert {image.numpy().tobytes() for image in copies.pixels} == left
    assert len({image.numpy().tobytes() for image in augmented.pixels} - left) > 80
    assert torch.equal(real.pixels, removed.pixels)


def test_quantiles_and_the_interval_against_closed_forms():
    # For 1, 2 and 4 degrees of freedom the quantile function of Student's t is elementary (Shaw 2006, Section 3).
    p = 0.975
    alpha = 4 * p * (1 - p)
    four = 2 * math.sqrt(math.cos(math.acos(math.sqrt(alpha)) / 3) / math.sqrt(alpha) - 1)
    expected = {1: math.tan(math.pi * (p - 0.5)), 2: (2 * p - 1) * math.sqrt(2 / alpha), 4: four}
    for degrees, quantile in expected.items():
        assert student_t(degrees) == pytest.approx(quantile, abs=5e-4)
    assert half_width([0.0, 1.0]) == pytest.approx(expected[1] * math.sqrt(0.5) / math.sqrt(2), rel=1e-3)


def test_the_written_cut_is_what_the_experiment_cuts_and_a_run_on_it_is_told_apart(tmp_path):
    data = str(class_folders(tmp_path / "data", {"cat": 60, "dog": 60}))
    assert (
        main(["write_cut_data", str(tmp_path / "less"), "--dataset", data, "--rare_class", "Dog", "--share", "0.5"])
        == 0
    )
    with pytest.raises(BadInput, match="exists"):
        main(["write_cut_data", str(tmp_path / "less")])
    whole, less = load_training_data(data), load_training_data(str(tmp_path / "less"))
    kept = [part.part(cut(part, "dog", 0.5)) for part in whole]
    assert [part.fingerprint for part in less] == [part.fingerprint for part in kept]
    run, tensors = RunFolder(tmp_path / "run"), {group: {"x": torch.zeros(1)} for group in ("unet", "ema", "optimizer")}
    said = [name_of_generated(str(run.path), kept[0], whole[0])]
    for step, seen in enumerate((kept[0], whole[0], whole[1])):
        save_checkpoint(run.checkpoints, tensors, {"step": step, "data": seen.fingerprint}, keep=1)
        run.config.write_text("init_from: null\n")
        said.append(name_of_generated(str(run.path), kept[0], whole[0]))
    run.config.write_text("init_from: runs/demo\n")
    said.append(name_of_generated(str(run.path), kept[0], whole[0]))
    assert [text.removeprefix("generated (") for text in said] == [
        "not known what the model saw)",
        "model saw the cut data alone)",
        "model saw all images)",
        "model saw other data)",
        "not known what the model saw)",
    ]
