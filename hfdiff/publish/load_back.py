"""python load_back.py FOLDER REPO_ID: do both draw the same? In a clean environment: nothing of hfdiff is imported."""

import sys

import torch
from diffusers import DiffusionPipeline


def drawn(name: str) -> torch.Tensor:
    pipe = DiffusionPipeline.from_pretrained(name, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    labels = list(range(min(4, len(pipe.class_names))))
    return pipe(labels, generator=[torch.Generator().manual_seed(i) for i in labels], output_type="pt").images


here, there = (drawn(name) for name in sys.argv[1:3])
if not torch.equal(here, there):
    sys.exit(f"images differ by up to {(here - there).abs().max().item():g}")
