"""Images: the grid shows what it says, in order."""

import io
import json
import math

import numpy as np
import pytest
import torch
from hostile_names import HOSTILE
from matplotlib import rcParams
from matplotlib.text import Text
from PIL import Image

from hfdiff.data.styles import LEVELS
from hfdiff.evaluation.trajectory import Reading, Recognised, Recognition, Reverse, score_histogram
from hfdiff.figures.curves import loss_curves, quality_curves, quality_points, style_levels, style_strengths
from hfdiff.figures.evolution import evolution
from hfdiff.figures.grids import class_style_grid, headed, labelled_grid, save_figure, style_sweep
from hfdiff.figures.selection import selection_figure
from hfdiff.figures.trajectory import histogram_figure, recognition_figure, reverse_strip


def test_grid_of_classes_and_styles_shares_the_noise_along_a_row(pipeline):
    grid = class_style_grid(pipeline, per_cell=2, num_inference_steps=2, style_guidance_scale=1, guidance_scale=1)
    assert grid.rows == pipeline.class_names
    assert grid.columns == ["plain", "thick", "thin"]
    assert len(grid.images) == 3 * 3 * 2
    seeds = [torch.Generator().manual_seed(seed) for seed in (2, 3)]
    expected = pipeline(["Bag"], "thin", 2, 1, 1, 2, seeds, output_type="pt").images
    assert torch.allclose(grid.images[10:12], expected, atol=1e-5)


def test_labelled_grid_draws_each_image_in_its_place(tmp_path):
    images = torch.zeros(6, 3, 8, 8)
    images[4, 0] = 1  # second row, second column: red
    save_figure(tmp_path / "grid.png", labelled_grid(images, ["a", "b"], ["x", "y", "z"]))
    pixels = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB")).astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 50)
    dark = pixels.sum(axis=-1) < 50
    rows, columns = np.nonzero(red)
    drawn_rows, drawn_columns = np.nonzero(dark)
    assert rows.mean() > drawn_rows.mean()
    assert abs(columns.mean() - (drawn_columns.min() + drawn_columns.max()) / 2) < 10


def test_names_in_figures_are_drawn_as_they_stand(tmp_path, monkeypatch):
    monkeypatch.setitem(rcParams, "text.usetex", True)  # a user's own choice: a name would be a program for LaTeX
    count = len(HOSTILE)
    images, reverse = torch.rand(count, 1, 8, 8), reverse_of(count, 5)
    rows = [recognised(name, 0.5, 0.0) for name in (*HOSTILE, "all")]
    title = " ".join(HOSTILE)
    figures = [
        headed(labelled_grid(images, HOSTILE, [title]), title),
        selection_figure([(name, images[:1], [name]) for name in HOSTILE]),
        reverse_strip(reverse, HOSTILE, range(count)),
        recognition_figure([Recognition(title, reverse, rows, rows)], title),
    ]
    for figure in figures:
        save_figure(tmp_path / "figure.png", figure)
        texts = figure.findobj(Text)
        drawn = [text.get_text() for text in texts]
        assert all(any(name in text for text in drawn) for name in HOSTILE)
        assert not any(text.get_parse_math() or text.get_usetex() for text in texts)


def test_no_sign_of_a_name_is_lost_in_a_figure(tmp_path):
    """As a formula, the longer name would be the narrower."""
    widths = []
    for name in ("$\\alpha\\alpha$", "aa"):
        save_figure(tmp_path / "grid.png", labelled_grid(torch.rand(1, 1, 8, 8), [name], [""]))
        widths.append(Image.open(tmp_path / "grid.png").size[0])
    assert widths[0] > widths[1] + 60


def test_loss_curves(tmp_path):
    points = [
        {"images": i * 100, "loss": 1 / i, "val_loss": 1 / i if i % 3 == 0 else None, "lr": 1e-3} for i in range(1, 9)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    figure = loss_curves(tmp_path / "metrics.jsonl")
    train, validation = figure.axes[0].get_lines()
    assert list(train.get_ydata()) == [point["loss"] for point in points]
    assert list(validation.get_xdata()) == [300, 600]
    save_figure(tmp_path / "losses.png", figure)
    assert Image.open(tmp_path / "losses.png").size[0] > 300


def test_sweep_starts_plain_and_ends_in_the_full_style(pipeline):
    sweep = style_sweep(pipeline, [1], seed=3, num_inference_steps=2)
    assert sweep.rows == ["Bag, thick", "Bag, thin"]
    assert sweep.columns == ["0", "0.25", "0.5", "0.75", "1"]
    assert [style["thin"] for style in sweep.styles[5:]] == list(LEVELS)
    noise = torch.Generator().manual_seed(4)
    full = pipeline(["Bag"], "thin", num_inference_steps=2, generator=noise, output_type="pt").images
    assert torch.allclose(sweep.images[-1], full[0], atol=1e-4)
    assert torch.allclose(sweep.images[0], sweep.images[5], atol=1e-4)


def test_evolution_shows_every_grid_with_the_images_seen(tmp_path):
    files = [tmp_path / f"images-{count:09d}.png" for count in (1000, 2000, 3500)]
    for i, file in enumerate(files):
        Image.new("RGB", (200 - i, 100 + i), (80 * i, 0, 0)).save(file)
    animated = Image.open(io.BytesIO(evolution(files)))
    assert (animated.n_frames, animated.format) == (3, "WEBP")
    assert animated.size[0] == 200
    assert animated.size[1] > 110
    for i in range(3):
        animated.seek(i)
        frame = np.asarray(animated.convert("RGB")).astype(int)
        assert abs(frame[-30, 150, 0] - 80 * i) < 12
        assert (frame[:20] < 100).any()  # the caption


def reverse_of(classes: int, points: int) -> Reverse:
    """Of class k all is recognised from point k on, in the predicted image; x_t never is."""
    asked = torch.arange(classes)
    clean = torch.stack([torch.where(torch.arange(points) >= k, k, classes) for k in range(classes)])
    levels = torch.cat([torch.linspace(-6, 6, points - 1), torch.tensor([math.inf])]).double()
    images = torch.rand(classes, points, 1, 8, 8).mul(255).byte()
    shares = torch.linspace(0, 1, points).double()
    never, scores = clean * 0 + classes, torch.rand(classes, points)
    readings = Reading(never, scores), Reading(clean, scores)
    return Reverse(list(range(classes)), asked, shares, levels, *readings, images, images)


def recognised(name: str, share: float, level: float) -> Recognised:
    never = float(share == math.inf)
    return Recognised(name, 4, (level,) * 3, (level, level), (share,) * 3, (share, share), (share,) * 3, never)


def test_recognition_figure_sorts_by_the_median_and_draws_no_mark_for_never(tmp_path):
    reverse = reverse_of(3, 5)
    early, late = recognised("early", 0.1, -3.0), recognised("late", 0.7, 3.0)
    never = recognised("never", math.inf, math.inf)
    rows = [late, never, early, late]
    runs = [Recognition(label, reverse, rows, [never] * 4) for label in ("without guidance", "guidance 3")]
    figure = recognition_figure(runs, "a title")
    curves, dots = figure.axes[0], figure.axes[2]
    assert [axes.get_title() for axes in figure.axes[:2]] == ["without guidance", "guidance 3"]
    assert [line.get_linestyle() for line in curves.get_lines()] == ["-", "--"]
    assert list(curves.get_lines()[1].get_ydata())[-1] == 1
    assert [label.get_text() for label in dots.get_yticklabels()] == ["never", "late", "early"]
    filled, open_ = dots.get_lines()
    assert np.allclose(filled.get_xdata(), [math.nan, 3.0, -3.0], equal_nan=True)
    assert np.isnan(open_.get_xdata()).all()
    assert {filled.get_marker(), open_.get_marker()} == {"o", "s"}
    save_figure(tmp_path / "recognition.png", figure)
    assert Image.open(tmp_path / "recognition.png").size[0] > 1000


def test_reverse_strip_has_two_rows_for_each_class():
    figure = reverse_strip(reverse_of(3, 31), ["a", "b", "c"], [0, 2])
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "a: x_t", "a: predicted", "c: x_t", "c: predicted"
    ]  # fmt: skip
    columns = [label.get_text() for label in axes.get_xticklabels()]
    assert len(columns) == 11
    assert columns[0] == "0%\n−6.0"
    assert columns[-1] == "100%\nclean"


def test_histograms_differ_without_colour():
    figure = histogram_figure(score_histogram(torch.rand(30), torch.rand(40)), "a title")
    generated, real = figure.axes[0].patches
    assert generated.get_hatch()
    assert not real.get_hatch()
    assert real.get_linestyle() != generated.get_linestyle()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "generated (n = 30)", "real (n = 40)"
    ]  # fmt: skip


def test_quality_curves_hold_each_distance_against_the_loss_of_the_same_weights(tmp_path):
    lines = [
        {"images": 10, "val_loss": 0.6},
        {"images": 20, "val_loss": 0.5, "class_accuracy": 0.2, "quality_n": 300, "frechet_judge": 30.0},
        {"images": 30, "val_loss": 0.4, "class_accuracy": 0.5, "quality_n": 300, "frechet_judge": 20.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    points = quality_points(tmp_path / "metrics.jsonl")
    assert [point["images"] for point in points] == [20, 30]
    figure = quality_curves(points)
    against_loss = figure.axes[1].get_lines()[0]
    assert against_loss.get_xydata().tolist() == [[0.5, 30.0], [0.4, 20.0]]
    assert len(quality_curves([{**point, "frechet_judge": 1.0} for point in points]).axes) == 3
    for point in points:
        del point["frechet_judge"]
    assert len(quality_curves(points).axes) == 1


def test_strengths_of_styles_in_a_panel_each():
    def levels(shift: float) -> list[dict]:
        return [
            {"asked": a, "measured": a * 0.8 + shift, "ci95": [a * 0.8, a * 0.8 + 3 * shift], "n": 20}
            | {"real": a, "real_ci95": None}
            for a in (0, 0.25, 0.5, 0.75, 1)
        ]

    styles = {f"${i}_": {"levels": levels(0.01 * i), "slope": 0.8} for i in range(1, 6)} | {"own": {"slope": None}}
    figure = style_strengths({"metrics": {"style_fidelity": {"per_style": styles}}})
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == [f"${i}_" for i in range(1, 6)]
    samples, real = panels[4].containers
    assert samples.lines[0].get_ydata() == pytest.approx([0.05, 0.25, 0.45, 0.65, 0.85])
    ends = samples.lines[2][0].get_segments()[2]
    assert ends[:, 1] == pytest.approx([0.4, 0.55])
    assert real.lines[0].get_ydata() == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    figure.canvas.draw()
    assert (
        style_levels({"metrics": {}}) == style_levels({"metrics": {"style_fidelity": {"per_style": {"a": {}}}}}) == []
    )
