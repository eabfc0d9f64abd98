"""The flags of every command; free of heavy imports, so that help does not wait for libraries."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from hfdiff.data.config import DatasetConfig, Half
from hfdiff.models.config import Spacing
from hfdiff.training.config import TrainConfig as TrainConfig

Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What every command that draws takes; what is not given, the model and its pipeline decide."""

    model: Model
    """A pipeline's folder, a run's folder, or a Hub id."""
    guidance_scale: float | None = None
    """Guidance by the class: 1 is none."""
    style_guidance_scale: float | None = None
    """Guidance by the styles: 1 is none."""
    autoguidance_scale: float | None = None
    """Guidance by the model's weaker companion, where it has one."""
    guidance_rescale: float | None = None
    """0 to 1: how far the contrast that guidance adds is taken back."""
    guidance_interval: tuple[float, float] | None = None
    """LOW HIGH: guide only between these noise levels (sigma / alpha), for example 0.2 5."""
    num_inference_steps: int | None = None
    """Steps of the sampler."""
    sampler: str | None = None
    """Another sampler than the one saved with the model, ipndm for example."""
    spacing: Spacing = "auto"
    """Spacing of the sampler's steps in noise."""
    seed: int = 0
    """Of the noise."""


@dataclass(frozen=True, kw_only=True)
class SampleFlags(Drawing):
    output_dir: str
    """Where the images go."""
    class_labels: tuple[str, ...] = ()
    """Names or ids of classes; by default all."""
    styles: tuple[str, ...] = ()
    """One for all or one for each label: "plain", "thick:0.8+slanted"; by default, and without labels, every style."""
    num_images: int = 4
    """Images for each label."""
    image: str | None = None
    """Start from this image: to vary it, restyle it, change its class, or repair a part."""
    strength: float | None = None
    """How far from the image to go: above 0, to 1. By default 0.6, with a mask 1."""
    mask: str | None = None
    """A mask image: white where the image is drawn anew, black where it is kept."""
    num_resamples: int | None = None
    """With a mask: how often each step is taken, so that what is drawn goes with what is kept. By default 20."""
    clip_guidance_scale: float | None = None
    """Push every step towards clip_prompt by CLIP's gradient: 0.5, for example; from 1 on classes suffer."""
    clip_prompt: str | None = None
    """What to push to, with {} for "a thick sneaker"; by default "a clear photo of {}"."""
    clip: str | None = None
    """Folder or Hub id of a CLIP or SigLIP model for that; by default the pipeline's own."""


@dataclass(frozen=True, kw_only=True)
class SelectFlags(Drawing):
    output_dir: str
    """Where the best images go, selection.json and selection.png."""
    class_labels: tuple[str, ...] = ()
    """Names or ids of classes; by default all."""
    styles: tuple[str, ...] = ("plain",)
    """Each class is drawn in each of them: plain, thick:0.8+slanted."""
    num_candidates: int = 10
    """Images drawn for each class and style."""
    top_k: int = 3
    """Images kept of them."""
    early_stopping: bool = False
    """Finish only the best third of the candidates, by what the model predicts after a third of the steps."""
    clip: str | None = None
    """Folder or Hub id of a CLIP or SigLIP model; by default the pipeline's own, or the dataset's."""
    score_weights: tuple[str, ...] = ()
    """Weights of the scores in the total, class:1 quality:1 by default; prompt is the cosine with the prompt."""
    good_prompts: tuple[str, ...] = ()
    """Positive prompts, with {} for the subject; by default "a good photo of {}" and "a clear photo of {}"."""
    bad_prompts: tuple[str, ...] = ()
    """Negative prompts; by default "a blurry photo of {}" and "a noisy photo of {}"."""
    dataset: str | None = None
    """Real images to score beside; by default those that the run was trained on."""
    resolution: int | None = None
    """Resize the real images to this many pixels a side."""
    judge: str | None = None
    """Folder of a judge, the evaluation classifier; by default the dataset's own, where there is one."""


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags(Drawing):
    model: Model = ""
    """A pipeline's folder, a run's folder, or a Hub id; or none, with --images."""
    images: str | None = None
    """Measure these images in place of a model's: a folder for each class (its name, slug or number), or parquet."""
    image_column: str | None = None
    """Column of --images that holds the images, where there are several."""
    label_column: str | None = None
    """Column of --images that holds the classes, where there are several."""
    dataset: str | None = None
    """The real images; by default those that the run was trained on."""
    output: str | None = None
    """JSON of the report, beside it a figure of the styles (metrics_styles.png); by default metrics.json, in the run's
    folder where there is one."""
    num_images: int | None = None
    """Plain samples; by default 2,000, of --images all."""
    num_styled: int | None = None
    """Samples in styles, where the model has styles; by default 1,000."""
    minutes: float | None = None
    """Draw only as many images as fit into this time."""
    metrics: tuple[str, ...] = ()
    """Names from the table of metrics; by default all that need nothing but hfdiff."""
    resolution: int | None = None
    """Resize the real images, and --images, to this many pixels a side."""
    judge: str | None = None
    """Folder of a judge, the evaluation classifier; by default the dataset's own, trained where there is none."""
    clip: str | None = None
    """Folder or Hub id of a CLIP or SigLIP model for the metrics in its features; by default as in select."""


@dataclass(frozen=True, kw_only=True)
class ShowFlags(Drawing):
    output_dir: str
    """Where the figures go, and show.json with their texts and numbers."""
    dataset: str | None = None
    """Real images of the model's classes; by default those that the run was trained on."""
    num_images: int = 20
    """Images drawn for each class, where shares are measured."""
    num_inference_steps: int | None = 30
    """Steps of the reverse process that is watched."""
    resolution: int | None = None
    """Resize the real images to this many pixels a side."""
    judge: str | None = None
    """Folder of a judge, the evaluation classifier; by default the dataset's own, trained where there is none."""
    noised_judge: str | None = None
    """The same of a judge of noised images (hfdiff train-judge --noised)."""


@dataclass(frozen=True, kw_only=True)
class EmaFlags:
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run that was trained with --ema_profiles."""
    sigma_rel: float
    """Length of the EMA: the standard deviation of its profile, as a share of the run; 0.01 to 0.25."""
    output_dir: str
    """A new folder for the pipeline."""


@dataclass(frozen=True, kw_only=True)
class StudyFlags:
    study: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY.yaml")]
    """What is varied, the budget of each run, the seeds, and how samples are judged (train_scripts/studies/)."""
    output_dir: str = "runs/study"
    """Folder of the runs and of the results; the same command again goes on."""
    dry_run: bool = False
    """Say what it will cost here, from a few real steps of each variant; nothing is written."""


@dataclass(frozen=True, kw_only=True)
class CardFlags:
    model: Model
    """A run's folder, or a pipeline's."""
    repo_id: str | None = None
    """OWNER/NAME on the Hub, for the code that loads it; by default this folder."""
    output_dir: str | None = None
    """A new folder for the whole: pipeline, card, figures and records, as they would be on the Hub."""
    half: bool = False
    """There, save the weights in half precision: half the size; they load as float32."""


@dataclass(frozen=True, kw_only=True)
class PushFlags:
    model: Model
    """A run's folder, or a pipeline's."""
    repo_id: str | None = None
    """OWNER/NAME; by default your own, and the folder's name."""
    private: bool = True
    """--no_private: everyone sees a new repository; one that exists stays as it is."""
    space: bool = False
    """Send a page to play with it as well, a Space of the same name."""
    half: bool = False
    """Publish the UNet's weights in half precision: half the size; they load as float32."""
    dry_run: bool = False
    """List the files, and send nothing."""
    yes: bool = False
    """Do not ask. Where there is no terminal, nothing is asked."""


@dataclass(frozen=True, kw_only=True)
class DemoFlags:
    model: Model
    """A pipeline's folder, a run's folder, or a Hub id."""
    port: int = 7860
    """On 127.0.0.1: only this machine sees the page."""


@dataclass(frozen=True)
class JudgeConfig(DatasetConfig):
    output_dir: str | None = None
    """Folder of the weights (fp16) and the configuration; by default the cache, where every command finds it."""
    half: Half = "first"
    """Train on this half of the images and leave the other to a scorer; whole takes all."""
    noised: bool = False
    """A judge of noised images, conditioned on the noise level, for hfdiff show; it predicts no styles."""
    epochs: int | None = None
    """Passes over the data; by default so many that about 660,000 images are seen, or 240,000 noised ones."""
    batch_size: int = 128
    """Images for each step."""
    learning_rate: float = 4e-3
    """At its peak."""
    flip: bool = False
    """Mirror half of the images; not where left and right are two classes."""
    trained_on: str | None = None
    """Name of the dataset in what is saved, where a folder holds one of the table; by default the folder's."""
    widths: tuple[int, int, int] | None = None
    """Channels of each stage; by default 32 64 128, or 16 32 64 of a judge of noised images."""
    seed: int = 0
    """Of everything random."""


@dataclass(frozen=True)
class ClipConfig(DatasetConfig):
    output_dir: str = "runs/clip"
    """Folder of the model and its processor, for from_pretrained."""
    half: Half = "second"
    """Train on this half of the images and leave the other to the judge; whole takes all."""
    epochs: int = 24
    """Passes over the data."""
    batch_size: int = 256
    """Images for each step."""
    learning_rate: float = 4e-3
    """At its peak."""
    flip: bool = False
    """Mirror half of the images; not where left and right are two classes."""
    trained_on: str | None = None
    """Name of the dataset in what is saved, where a folder holds one of the table; by default the folder's."""
    seed: int = 0
    """Of everything random."""
