"""Pipelines: built around trained weights, exported, found and loaded with the installed code."""

import contextlib
import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from diffusers import SchedulerMixin
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import snapshot_download
from torch.nn import Module, Parameter
from transformers import AutoConfig, AutoModel
from transformers import logging as transformers_logging

from hfdiff.core.errors import BadInput, first_line
from hfdiff.core.files import existing_folder, moved_aside, write_folder
from hfdiff.data.styles import STYLES
from hfdiff.models.declared import check_configs, check_size
from hfdiff.models.samplers import process_of
from hfdiff.models.unet import ClassStyleUNet2DModel
from hfdiff.pipelines import ClassStylePipeline

MODEL_INDEX = "model_index.json"


def make_pipeline(
    unet: ClassStyleUNet2DModel,
    scheduler: SchedulerMixin,
    class_names: tuple[str, ...],
    data_styles: tuple[str, ...],
    styles: tuple[str, ...],
    clean_ends: bool = False,
) -> ClassStylePipeline:
    """A pipeline around trained weights; `data_styles` come from the data, `styles` from the table. `clean_ends`: what
    looks black or white in samples is so, as in the training images."""
    phrases = {name: {"phrase": name, "group": None} for name in data_styles}
    phrases |= {name: {"phrase": STYLES[name].phrase, "group": STYLES[name].group} for name in styles}
    return ClassStylePipeline(
        unet=unet,
        scheduler=scheduler,
        id2label=dict(enumerate(class_names)),
        styles=phrases,
        clean_ends=clean_ends,
    )


def export_pipeline(pipeline: ClassStylePipeline, target: Path) -> None:
    """Save a pipeline so that `target` always holds a whole one."""
    with without_bars():
        write_folder(target, pipeline.save_pretrained)


def find_pipeline(model: str) -> str:
    """MODEL of the command line: a pipeline's folder, a run's folder, or a Hub id (downloaded)."""
    folder = existing_folder(model)
    if folder:
        # The last is where a run's pipeline is for the moment in which it is replaced.
        for candidate in (folder, folder / "pipeline", *moved_aside(folder / "pipeline")):
            if (candidate / MODEL_INDEX).is_file():
                return str(candidate)
        raise BadInput(f"{model} holds no pipeline: no {MODEL_INDEX} in it or in its folder 'pipeline'")
    if not re.fullmatch(r"[\w-][\w.-]{0,95}(/[\w.-]{1,96})?", model):
        raise BadInput(f"unknown model {model[:100]!r}: no such folder, and no id of the Hugging Face Hub (name/model)")
    try:
        return snapshot_download(model)
    except Exception as error:  # the client's HTTP library has kinds of its own
        name, reason = repr(model[:100]), first_line(error)[:200]
        raise BadInput(
            f"unknown model {name}: not a folder, and not found on the Hugging Face Hub ({reason})"
        ) from error


def weights_fingerprint(unet: Module) -> str:
    """SHA-256 over names and values, the first 16 hex digits: what was measured of these weights, is theirs.

    The values are rounded to half precision, in which they may be published.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(unet.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().half().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def load_pipeline(model: str) -> ClassStylePipeline:
    """The pipeline of MODEL, with the installed code: nothing in the folder is run, no pickle is read."""
    folder = find_pipeline(model)
    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity(diffusers_logging.CRITICAL)
    try:
        with warnings.catch_warnings(), without_bars():
            warnings.simplefilter("ignore")
            check_declared(Path(folder))
            pipeline = ClassStylePipeline.from_pretrained(
                folder, use_safetensors=True, variant=variant_of(Path(folder))
            )
            process_of(pipeline.scheduler)
            for component in pipeline.components.values():
                if isinstance(component, Module):
                    check_weights(component)
            check_runs(pipeline)
    except Exception as error:  # whatever the libraries raise, it is this folder that cannot be loaded
        raise BadInput(f"{model} cannot be loaded: {first_line(error)[:200]}") from error
    finally:
        diffusers_logging.set_verbosity(verbosity)
    return pipeline


def check_declared(folder: Path) -> None:
    """ValueError for components that their files cannot fill, before any of them is built."""
    check_configs(folder)
    for name in ("unet", "guide_unet"):
        if (folder / name / "config.json").is_file():
            config = ClassStyleUNet2DModel.load_config(folder / name)
            check_size(partial(ClassStyleUNet2DModel.from_config, config), folder / name)
    if (folder / "clip_model" / "config.json").is_file():
        check_clip_size(folder / "clip_model")


def check_clip_size(folder: Path) -> None:
    """`check_size` of a model of transformers."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    check_size(lambda: AutoModel.from_config(config, trust_remote_code=False), folder)


def check_weights(module: Module) -> None:
    """ValueError for weights that are missing, no floating-point numbers, or not finite."""
    for name, weight in (*module.named_parameters(), *module.named_buffers()):
        if weight.is_meta or (weight.is_floating_point() and not weight.isfinite().all()):
            raise ValueError(f"its weights {name} are missing or not finite")
        if isinstance(weight, Parameter) and not weight.is_floating_point():
            raise ValueError(f"its weights {name} are of type {weight.dtype}; valid: floating-point numbers")


@torch.no_grad()
def check_runs(pipeline: ClassStylePipeline) -> None:
    """ValueError for a UNet that cannot draw an image of its own size: its configuration is damaged."""
    unet = pipeline.unet
    height, width = (
        unet.config.sample_size if isinstance(unet.config.sample_size, Sequence) else (unet.config.sample_size,) * 2
    )
    try:
        seen = unet(torch.zeros(1, unet.config.in_channels, height, width, dtype=unet.dtype), torch.ones(1)).sample
    except Exception as error:  # whatever torch raises, it is this configuration that does not fit
        raise ValueError(f"its UNet does not run: {first_line(error)}") from error
    if seen.shape[1:] != (unet.config.in_channels, height, width):
        raise ValueError(f"its UNet makes images of {tuple(seen.shape[1:])} from those of its own size")


def variant_of(folder: Path) -> str | None:
    """ "fp16", say, where the UNet's weights are there as that variant alone."""
    stem = "diffusion_pytorch_model"
    files = [file.name for file in (folder / "unet").glob(f"{stem}*.safetensors")]
    found = [re.fullmatch(rf"{stem}(?:\.([^.-]+))?(-\d+-of-\d+)?\.safetensors", file) for file in files]
    variants = {match[1] for match in found if match}
    return None if None in variants or not variants else min(filter(None, variants))


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Models of well under a second to read or write need no progress bars of diffusers and transformers."""
    showing = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    for library in showing:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in showing:
            library.enable_progress_bar()
