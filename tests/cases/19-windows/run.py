"""A Windows user. Sources: intel/dffml#1289, jart/fabulous#21 (fcntl), claude-skills#969 and coqui-ai/TTS PR#394 (cp1252). Right: drawing works (the page says only: python3); what needs Unix is refused in words. Simulated: no fcntl, text files of cp1252."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
code = "import sys; sys.modules['fcntl'] = None; import hfdiff; p = hfdiff.load_pipeline(sys.argv[1]); print('loaded', type(p).__name__)"
r = subprocess.run([sys.executable, "-c", code, card()], capture_output=True, text=True); check("import hfdiff and load a pipeline without fcntl", r.returncode == 0, last(r))
code = "import sys; sys.modules['fcntl'] = None; from diffusers import DiffusionPipeline as D; p = D.from_pretrained(sys.argv[1], trust_remote_code=True); p.set_progress_bar_config(disable=True); print(len(p(['Bag'], num_inference_steps=1).images))"
r = subprocess.run([sys.executable, "-c", code, card()], capture_output=True, text=True); check("DiffusionPipeline.from_pretrained without fcntl", r.returncode == 0, last(r))
code = "import sys; sys.modules['fcntl'] = None; sys.argv = ['hfdiff', 'sample', sys.argv[1], '--class_labels', 'bag', '--num_images', '1', '--output_dir', sys.argv[2]]; from hfdiff.cli import main; main()"
r = subprocess.run([sys.executable, "-c", code, card(), str(W / "o")], capture_output=True, text=True); check("hfdiff sample without fcntl", r.returncode == 0, last(r))
# os.open of a folder fails on Windows; os.fsync of a file that is open for reading too
code = """
import sys, os; sys.modules['fcntl'] = type(sys)('fcntl'); real = os.open
def windows(path, flags, *a, **k):
    if os.path.isdir(path): raise PermissionError(13, 'Permission denied', str(path))
    return real(path, flags, *a, **k)
os.open = windows
from pathlib import Path; from hfdiff.core.files import write_file, write_folder
write_file(Path(sys.argv[1]) / 'x.txt', b'x'); write_folder(Path(sys.argv[1]) / 'f', lambda p: (p / 'y').write_text('y')); print('written')
"""
r = subprocess.run([sys.executable, "-c", code, str(W)], capture_output=True, text=True); check("files and folders are written where a folder cannot be opened (Windows)", r.returncode == 0, last(r))
# text files in the machine's own encoding: python -X utf8=0 under a Latin-1 locale stands for cp1252
src = [(f, i + 1, l.strip()) for f in sorted(root().glob("hfdiff/**/*.py")) + sorted(root().glob("pipelines/*.py")) + sorted(root().glob("train_scripts/*.py")) for i, l in enumerate(f.read_text(encoding="utf-8").splitlines()) if ((".write_text(" in l or ".read_text(" in l) and "encoding" not in l)]
check("texts are read and written as UTF-8, whatever the machine's own encoding", not src, "; ".join(f"{f.relative_to(root())}:{i}" for f, i, _ in src))
done()
