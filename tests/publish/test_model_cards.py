"""The shipped models: whole, small, and as their cards say."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from diffusers import DiffusionPipeline

from hfdiff.evaluation.judge import load_judge, predict
from hfdiff.models.loading import load_pipeline
from hfdiff.publish.card import write_card
from hfdiff.publish.folder import listing, write_model_folder
from hfdiff.publish.records import ModelRecords

pytestmark = pytest.mark.slow

MODELS = sorted(path.parent for path in (ROOT / "model_cards").glob("*/model_index.json"))


@pytest.fixture(params=MODELS, ids=lambda path: path.name)
def folder(request) -> Path:
    return request.param


def test_a_shipped_model_is_what_a_push_would_send(folder, tmp_path):
    """Its reports are of its weights, and its figures and records are there."""
    records = ModelRecords.of(str(folder), log=pytest.fail)
    assert None not in records.by_name.values()
    write_model_folder(records, tmp_path, half=True)
    names = {line.split()[-1] for line in listing(tmp_path)}
    assert names == {line.split()[-1] for line in listing(folder)}
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 12_000_000


def test_its_card_is_what_would_be_written_today(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / folder.name)
    written = write_card(ModelRecords.of(str(copy)), f"model_cards/{folder.name}")
    assert written.read_text() == (folder / "README.md").read_text()


def test_it_draws_the_same_with_and_without_hfdiff(folder):
    both = (load_pipeline(str(folder)), DiffusionPipeline.from_pretrained(str(folder), trust_remote_code=True))
    for pipe in both:
        pipe.set_progress_bar_config(disable=True)
    drawn = [pipe([0, 1], generator=torch.Generator().manual_seed(0), output_type="pt").images for pipe in both]
    assert torch.equal(*drawn)


def test_it_draws_what_it_is_asked_for(folder):
    """By the judge, within what 100 images allow of the report."""
    report = json.loads((folder / "metrics.json").read_text())
    pipe = load_pipeline(str(folder))
    labels = torch.arange(100) % len(pipe.class_names)
    images = pipe(labels.tolist(), generator=torch.Generator().manual_seed(1), output_type="pt").images
    right = predict(load_judge(report["protocol"]["dataset"]), (images * 255).round().byte()).classes == labels
    accuracy = report["metrics"]["class_accuracy"]["value"]
    assert right.double().mean() > accuracy - 3 * (accuracy * (1 - accuracy) / 100) ** 0.5 - 0.02


def test_the_names_of_classes_are_those_of_the_data(folder):
    record = json.loads((folder / "training.json").read_text())
    assert load_pipeline(str(folder)).class_names == list(record["data"]["classes"])
