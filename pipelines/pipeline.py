"""A diffusion pipeline that is steered by class and by style.

What is drawn, how, and from which words stands in the modules beside this one; `bundle` joins them into the one file
that travels with a model.
"""

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.utils import BaseOutput
from PIL import Image

from .checks import count, is_size, number
from .grammar import StyleSpec, find_name, match_name, resolve_styles
from .guidance import SAMPLING_DEFAULTS, ClipGuidance, Guidance
from .images import ImageInput
from .noise_levels import check_process, predicted_clean, reversed_process
from .prompts import QUALITY_PROMPTS, PromptTarget, prompt, subject
from .sampling import Denoiser, Samples, SamplingPlan, draw_part, make_request, start
from .saving import name_installed, save_sources, stand_in_for_files, without_stand_ins
from .scores import SCORE_WEIGHTS, SCORES, Choice, Scorer


@dataclass
class ClassStylePipelineOutput(BaseOutput):
    """Images, label by label.

    `images`: a list of PIL images, or NHWC numpy, or NCHW torch, in [0, 1]; `class_labels`: the class id of each
    (None: unspecified); `styles`: the strengths of each, by name. Chosen ones come best first for each label, with
    `scores`, an entry in `SCORES` and "total" each, and `candidates`, the number of each among its label's, from 0.
    """

    images: list[Image.Image] | np.ndarray | torch.Tensor
    class_labels: list[int | None]
    styles: list[dict[str, float]]
    scores: list[dict[str, float]] | None = None
    candidates: list[int] | None = None


class ClassStylePipeline(DiffusionPipeline):
    """Images from noise, by class and style.

    Args:
        unet: a `ClassStyleUNet2DModel`.
        scheduler: the diffusers scheduler of the objective that the UNet was trained for.
        guide_unet: a weaker UNet of the same data and objective (smaller, or trained for less), for autoguidance.
        id2label: {class id: class name}.
        styles: {style name: {"phrase": words for a prompt, "group": exclusive group or None, "index": column of the
            UNet}}; where no index is given, the columns are in the order of the dictionary.
        clip_model, clip_processor: a CLIP or SigLIP model of transformers and its processor, for choosing among
            candidates and for guidance by a prompt.
        process: what `reversed_process` says of the scheduler that the UNet was trained for; by default of `scheduler`.
        clean_ends: put what nobody can tell from black and white there (`dead_zone`), as where black is quite black in
            the data.
        sampling: what a call takes where nothing is given, in place of some of `SAMPLING_DEFAULTS`: chosen for this
            model.
    """

    model_cpu_offload_seq = "unet->guide_unet->clip_model"
    _optional_components: ClassVar[list[str]] = ["guide_unet", "clip_model", "clip_processor"]

    def __init__(
        self,
        unet: ModelMixin,
        scheduler: SchedulerMixin,
        id2label: dict | None = None,
        styles: dict | None = None,
        process: dict | None = None,
        clean_ends: bool = False,
        sampling: dict | None = None,
        guide_unet: ModelMixin | None = None,
        clip_model: Any = None,
        clip_processor: Any = None,
    ):
        super().__init__()
        without_stand_ins()
        self.register_modules(
            unet=unet,
            scheduler=scheduler,
            guide_unet=guide_unet,
            clip_model=clip_model,
            clip_processor=clip_processor,
        )
        id2label = {int(i): name for i, name in (id2label or {}).items()}
        # A saved configuration is sorted by name, so each style carries its column.
        styles = {name: {"index": i, **style} for i, (name, style) in enumerate((styles or {}).items())}
        if not all(isinstance(name, str) for name in (*id2label.values(), *styles)):
            raise ValueError(f"names of classes {list(id2label.values())[:5]}; valid: texts")
        if not is_size(unet.config.sample_size):
            raise ValueError(
                f"sample_size {unet.config.sample_size}; valid: pixels a side, or (height, width), to 4096"
            )
        if sorted(id2label) != list(range(unet.config.num_classes)):
            raise ValueError(f"id2label names {len(id2label)} classes, the UNet has {unet.config.num_classes}")
        if sorted(style["index"] for style in styles.values()) != list(range(unet.config.num_styles)):
            raise ValueError(f"{len(styles)} styles are named, the UNet has {unet.config.num_styles}")
        if guide_unet is not None:
            for key in ("in_channels", "out_channels", "num_classes", "num_styles"):
                if guide_unet.config[key] != unet.config[key]:
                    raise ValueError(f"{key} of guide_unet is {guide_unet.config[key]}; valid: {unet.config[key]}")
        self._scorer: Scorer | None = None
        self.register_to_config(
            id2label={str(i): name for i, name in id2label.items()},
            styles=styles,
            process=process or reversed_process(scheduler),
            clean_ends=clean_ends,
            sampling=sampling or {},
        )
        if unknown := self.config.sampling.keys() - SAMPLING_DEFAULTS.keys():
            raise ValueError(f"sampling sets {', '.join(sorted(unknown))}; valid: {', '.join(SAMPLING_DEFAULTS)}")
        if sampling:
            self.check_settings(**self.settings())

    @property
    def class_names(self) -> list[str]:
        return [self.config.id2label[str(i)] for i in range(self.unet.config.num_classes)]

    @property
    def style_names(self) -> list[str]:
        return sorted(self.config.styles, key=lambda name: self.config.styles[name]["index"])

    def class_id(self, label: int | str | None) -> int | None:
        """A class id from a name (case does not matter), an id, or an id written as text; None stays None."""
        if label is None:
            return None
        names = self.class_names
        if isinstance(label, str) and (find_name(label, names) or not label.isdecimal()):
            return names.index(match_name("class", label, names))
        try:
            class_id = count("class", int(label) if isinstance(label, str) else label, -math.inf)
        except ValueError as error:
            raise ValueError(f"class {label!r}; valid: a name, a whole number, or None") from error
        if not 0 <= class_id < len(names):
            raise ValueError(f"class id {class_id} out of range; valid: 0 to {len(names) - 1}")
        return class_id

    def conditions(
        self, class_labels: Any, styles: Any, num_images_per_label: int = 1
    ) -> tuple[list[int | None], list[dict[str, float]]]:
        """One class id and one dictionary of strengths for each image, label by label; see `__call__`."""
        several = isinstance(class_labels, Iterable) and not isinstance(class_labels, str | bytes)
        labels = list(class_labels) if several and getattr(class_labels, "ndim", None) != 0 else [class_labels]
        ids = [self.class_id(label) for label in labels]
        specs = list(styles) if isinstance(styles, Sequence) and not isinstance(styles, str) else [styles]
        if not ids:
            raise ValueError("class_labels are an empty list; valid: one label or more")
        if len(specs) not in (1, len(ids)):
            raise ValueError(f"{len(specs)} styles for {len(ids)} labels; valid: one for all, or one for each label")
        strengths = [resolve_styles(spec, self.config.styles) for spec in specs]
        if len(strengths) == 1:
            strengths = strengths * len(ids)
        repeat = range(count("num_images_per_label", num_images_per_label, 1))
        return [i for i in ids for _ in repeat], [dict(s) for s in strengths for _ in repeat]

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int | str | None] | int | str | None = None,
        styles: Sequence[StyleSpec] | StyleSpec = None,
        num_images_per_label: int = 1,
        guidance_scale: float | None = None,
        style_guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        max_batch_size: int = 256,
        image: ImageInput | None = None,
        strength: float | None = None,
        mask: ImageInput | None = None,
        num_resamples: int = 20,
        autoguidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        callback_on_step_end: "StepCallback | None" = None,
        num_candidates: int | None = None,
        top_k: int = 1,
        early_stopping: bool = False,
        score_weights: Mapping[str, float] = SCORE_WEIGHTS,
        quality_prompts: Mapping[str, bool] = QUALITY_PROMPTS,
        clip_guidance_scale: float = 0.0,
        clip_prompt: str = "a clear photo of {}",
        clip_guidance_interval: tuple[float, float] = (0.0, math.inf),
    ) -> ClassStylePipelineOutput | tuple:
        """Draw images, from noise or from images given.

        Steps and guidance that are not given are the model's own, chosen for it, else `SAMPLING_DEFAULTS` (`settings`).

        Args:
            class_labels: names or ids; None for a label means "any class".
            styles: None for plain images; "thick:0.8+slanted" or {"thick": 0.8}; one for all or one for each label.
            num_images_per_label: images for each label; they come label by label.
            guidance_scale, style_guidance_scale: w_c and w_s of `Guidance`; 1 is none.
            num_inference_steps: steps of the scheduler (second order: one evaluation each).
            generator: one for all images, or one for each image.
            output_type: "pil", "np" (NHWC float32 in [0, 1]) or "pt" (NCHW float32 in [0, 1]).
            return_dict: False for the plain tuple (images,).
            max_batch_size: the most rows that go through the UNet at once; it bounds the memory, but for the noise
                of all images, which is drawn first so that no batch size changes it.
            image: begin with these images, to vary them, restyle them, change their class or repair a part: PIL,
                numpy NHWC or torch NCHW in [0, 1] (or uint8), or a list; one for all, one for each label, or one for
                each image drawn. Another size is cut at the centre to the model's aspect and resized, transparency
                becomes white, and grey and colour are converted to what the model draws.
            strength: how far to go back to noise, from just above 0 (the image as it is) to 1 (only a trace of it):
                the share of noise sigma / (alpha + sigma) that is begun with, at the nearest step, whatever the
                process. By default 0.6, and 1 with a mask.
            mask: 1 where the image is drawn anew, 0 where it is kept exactly (cut at 0.5): PIL, arrays (H, W) or
                (N, H, W), or a list; as many as of `image`.
            num_resamples: with a mask, how often each step with some, not too much, noise is taken, so that what is
                drawn goes with what is kept: RePaint's resampling (`RepaintSampler`, which takes the scheduler's
                place). 10 steps take 124 evaluations of the network by default, and 10 with 1.
            autoguidance_scale: w_a of `Guidance`; other than 1 it needs a `guide_unet`.
            guidance_rescale: 0 to 1; how far the contrast that guidance adds is taken back (`Guidance.rescale`).
            guidance_interval: the noise levels (sigma / alpha) between which guidance acts; outside them the plain
                conditional prediction is used, which is cheaper (Kynkaanniemi et al. 2024,
                https://arxiv.org/abs/2404.07724).
            callback_on_step_end: called after every evaluation as callback(pipeline, index, timestep, tensors), with
                tensors (B, C, H, W): "model_input", the UNet's input alpha x_0 + sigma e; "prediction", what guidance
                made of its outputs; "latents", the scheduler's state after the step, which a returned dictionary may
                replace. What `max_batch_size` divides comes part by part, counted from 0 each time.
            num_candidates, top_k: draw so many images for each label and keep the best by the `clip_model`; then
                `generator` as a list holds one for each candidate, and num_images_per_label stays 1.
            early_stopping: score the predicted clean images after a third of the steps, and finish only the best
                third of the candidates, and top_k at least.
            score_weights: the weight of each entry in `SCORES` in the total; by default 1 for "class" and "quality".
            quality_prompts: {template: is it positive (or negative)?}, with {} for the subject, "a thick sneaker".
            clip_guidance_scale: how far each predicted clean image is pushed up the gradient of its cosine with
                `clip_prompt`, as a share of the noise at that step; 0 is no push.
            clip_prompt: what to steer to, with {} for the subject.
            clip_guidance_interval: the noise levels between which it acts.
        """
        num_images_per_label = count("num_images_per_label", num_images_per_label, 1)
        max_batch_size = count("max_batch_size", max_batch_size, 1)
        settings = self.settings(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            style_guidance_scale=style_guidance_scale,
            autoguidance_scale=autoguidance_scale,
            guidance_rescale=guidance_rescale,
            guidance_interval=guidance_interval,
        )
        most = self.scheduler.config.num_train_timesteps
        steps = count("num_inference_steps", settings.pop("num_inference_steps"), 1, most)
        if strength is None:
            strength = 0.6 if image is not None and mask is None else 1.0
        elif image is None:
            raise ValueError(f"strength {strength} without an image; give an image to begin with")
        strength = number("strength", strength, 0, 1, above=True)
        choice = None
        if num_candidates is not None:
            choice = Choice(num_candidates, top_k, early_stopping, score_weights, quality_prompts)
        guidance = Guidance(**settings)
        clip_guidance = ClipGuidance(clip_guidance_scale, clip_guidance_interval) if clip_guidance_scale else None
        repeats = count("num_resamples", num_resamples, 1)
        plan = SamplingPlan(guidance, steps, strength, repeats, choice, clip_guidance, self.config.clean_ends)
        self._check(plan, output_type, num_images_per_label, image, mask)
        per_label = num_images_per_label if choice is None else choice.num_candidates
        ids, strengths = self.conditions(class_labels, styles, per_label)
        asked: list[PromptTarget] = []
        if choice or (clip_guidance and "{}" in clip_prompt):
            asked = [
                self.prompt_target(*label, quality_prompts) for label in zip(ids[::per_label], strengths[::per_label])
            ]
        if choice:
            self.check_prompts(asked)
        weights = [[given.get(name, 0.0) for name in self.style_names] for given in strengths]
        device = self._execution_device
        request = make_request(self.unet, device, ids, weights, per_label, generator, image, mask)
        if clip_guidance:
            subjects = [label.subject for label in asked] or [""] * (len(ids) // per_label)
            wanted = self.scorer.texts([clip_prompt.replace("{}", subject) for subject in subjects])
            request = replace(request, wanted=wanted.repeat_interleave(per_label, dim=0))
        if choice or clip_guidance:
            plan = replace(plan, scorer=self.scorer, asked=asked)
        # A scheduler holds the step that it is at: with one of its own, no call disturbs another on this pipeline.
        call = copy.copy(self)
        call.scheduler = copy.deepcopy(self.scheduler)
        if callback_on_step_end:
            plan = replace(plan, watcher=partial(callback_on_step_end, call))
        most = sum(not branch.by_guide for branch in guidance.branches(styled=bool(self.style_names)))
        parts = torch.arange(len(ids)).split(max(1, max_batch_size // max(1, most)))
        steps = len(start(request.part(parts[0][:1]), plan, call.scheduler)[1])
        drawn = Samples(parts[0][:0], request.noise[:0].float().cpu(), torch.empty(0, len(SCORES) + 1 if choice else 0))
        with self.progress_bar(total=steps * len(parts)) as progress:
            for part in parts:
                denoiser = Denoiser(self.unet, self.guide_unet)
                drawn = drawn.joined(draw_part(request.part(part), plan, call.scheduler, denoiser, progress))
                if choice:
                    drawn = drawn.best(choice)
        return self._output(drawn, ids, strengths, choice, output_type, return_dict)

    @property
    def scorer(self) -> Scorer:
        """What scores images; ValueError where the pipeline has no CLIP model."""
        if self.clip_model is None or self.clip_processor is None:
            raise ValueError(
                "this pipeline has no clip_model and clip_processor; give both, by hfdiff.load_clip() or transformers"
            )
        if self._scorer is None or (self._scorer.model, self._scorer.processor) != (
            self.clip_model,
            self.clip_processor,
        ):
            self._scorer = Scorer(self.clip_model, self.clip_processor)
        return self._scorer

    def prompt_target(
        self,
        class_id: int | None,
        strengths: Mapping[str, float],
        quality_prompts: Mapping[str, bool] = QUALITY_PROMPTS,
    ) -> PromptTarget:
        """What an image of this class and these styles should show."""
        if class_id is None:
            raise ValueError("images of class None cannot be scored; give each label a class")
        phrases = {name: style["phrase"] for name, style in self.config.styles.items()}
        return PromptTarget(
            tuple(subject(name, strengths, phrases) for name in self.class_names), class_id, dict(quality_prompts)
        )

    def predicted_clean(
        self, model_input: torch.Tensor, prediction: torch.Tensor, timestep: torch.Tensor
    ) -> torch.Tensor:
        """The clean images (B, C, H, W) in [-1, 1] that the tensors of a `callback_on_step_end` mean."""
        return predicted_clean(self.scheduler, model_input, prediction, timestep)

    def check_prompts(self, asked: Sequence[PromptTarget]) -> None:
        """ValueError for a prompt that the CLIP model cannot read whole, before anything is drawn."""
        for label in asked:
            self.scorer.texts([template.replace("{}", label.subject) for template in label.quality_prompts])
            self.scorer.texts([prompt(rival) for rival in label.subjects])

    def settings(self, **given: Any) -> dict[str, Any]:
        """Steps and guidance of a call that gives these, None or nothing for the model's own."""
        own = {**SAMPLING_DEFAULTS, **self.config.sampling}
        if self.guide_unet is None:  # it was taken away
            own["autoguidance_scale"] = 1.0
        return {key: own[key] if given.get(key) is None else given[key] for key in own}

    def check_settings(self, num_inference_steps: int | None = None, **guidance: Any) -> None:
        """ValueError for arguments of a call that this pipeline would refuse."""
        if num_inference_steps is not None:
            count("num_inference_steps", num_inference_steps, 1, self.scheduler.config.num_train_timesteps)
        scales = Guidance(**guidance)
        if scales.autoguidance_scale != 1 and self.guide_unet is None:
            raise ValueError(f"autoguidance_scale {scales.autoguidance_scale} without a guide_unet; valid: 1")

    def _check(
        self,
        plan: SamplingPlan,
        output_type: str,
        num_images_per_label: int,
        image: Any,
        mask: Any,
    ) -> None:
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type {output_type!r}; valid: pil, np, pt")
        check_process(self.scheduler, self.config.process)
        self.check_settings(plan.num_inference_steps, **vars(plan.guidance))
        if plan.choice and num_images_per_label != 1:
            raise ValueError(f"num_images_per_label {num_images_per_label} with num_candidates; give top_k instead")
        if mask is not None and image is None:
            raise ValueError("mask without an image; give the image whose parts are kept")

    def _output(
        self,
        drawn: Samples,
        ids: list[int | None],
        strengths: list[dict[str, float]],
        choice: Choice | None,
        output_type: str,
        return_dict: bool,
    ) -> ClassStylePipelineOutput | tuple:
        images: Any = drawn.images
        if output_type != "pt":
            images = images.permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        if not return_dict:
            return (images,)
        rows = drawn.rows.tolist()
        return ClassStylePipelineOutput(
            images=images,
            class_labels=[ids[row] for row in rows],
            styles=[strengths[row] for row in rows],
            scores=[dict(zip((*SCORES, "total"), row)) for row in drawn.scores.tolist()] if choice else None,
            candidates=[row % choice.num_candidates for row in rows] if choice else None,
        )

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> "ClassStylePipeline":
        """The same components in a pipeline of their own, or those given in their place."""
        # Left to itself, diffusers takes over only components whose class is the very annotation.
        own = {name: value for name, value in pipeline.components.items() if name in inspect.signature(cls).parameters}
        return super().from_pipe(pipeline, **{**own, **kwargs})

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save weights, configuration and source files, so that the folder loads without this package.

        The plain method loses the source of the pipeline and of each component that comes from neither diffusers nor
        transformers; the upload comes after they are in place.
        """
        folder = Path(save_directory)
        hub = {k: kwargs.pop(k) for k in ("repo_id", "commit_message", "private", "token", "create_pr") if k in kwargs}
        super().save_pretrained(folder, **kwargs)
        save_sources(self, folder)
        if push_to_hub:
            self.push_to_hub(hub.pop("repo_id", folder.name), **hub)

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """What a saved configuration says of the components; from here on they may be given, too."""
        stand_in_for_files(config_dict)
        return super().extract_init_dict(config_dict, **kwargs)

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """The saved configuration; with the package installed, the saved class names mean the installed classes.

        So `ClassStylePipeline.from_pretrained(folder)` runs none of the code in the folder and needs no trust.
        """
        loaded = super().load_config(*args, **kwargs)
        name_installed(cls, loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded


# diffusers' base class, `DiffusionPipeline.from_pretrained`, takes what has a default for a setting, and would ignore a
# component that is given, or None in its place: so the signature that it reads shows none.
_init = inspect.signature(ClassStylePipeline.__init__)
ClassStylePipeline.__init__.__signature__ = _init.replace(  # type: ignore[attr-defined]
    parameters=[
        value.replace(kind=value.KEYWORD_ONLY, default=value.empty)
        if name in ClassStylePipeline._optional_components
        else value
        for name, value in _init.parameters.items()
    ]
)

StepCallback = Callable[[ClassStylePipeline, int, torch.Tensor, dict[str, torch.Tensor]], Mapping | None]
