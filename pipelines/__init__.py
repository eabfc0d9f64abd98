"""Pipelines that travel with their weights; installed as `hfdiff.pipelines`.

What others use stands here: no module of this folder is imported from outside.
"""

from .bundle import bundle as bundle
from .grammar import PLAIN as PLAIN
from .grammar import UNSPECIFIED as UNSPECIFIED
from .grammar import StyleSpec as StyleSpec
from .grammar import canonical as canonical
from .grammar import find_name as find_name
from .grammar import parse_styles as parse_styles
from .grammar import resolve_styles as resolve_styles
from .grammar import shown as shown
from .guidance import SAMPLING_DEFAULTS as SAMPLING_DEFAULTS
from .guidance import ClipGuidance as ClipGuidance
from .guidance import Guidance as Guidance
from .images import dead_zone as dead_zone
from .images import read_images as read_images
from .images import to_8bit as to_8bit
from .multistep import MultistepScheduler as MultistepScheduler
from .noise_levels import SIGMA_DATA as SIGMA_DATA
from .noise_levels import SIGMA_MAX as SIGMA_MAX
from .noise_levels import SIGMA_MIN as SIGMA_MIN
from .noise_levels import TARGETS as TARGETS
from .noise_levels import Target as Target
from .noise_levels import noise_levels as noise_levels
from .noise_levels import predicted_clean as predicted_clean
from .noise_levels import prediction_type as prediction_type
from .noise_levels import solve_clean as solve_clean
from .noise_levels import timestep_at as timestep_at
from .pipeline import ClassStylePipeline as ClassStylePipeline
from .pipeline import ClassStylePipelineOutput as ClassStylePipelineOutput
from .pipeline import StepCallback as StepCallback
from .prompts import QUALITY_PROMPTS as QUALITY_PROMPTS
from .prompts import PromptTarget as PromptTarget
from .prompts import prompt as prompt
from .prompts import subject as subject
from .saving import BUNDLE as BUNDLE
from .saving import INSTALLED as INSTALLED
from .scores import SCORE_WEIGHTS as SCORE_WEIGHTS
from .scores import SCORES as SCORES
from .scores import STOPPING_SHARE as STOPPING_SHARE
from .scores import SURVIVING_SHARE as SURVIVING_SHARE
from .scores import Choice as Choice
from .scores import Scorer as Scorer
from .scores import score_images as score_images
from .timesteps import set_timesteps as set_timesteps
