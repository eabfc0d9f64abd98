"""Pipelines that travel with their weights; installed as `hfdiff.pipelines`."""

import hfdiff.unet  # noqa: F401  (diffusers loads the UNet by this name and wants it imported)
