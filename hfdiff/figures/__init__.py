"""Figures: grids, curves, strips, and the gallery that explains a model."""
