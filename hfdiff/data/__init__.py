"""Datasets: found, decoded once into one tensor, changed by styles and augmentation."""
