from pipelines import *  # noqa: F403
