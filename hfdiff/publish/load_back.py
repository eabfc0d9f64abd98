"""python load_back.py FOLDER FOLDER: do both draw the same? hfdiff cannot be imported here."""

import sys

import torch
from diffusers import DiffusionPipeline

sys.modules["hfdiff"] = None  # type: ignore[assignment]  # who loads the model has none


def drawn(folder: str) -> list[torch.Tensor]:
    """Classes, every style, and what CLIP chooses with its scores."""
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    seen = []
    for styles in (None, *pipe.style_names):
        labels = list(range(min(4, len(pipe.class_names))))
        seeds = [torch.Generator().manual_seed(i) for i in labels]
        seen.append(pipe(labels, styles=styles, generator=seeds, output_type="pt").images)
    if pipe.clip_model is not None:
        out = pipe([0], num_candidates=4, top_k=2, generator=torch.Generator().manual_seed(0), output_type="pt")
        seen += [out.images, torch.tensor([score["total"] for score in out.scores])]
    return seen


for here, there in zip(*map(drawn, sys.argv[1:3]), strict=True):
    if not torch.equal(here, there):
        sys.exit(f"images differ by up to {(here - there).abs().max().item():g}")
