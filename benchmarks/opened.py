"""What a benchmark of a trained model opens: the model, a judge, and real images that the judge never saw."""

import torch

from hfdiff.data.loading import load_test_data
from hfdiff.data.table import ImageTable
from hfdiff.evaluation.judge import Judge, load_judge, unseen
from hfdiff.evaluation.reference_images import check_judge, check_model_fits
from hfdiff.models.loading import load_pipeline
from hfdiff.pipelines import ClassStylePipeline


def opened(model: str, judge: str, reference: str) -> tuple[ClassStylePipeline, Judge, ImageTable]:
    """The pipeline and the judge, on the accelerator where there is one, and the images of a dataset's test split
    (its validation split where it has none)."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    pipeline, arbiter = load_pipeline(model).to(device), load_judge(judge).to(device)
    pipeline.set_progress_bar_config(disable=True)
    table = unseen(arbiter, load_test_data(reference))
    check_model_fits(pipeline, table)
    check_judge(arbiter, table)
    return pipeline, arbiter, table
