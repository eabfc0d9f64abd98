"""The notebook of examples/: all of its cells, at tiny size."""

import shutil

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from test_first_steps import SHORT

pytestmark = pytest.mark.slow

NOTEBOOK = ROOT / "examples" / "hfdiff_colab.ipynb"


@pytest.mark.full
def test_the_notebook_runs(pets, tmp_path, hub, monkeypatch):
    """All of its cells, at tiny size, on other settings than those of its second cell."""
    monkeypatch.setenv("HFDIFF_CACHE", str(tmp_path / "cache"))
    notebook = nbformat.read(NOTEBOOK, 4)
    place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    tiny = "--block_out_channels 8 16 --norm_num_groups 4 --attention_head_dim 8 --patch_size 4"
    settings = f'''
DRIVE, DATASET, IMAGES, REPO_ID = {str(tmp_path / "drive")!r}, {pets["data"]!r}, {pets["data"]!r}, "ann/notebook"
TRAIN, TUNE = "{SHORT} {tiny}", "{SHORT} {tiny} --resolution 28 --styles slanted"
FINE_TUNE_FROM, DRAW = {pets["model"]!r}, "--num_inference_steps 2 --guidance_scale 1"
MEASURE, SHOW = "--num_images 200 --num_styled 0 --judge {pets["judge"]}", DRAW + " --judge {pets["judge"]}"
'''
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(settings))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shutil.rmtree(tmp_path / "drive")
    assert ("models", "ann/notebook") in hub.repos


def test_the_notebook_holds_no_outputs():
    """They would go stale, and hold paths of whose machine it was."""
    cells = nbformat.read(NOTEBOOK, 4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
