"""A model's card, written from the files of its run: every number in it stands in one of them.

What was not measured does not appear; what was measured of other weights is left out, and the program says so.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hfdiff.core.errors import BadInput, as_bad_input
from hfdiff.core.files import file_to_write, folder_to_write, slug, write_file
from hfdiff.core.locks import write_lock
from hfdiff.evaluation.protocol import SETTINGS
from hfdiff.evaluation.report import number, rest_of
from hfdiff.figures.curves import style_levels, style_strengths
from hfdiff.figures.gallery import MAX_CLASSES, GalleryFigure, classes_and_styles, curves
from hfdiff.models.loading import find_pipeline
from hfdiff.publish.records import IMAGES, ModelRecords, check_image, read_card
from hfdiff.publish.sections import (
    code,
    data_section,
    findings,
    first_screen_table,
    hub_id,
    metrics_table,
    plain,
    protocol_sentence,
    selection_line,
    selection_table,
    some_styles,
    style_table,
    summary,
    training_section,
)

TEMPLATE = Path(__file__).parent / "templates" / "card.md"
STRENGTHS = "style_strengths.png"
TASK = "unconditional-image-generation"  # the Hub has no word for drawing by class
TAGS = ("diffusers", "hfdiff", "image-generation", "class-conditional", "style")
NEEDS = ("diffusers>=0.42.1", "torch>=2.11", "transformers>=5.18", "safetensors", "numpy", "pillow>=12.3")  # to draw


def write_card(records: ModelRecords, name: str | None = None) -> Path:
    """Write README.md and its figures into the model's home; `name` is what others load the model by."""
    folder_to_write(str(records.home / IMAGES), "MODEL")
    file_to_write(str(records.readme), "MODEL")
    with as_bad_input():  # a sampler that this pipeline cannot draw with
        images = list(draw_figures(records))
    chosen = records.selection_image if records.selection else None
    if chosen:
        check_image(chosen, "hfdiff select makes it")
    with records.damage_named():
        card = str(render(records, images, name or find_pipeline(records.model), bool(chosen))).encode()
    warn_of_licence(records)
    for shown in images:
        shown.write(records.home / IMAGES)
    if chosen:
        write_file(records.home / IMAGES / "selection.png", chosen.read_bytes())
    write_file(records.readme, card)
    return records.readme


def card_lock(records: ModelRecords) -> contextlib.AbstractContextManager[None]:
    """While entered, no other writes the card; a model in a folder where nobody can write needs no lock."""
    return write_lock(records.readme, "MODEL") if os.access(records.home, os.W_OK) else contextlib.nullcontext()


def warn_of_licence(records: ModelRecords) -> None:
    """Say so where the card that is there names another license than the configuration, which counts."""
    with contextlib.suppress(BadInput):
        old = read_card(records.readme).data.get("license") if records.readme.is_file() else None
        if old and old != records.licence:
            records.log(f"warning: the card said license {old}; {records.home / 'config.yaml'} says {records.licence}")


def draw_figures(records: ModelRecords) -> Iterator[GalleryFigure]:
    """The grid of classes and styles, and the curves where a run has left any."""
    pipeline = records.pipeline
    pipeline.set_progress_bar_config(disable=True)
    if device := torch.accelerator.current_accelerator(check_available=True):
        pipeline.to(device)
    yield classes_and_styles(pipeline, range(min(MAX_CLASSES, len(pipeline.class_names))), seed=0)
    yield from curves(records.home / "metrics.jsonl", lambda text: None)
    with records.damage_named():
        yield from strengths(records.report)


def strengths(report: Mapping[str, Any] | None) -> Iterator[GalleryFigure]:
    """The figure of the styles' strengths, where the report holds them at several levels."""
    if report and (levels := style_levels(report)):
        alt = "Strength measured over the strength asked for, of samples and of real images, with 95% intervals. "
        ends = (
            f"{plain(name)} {number(rows[0]['measured'])} to {number(rows[-1]['measured'])}" for name, rows in levels
        )
        yield GalleryFigure(STRENGTHS, style_strengths(report), f"{alt}Samples: {', '.join(ends)}.", dict(levels))


def render(records: ModelRecords, images: Sequence[GalleryFigure], name: str, chosen: bool) -> ModelCard:
    """The card; the first figure is the grid, the others are curves and the strengths of styles. `chosen`: is there one
    of CLIP's choice?"""
    pipeline, training, report, selection = records.pipeline, records.training, records.report, records.selection
    title = Path(name).name
    title = records.name if title in ("", "pipeline") else title
    return ModelCard.from_template(
        card_data(records, title),
        template_path=str(TEMPLATE),
        title=plain(title),
        summary=summary(pipeline),
        grid=images[0],
        alt=plain(images[0].alt),
        curves=[shown for shown in images[1:] if shown.file != STRENGTHS],
        strengths=next((shown for shown in images if shown.file == STRENGTHS), None),
        needs=" ".join(map(code, NEEDS)),
        name=code(name),
        some_classes=code(pipeline.class_names[:2]),
        one_class=code(pipeline.class_names[:1]),
        some_styles=code(some_styles(pipeline)),
        image=f"{slug(pipeline.class_names[0]) or 'image'}.png",
        clip=pipeline.clip_model is not None,
        classes=", ".join(map(plain, pipeline.class_names)),
        styles=", ".join(map(plain, pipeline.style_names)),
        data=data_section(records),
        training=training_section(records),
        command=training and training["command"],
        versions=training and plain(", ".join(f"{key} {value}" for key, value in training["versions"].items())),
        protocol=report and protocol_sentence(report),
        headlines=report and first_screen_table(report),
        metrics=report and rest_of(report) and metrics_table(report),
        per_style=report and style_table(report),
        selection=selection and selection_table(selection),
        selection_protocol=selection and selection_line(selection),
        chosen=chosen,
        findings=list(findings(records)),
        notes=records.notes,
    )


def card_data(records: ModelRecords, title: str) -> ModelCardData:
    """What the Hub reads: the words it sorts by, and every metric with its circumstances."""
    dataset = hub_id(records.training["data"]["name"]) if records.training else None
    return ModelCardData(
        library_name="diffusers",
        pipeline_tag=TASK,
        license=records.licence,
        tags=list(TAGS),
        datasets=[dataset] if dataset else None,
        model_name=title,
        eval_results=eval_results(records.report) if records.report else None,
        weights=records.fingerprint,
        records=records.digest,
    )


def eval_results(report: Mapping[str, Any]) -> list[EvalResult]:
    """An entry in the Hub's model-index for each metric."""
    protocol = report["protocol"]
    settings = ("seed", "weights", "selection", "sampler", "spacing", *SETTINGS)
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=hub_id(protocol["dataset"]) or protocol["dataset"],
            dataset_name=protocol["dataset"],
            dataset_split=protocol["split"],
            metric_type=name,
            metric_name=name.replace("_", " "),
            metric_value=metric["value"],
            metric_args={key: metric[key] for key in ("n", "extractor", "real", "real_n", "ci95")}
            | {key: protocol[key] for key in settings},
        )
        for name, metric in report["metrics"].items()
    ]
