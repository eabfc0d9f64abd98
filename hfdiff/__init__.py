"""Train, choose, prove and publish small diffusion models that you steer by class and by style."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfdiff.core.errors import BadInput as BadInput
    from hfdiff.data.loading import load_test_data as load_test_data
    from hfdiff.data.loading import load_training_data as load_training_data
    from hfdiff.data.styles import apply_styles as apply_styles
    from hfdiff.evaluation.clip import caption as caption
    from hfdiff.evaluation.clip import load_clip as load_clip
    from hfdiff.evaluation.judge import Judge as Judge
    from hfdiff.evaluation.judge import load_judge as load_judge
    from hfdiff.models.loading import load_pipeline as load_pipeline
    from hfdiff.models.unet import ClassStyleUNet2DModel as ClassStyleUNet2DModel
    from hfdiff.pipelines import ClassStylePipeline as ClassStylePipeline
    from hfdiff.pipelines import Scorer as Scorer
    from hfdiff.training.config import TrainConfig as TrainConfig

# Public name -> the module that holds it, loaded on first use; type checkers read the list above.
_EXPORTS = {
    "BadInput": "hfdiff.core.errors",
    "ClassStylePipeline": "hfdiff.pipelines",
    "ClassStyleUNet2DModel": "hfdiff.models.unet",
    "Judge": "hfdiff.evaluation.judge",
    "Scorer": "hfdiff.pipelines",
    "TrainConfig": "hfdiff.training.config",
    "apply_styles": "hfdiff.data.styles",
    "caption": "hfdiff.evaluation.clip",
    "load_clip": "hfdiff.evaluation.clip",
    "load_judge": "hfdiff.evaluation.judge",
    "load_pipeline": "hfdiff.models.loading",
    "load_test_data": "hfdiff.data.loading",
    "load_training_data": "hfdiff.data.loading",
}

__all__ = list(_EXPORTS)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'hfdiff' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
