"""Going on with a run. Sources: huggingface/accelerate#784, #2016; transformers#8876. Right: what cannot change is refused by name; what does not matter goes on; a resumed run ends as one that was never stopped."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
import hashlib
d = folder("data", ["a", "b"], n=10); o = W / "run"; base = ["--size", "tiny", "--batch_size", 8, "--styles", "thick", "--mixed_precision", "no", "--checkpointing_images", 16, "--validation_images", 16, "--lr_schedule", "constant"]
def go(out, n, *more, data=d, env=None): return train("--dataset", data, "--max_train_images", n, "--output_dir", out, *base, *more, env=env)
def weights(run): return hashlib.sha256((run / "pipeline/unet/diffusion_pytorch_model.safetensors").read_bytes()).hexdigest()
def ck(run): p = sorted((run / "checkpoints").glob("step-*"))[-1]; return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in p.glob("*.safetensors")}
r = go(o, 32); check("first half", r.returncode == 0, last(r))
r = go(o, 64); check("longer", r.returncode == 0, last(r)); r2 = go(W / "whole", 64); check("stopped at half and gone on = never stopped", r2.returncode == 0 and ck(o) == ck(W / "whole"))
d2 = W / "moved"; shutil.copytree(d, d2); r = go(o, 80, data=d2); check("the same pictures in another folder (Colab's mount): goes on, or says that the path alone differs", r.returncode == 0 or "dataset" in r.stderr, last(r))
os.symlink(d, W / "link"); r = go(o, 80, data=W / "link"); print("   info: through a link:", last(r))
r = go(o, 80, data=str(d) + "/"); check("the same folder with a slash at its end", r.returncode == 0, last(r))
r = subprocess.run([sys.executable, str(root() / "train_scripts/train.py"), "--dataset", "data", "--max_train_images", "96", "--output_dir", "run", *map(str, base)], cwd=W, capture_output=True, text=True, timeout=250); check("the same folder by its relative path", r.returncode == 0, last(r))
r = go(o, 112, "--learning_rate", 1e-4); check("another learning rate is refused by name", r.returncode == 2 and "learning_rate" in r.stderr, last(r))
flat(77).save(d / "a" / "new.png"); r = go(o, 112); check("a new picture is refused by name", r.returncode == 2 and "changed" in r.stderr, last(r)); (d / "a" / "new.png").unlink()
r = go(o, 112, "--mixed_precision", "bf16"); check("another precision is refused by name", r.returncode == 2 and "mixed_precision" in r.stderr, last(r))
r = go(o, 112); check("and goes on after all that", r.returncode == 0, last(r))
done()
