"""The best of many candidates: chosen by the scores that the pipeline reports, whatever the batch and the sampler."""

import json

import pytest
import torch
from conftest import tiny_unet
from schedulers import SCHEDULERS, each_scheduler

from hfdiff.data.table import to_bytes, to_unit_range
from hfdiff.evaluation.clip_training import make_clip
from hfdiff.evaluation.judge import load_judge, predict
from hfdiff.evaluation.selection import SCORE_NAMES, Candidates, Selection, SelectionReferences, draw_candidates, select
from hfdiff.figures.selection import figure_of_selection
from hfdiff.pipelines import (
    SCORES,
    ClassStylePipeline,
    ClipGuidance,
    Scorer,
    noise_levels,
    predicted_clean,
    score_images,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clip(fashion) -> Scorer:
    return make_clip(fashion[0])


@pytest.fixture
def choosing(pipeline, clip) -> ClassStylePipeline:
    pipeline.register_modules(clip_model=clip.model, clip_processor=clip.processor)
    return pipeline


def generators(n: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(n)]


def candidates(pipe: ClassStylePipeline, n: int = 12, **arguments):
    return pipe(
        ["Sneaker", "Bag"],
        styles="thick",
        num_candidates=n,
        generator=generators(2 * n),
        output_type="pt",
        num_inference_steps=4,
        **arguments,
    )


def test_the_best_are_those_with_the_highest_total(choosing):
    every = choosing(
        ["Sneaker", "Bag"],
        styles="thick",
        num_images_per_label=12,
        generator=generators(24),
        output_type="pt",
        num_inference_steps=4,
    )
    asked = [choosing.prompt_target(i, {"thick": 1.0}) for i in (0, 1)]
    weights = {"prompt": 2.0, "quality": -1.0}
    scores = score_images(choosing.scorer, every.images, asked, torch.arange(24) // 12, weights)
    assert torch.allclose(scores[:, -1], 2 * scores[:, 0] - scores[:, 2], atol=1e-6)
    out = candidates(choosing, top_k=3, score_weights=weights)
    best = torch.cat([scores[:12, -1].topk(3).indices, 12 + scores[12:, -1].topk(3).indices])
    assert out.candidates == (best % 12).tolist()
    assert out.class_labels == [0, 0, 0, 1, 1, 1]
    assert torch.allclose(out.images, every.images[best], atol=1e-5)
    for row, record in zip(best, out.scores, strict=True):
        assert list(record.values()) == pytest.approx(scores[row].tolist(), abs=1e-4)


def test_the_batch_split_does_not_change_the_choice(choosing):
    whole, parts = (candidates(choosing, top_k=4, max_batch_size=size) for size in (256, 10))
    assert whole.candidates == parts.candidates
    assert torch.allclose(whole.images, parts.images, atol=1e-5)


def trained_for(pipeline, scheduler):
    names = {"id2label": pipeline.config.id2label, "styles": pipeline.config.styles}
    pipe = ClassStylePipeline(**{**pipeline.components, "scheduler": scheduler}, **names)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@each_scheduler
def test_what_early_stopping_finishes_is_what_would_have_been_drawn(choosing, name):
    """Dropping candidates in the middle takes nothing from the others: the sampler's memory follows."""
    if name.startswith("ddpm"):
        pytest.skip("draws noise while it samples, so fewer candidates get other noise from their generators")
    choosing = trained_for(choosing, SCHEDULERS[name]())
    every = candidates(choosing, top_k=12)
    rows = {(label, number): i for i, (label, number) in enumerate(zip(every.class_labels, every.candidates))}
    seen = []
    out = candidates(
        choosing, top_k=2, early_stopping=True, callback_on_step_end=lambda p, i, t, x: seen.append(len(x["latents"]))
    )
    assert (seen[0], seen[-1]) == (24, 8)  # 30% of 12, rounded up, of two labels
    for image, key in zip(out.images, zip(out.class_labels, out.candidates)):
        assert torch.allclose(image, every.images[rows[key]], atol=1e-4)


@each_scheduler
def test_clip_guidance_moves_the_predicted_clean_image_up_the_cosines_gradient(choosing, name):
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(10)
    t = scheduler.timesteps[5]
    sigma = noise_levels(scheduler, t)[1]
    torch.manual_seed(0)
    x, prediction = torch.randn(2, 4, 1, 28, 28).unbind()
    wanted = choosing.scorer.texts(["a clear photo of a bag"]).expand(4, -1)
    pushed = ClipGuidance(0.3, (0.0, 1e9))(choosing.scorer, wanted, scheduler, x, prediction, t)
    before, after = (predicted_clean(scheduler, x, p, t) for p in (prediction, pushed))
    assert (after - before).square().mean(dim=(1, 2, 3)).sqrt() == pytest.approx([0.3 * sigma.item()] * 4, rel=1e-2)
    cosines = [
        (choosing.scorer.images(clean / 2 + 0.5) * wanted).sum(dim=1)
        for clean in (before, before + (after - before) / 100)
    ]
    assert (cosines[1] > cosines[0]).all()


def test_clip_guidance_raises_the_cosine_with_its_prompt(choosing):
    wanted = "a very noisy photo of a bag"
    images = [
        choosing(
            [1], num_images_per_label=6, generator=generators(6), output_type="pt", clip_prompt=wanted, **given
        ).images
        for given in (
            {},
            {"clip_guidance_scale": 0.5},
            {"clip_guidance_scale": 0.5, "clip_guidance_interval": (1e6, 2e6)},
        )
    ]
    plain, pushed, outside = (choosing.scorer.images(drawn) @ choosing.scorer.texts([wanted])[0] for drawn in images)
    assert (pushed > plain).all()
    assert torch.equal(outside, plain)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": 11}, "top_k 11 of num_candidates 10; valid: 1 to num_candidates"),
        ({"top_k": 0}, "top_k 0"),
        ({"num_candidates": 0}, "num_candidates 0"),
        ({"num_images_per_label": 2}, "give top_k instead"),
        ({"score_weights": {"beauty": 1}}, "unknown score 'beauty'; valid: prompt, class, quality"),
        ({"score_weights": {"Class": 1}}, "unknown score 'Class'"),
        (
            {"quality_prompts": {"a sharp {}": True, "a fuzzy {}": False}},
            "does not know 'sharp' of the prompt 'a sharp",
        ),
        ({"clip_guidance_scale": 1, "clip_prompt": "a lovely {}"}, "does not know 'lovely' of the prompt"),
        ({"score_weights": {"class": float("nan")}}, "weight of score 'class' nan"),
        ({"score_weights": {"class": 0}}, "one at least that is not 0"),
        ({"quality_prompts": {"a good photo of {}": True}}, "one at least that is positive"),
        ({"quality_prompts": {"a good photo": True, "a bad {}": False}}, "templates with {} for the subject"),
        ({"quality_prompts": {"a good {}" + " very" * 40: True, "a bad {}": False}}, "tokens; valid: up to 32"),
        ({"class_labels": [None]}, "class None cannot be scored"),
        ({"clip_guidance_scale": float("inf")}, "clip_guidance_scale inf"),
        ({"clip_guidance_scale": 1, "clip_guidance_interval": (2, 1)}, "clip_guidance_interval"),
    ],
)
def test_mistakes_of_selections_are_named(choosing, arguments, message):
    with pytest.raises(ValueError, match=message.replace("{}", r"\{\}")):
        choosing(**{"class_labels": ["Bag"], "num_candidates": 10, **arguments})


def test_a_pipeline_without_clip_says_so(pipeline):
    with pytest.raises(ValueError, match="no clip_model and clip_processor"):
        pipeline(["Bag"], num_candidates=3)


def test_what_is_not_clip_like_is_refused(pipeline, clip):
    with pytest.raises(ValueError, match="ClassStyleUNet2DModel is not CLIP-like"):
        Scorer(tiny_unet(), clip.processor)
    with pytest.raises(ValueError, match="valid: a processor with image_processor and tokenizer"):
        Scorer(clip.model, clip.processor.tokenizer)


def test_selection_is_written_with_everything_beside(choosing, fashion, tmp_path):
    selection = select(
        choosing,
        ["Sneaker", 1],
        ["plain", "thick:0.8"],
        SelectionReferences(fashion[1], None),
        num_candidates=5,
        top_k=2,
    )
    selection.write(tmp_path, {"seed": 0})
    found = json.loads((tmp_path / "selection.json").read_text())
    assert set(found["classes"]) == {"Sneaker", "Bag"}
    rows = found["classes"]["Bag"]["candidates"]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5] * 2
    assert sum(row["selected"] for row in rows) == 4
    assert len({row["seed"] for entry in found["classes"].values() for row in entry["candidates"]}) == 20
    beside = found["classes"]["Bag"]["by_style"]["thick:0.8"]["beside"]
    assert set(beside) == {"real", "blurred", "noise"}
    low, high = beside["real"]["high_quality_ci95"]
    assert low < beside["real"]["high_quality_share"] <= high < low + 0.2  # of 100
    assert found["right"] is None  # without a judge
    assert 0.3 < found["preferences"]["chance95"] < found["classes"]["Bag"]["by_style"]["plain"]["preferences_chance95"]
    assert set(beside["real"]["mean_scores"]) == {*SCORES, "total"}
    assert len(list(tmp_path.glob("*.png"))) == 8
    assert "Bag, thick:0.8" in selection.describe()


def test_a_candidate_is_drawn_again_from_its_seed(choosing):
    cell = draw_candidates(choosing, "Bag", "thick", range(7, 13), top_k=2)
    record = next(row for row in cell.records() if row["rank"] == 1)
    again = choosing(["Bag"], "thick", generator=torch.Generator().manual_seed(record["seed"]), output_type="pt")
    assert torch.allclose(again.images[0], cell.images[0], atol=1e-5)


def test_a_class_without_real_images_has_nothing_beside_it(choosing, fashion):
    others = fashion[1].part(fashion[1].labels != 1)
    selection = select(choosing, ["Bag"], ["plain"], SelectionReferences(others, None), num_candidates=1, top_k=1)
    row = json.loads(json.dumps(selection.report(), allow_nan=False))["classes"]["Bag"]["by_style"]["plain"]
    assert row["beside"] is None
    assert set(row["preferences"]["total"].values()) == {None}  # of one candidate nothing is known
    assert "Bag" in selection.describe()


def test_what_is_unknown_is_named_before_anything_is_drawn(choosing):
    drawn: list[int] = []
    watch = {"callback_on_step_end": lambda *a: drawn.append(1)}
    for labels, styles in ((["Bag", "cow"], ["plain"]), (["Bag"], ["plain", "curly"])):
        with pytest.raises(ValueError, match="unknown"):
            select(choosing, labels, styles, SelectionReferences(None, None), **watch)
    assert not drawn


def test_what_is_asked_for_twice_is_refused(choosing):
    with pytest.raises(ValueError, match="some of them twice"):
        select(choosing, ["Bag", "bag"], ["plain"], SelectionReferences(None, None))


def test_two_seeds_share_no_candidate(choosing):
    few = {"num_candidates": 4, "top_k": 1}
    cells = [
        select(choosing, ["Bag"], ["plain"], SelectionReferences(None, None), seed=s, **few).cells[0] for s in (0, 1)
    ]
    assert not set(cells[0].seeds) & set(cells[1].seeds)


def test_early_stopping_finishes_its_share_of_many(choosing):
    seen = []

    def count(pipe, index, timestep, tensors):
        seen.append((index, len(tensors["latents"])))

    out = candidates(choosing, 40, top_k=12, early_stopping=True, max_batch_size=30, callback_on_step_end=count)
    assert len(out.images) == 24
    finished = sum(rows for index, rows in seen if index == 3)
    assert 24 <= finished <= 24 + 2 * len([index for index, _ in seen if index == 0])  # rounded up in each part


def test_stopped_candidates_are_told_apart(choosing):
    cell = draw_candidates(choosing, "Bag", None, range(10), top_k=2, early_stopping=True)
    records = cell.records()
    assert [row["rank"] for row in records] == [1, 2, 3] + [None] * 7
    selection = Selection([cell], [None], None)
    assert selection.verdict is None
    told = selection.report()["classes"]["Bag"]
    assert told["high_quality_share"] is told["high_quality_ci95"] is told["by_style"]["plain"]["preferences"] is None
    assert not any("worst" in axes.get_ylabel() for axes in figure_of_selection(selection).axes)
    assert "Spearman" not in selection.describe()
    assert {row["seed"] for row in records} == set(range(10))


def cell_of(choosing, images, top_k: int) -> Candidates:
    """Candidates of class 0 that are these images, the first ones best."""
    n = len(images)
    scores = torch.rand(n, len(SCORE_NAMES), generator=torch.Generator().manual_seed(0))
    asked = choosing.prompt_target(0, {})
    return Candidates(asked, "Sneaker", {}, list(range(n)), list(range(n)), images, scores, top_k)


def test_the_choice_is_judged_over_all_classes_with_an_interval(choosing, fashion):
    """Of each cell the best two show the class asked for, and the other eight another: the judge must see the gain."""
    held_out, judge = fashion[1], load_judge("fashion_mnist_12k")
    seen = [to_unit_range(held_out.pixels[held_out.labels == label][:40]) for label in (0, 1)]
    rows = [torch.cat([seen[0][2 * i :][:2], seen[1][8 * i :][:8]]) for i in range(5)]
    selection = Selection([cell_of(choosing, images, 2) for images in rows], [None] * 5, judge)
    found = selection.report()["right"]
    hits = predict(judge, to_bytes(torch.cat(rows))).classes.view(5, 10) == 0
    shares = hits[:, :2].double().mean().item(), hits.double().mean().item()
    assert (found["best"], found["random"]) == pytest.approx(shares)
    assert found["difference"] == pytest.approx(shares[0] - shares[1])
    assert (found["n_best"], found["n_random"], found["cells"]) == (10, 50, 5)
    assert 0.3 < found["ci95"][0] < found["difference"] < found["ci95"][1]
    said = selection.describe()
    assert f"of the 10 best, {shares[1]:.3f} of the 50 candidates" in said
    assert "95% interval" in said


def test_where_all_are_kept_there_is_no_choice_to_judge(choosing, fashion):
    images, judge = to_unit_range(fashion[1].pixels[:4]), load_judge("fashion_mnist_12k")
    assert Selection([cell_of(choosing, images, 4)], [None], judge).verdict is None
