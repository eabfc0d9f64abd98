"""A pipeline's folder that loads anywhere: code beside the weights, and nothing of this machine."""

import importlib
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin

from .bundle import bundle, digest, has_siblings

# Standalone file, as a saved pipeline names it -> the same code where hfdiff is installed.
INSTALLED = {"unet": "hfdiff.models.unet", "multistep": "hfdiff.pipelines.multistep"}
LIBRARIES = ("diffusers", "transformers")  # what every user has; any other component travels with its source
STAND_IN = "Stands in for a file of a model while its pipeline is loaded."
BUNDLE = "class_style"  # the file that the installed modules are joined into


def save_sources(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Write the source of a saved pipeline, and of each component that comes from no library, beside the weights."""
    index_file = folder / pipeline.config_name
    index = json.loads(index_file.read_text(encoding="utf-8"))
    index["_class_name"] = write_source(type(pipeline), folder)
    index.pop("_name_or_path", None)  # where it was loaded from is nobody else's business
    for name, component in pipeline.components.items():
        cls = type(getattr(component, "_orig_mod", component))  # what torch.compile wraps
        if component is not None and cls.__module__.partition(".")[0] not in LIBRARIES:
            index[name] = write_source(cls, folder / name)
        forget_origin(folder / name / "config.json")
    index_file.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_source(cls: type, folder: Path) -> list[str]:
    """Write what defines `cls` into one file of `folder`; returns what names the class in model_index.json."""
    source = Path(inspect.getfile(cls))
    text = getattr(sys.modules[cls.__module__], "SOURCE", None) or source.read_text(encoding="utf-8")
    joined = has_siblings(text)
    target = folder / f"{BUNDLE if joined else source.stem.removesuffix(digest(text))}.py"
    target.write_text(bundle(source) if joined else text, encoding="utf-8")
    return [target.stem, cls.__name__]


def forget_origin(config_file: Path) -> None:
    """Take out of a component's configuration where it was loaded from."""
    if config_file.is_file():
        config = json.loads(config_file.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def stand_in_for_files(config: dict[str, Any]) -> None:
    """Let components of a folder's own files be given to `from_pretrained`.

    diffusers looks for the class of such a component in an imported module of its file's name ("unet"), which there is
    none of. While a pipeline is loaded, an empty module stands in, unless a real one has the name.
    """
    for name, value in config.items():
        if isinstance(value, list | tuple) and len(value) == 2 and value[0] in INSTALLED:
            base = SchedulerMixin if name == "scheduler" else ModelMixin
            module = ModuleType(value[0], STAND_IN)
            vars(module).update({base.__name__: base, value[1]: base})
            sys.modules.setdefault(value[0], module)


def without_stand_ins() -> None:
    for name in INSTALLED:
        if getattr(sys.modules.get(name), "__doc__", None) == STAND_IN:
            del sys.modules[name]


def name_installed(cls: type, config: dict[str, Any]) -> None:
    """With the package installed, let the class names of a saved configuration mean the installed classes."""
    if not __name__.startswith("hfdiff."):  # in the file that travels
        return
    config["_class_name"] = cls.__name__
    for name, value in config.items():
        if isinstance(value, list) and len(value) == 2 and value[0] in INSTALLED:
            # diffusers takes a component of another library only where that is imported already.
            importlib.import_module(INSTALLED[value[0]])
            config[name] = [INSTALLED[value[0]], value[1]]
