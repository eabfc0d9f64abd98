"""Train, choose, prove and publish small diffusion models that you steer by class and by style."""

import importlib
from typing import Any

# Public name -> the module that holds it, loaded on first use.
_EXPORTS = {
    "ClassStyleUNet2DModel": "hfdiff.models.unet",
    "ClassStylePipeline": "hfdiff.pipelines",
    "Judge": "hfdiff.evaluation.judge",
    "TrainConfig": "hfdiff.training.config",
    "caption": "hfdiff.evaluation.clip",
    "load_clip": "hfdiff.evaluation.clip",
    "load_judge": "hfdiff.evaluation.judge",
    "load_pipeline": "hfdiff.models.loading",
}

__all__ = list(_EXPORTS)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'hfdiff' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
