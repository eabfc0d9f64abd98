"""The judge: the embedded one is as good as it says, and training makes one."""

import runpy
from pathlib import Path

import pytest
import torch
from conftest import SHARED_DATA, class_folders

from hfdiff.data import ASSETS, load_test_data
from hfdiff.errors import BadInput
from hfdiff.judge import Judge, accuracy, judged, load_judge, train_judge

SCRIPT = Path(__file__).parents[1] / "train_scripts" / "train_judge.py"


def test_the_embedded_judge_is_small():
    assert (ASSETS / "judge_fashion_mnist" / "model.safetensors").stat().st_size < 1.3 * 2**20


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the folder with the full data sets is absent")
def test_the_embedded_judge_on_the_real_test_set():
    judge = load_judge("fashion_mnist")
    right = accuracy(judge, load_test_data(str(SHARED_DATA / "fashion_mnist")))
    assert right >= 0.925
    assert right == pytest.approx(judge.test_accuracy, abs=0.002)


def test_the_embedded_judge_knows_the_embedded_pictures(fashion):
    judge = load_judge("fashion_mnist_12k")
    assert tuple(judge.class_names) == fashion[1].class_names
    assert accuracy(judge, fashion[1]) > 0.9


def test_training_learns_and_repeats(fashion):
    table, validation = fashion[0].part(torch.arange(0, 10_000, 10)), fashion[1].part(torch.arange(0, 2_000, 10))
    judges = [Judge(1, list(table.class_names), widths=(8, 16, 32)) for _ in range(2)]
    judges[1].load_state_dict(judges[0].state_dict())
    runs = [list(train_judge(judge, table, validation, epochs=5, batch_size=32)) for judge in judges]
    assert runs[0] == runs[1]
    assert runs[0][-1].loss < runs[0][0].loss
    assert runs[0][-1].validation_accuracy > 0.4


def test_features_and_logits_agree_for_any_size_and_colour():
    judge = Judge(3, ["a", "b"], widths=(4, 8, 8)).eval()
    pixels = torch.randint(0, 256, (7, 3, 30, 22), dtype=torch.uint8)
    logits, features = judged(judge, pixels, batch_size=3)
    assert logits.shape == (7, 2)
    assert features.shape == (7, 8)
    assert torch.allclose(judge.head(features), logits, atol=1e-5)


def test_the_program_saves_a_judge_that_loads(tmp_path):
    folder = class_folders(tmp_path / "data", {"cat": 30, "dog": 30}, mode="RGB")
    main = runpy.run_path(str(SCRIPT), run_name="script")["main"]
    flags = ["--dataset", str(folder), "--output_dir", str(tmp_path / "judge"), "--epochs", "1", "--batch_size", "16"]
    assert main([*flags, "--widths", "4", "8", "8"]) == 0
    judge = load_judge(str(tmp_path / "judge"))
    assert judge.class_names == ["cat", "dog"]
    assert 0 <= judge.test_accuracy <= 1
    with pytest.raises(BadInput, match="exists; give a new folder"):
        main(flags)


def test_no_judge_embedded():
    with pytest.raises(BadInput, match="no judge is embedded for 'cifar10'; train one"):
        load_judge("cifar10")
