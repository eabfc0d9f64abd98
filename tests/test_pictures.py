"""Pictures: the grid shows what it says, in order."""

import json

import numpy as np
import torch
from PIL import Image

from hfdiff.pictures import class_style_grid, labelled_grid, loss_curves, save_picture


def test_grid_of_classes_and_styles_shares_the_noise_along_a_row(pipeline):
    grid = class_style_grid(pipeline, per_cell=2, num_inference_steps=2, style_guidance_scale=1, guidance_scale=1)
    assert grid.rows == pipeline.class_names
    assert grid.columns == ["plain", "thick", "thin"]
    assert len(grid.images) == 3 * 3 * 2
    seeds = [torch.Generator().manual_seed(seed) for seed in (2, 3)]
    expected = pipeline(["Bag"], "thin", 2, 1, 1, 2, seeds, output_type="pt").images
    assert torch.allclose(grid.images[10:12], expected, atol=1e-5)


def test_labelled_grid_draws_each_picture_in_its_place(tmp_path):
    images = torch.zeros(6, 3, 8, 8)
    images[4, 0] = 1  # second row, second column: red
    save_picture(tmp_path / "grid.png", labelled_grid(images, ["a", "b"], ["x", "y", "z"]))
    pixels = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB")).astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 50)
    dark = pixels.sum(axis=-1) < 50
    rows, columns = np.nonzero(red)
    drawn_rows, drawn_columns = np.nonzero(dark)
    assert rows.mean() > drawn_rows.mean()
    assert abs(columns.mean() - (drawn_columns.min() + drawn_columns.max()) / 2) < 10


def test_loss_curves(tmp_path):
    points = [
        {"images": i * 100, "loss": 1 / i, "val_loss": 1 / i if i % 3 == 0 else None, "lr": 1e-3} for i in range(1, 9)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    figure = loss_curves(tmp_path / "metrics.jsonl")
    train, validation = figure.axes[0].get_lines()
    assert list(train.get_ydata()) == [point["loss"] for point in points]
    assert list(validation.get_xdata()) == [300, 600]
    save_picture(tmp_path / "losses.png", figure)
    assert Image.open(tmp_path / "losses.png").size[0] > 300
