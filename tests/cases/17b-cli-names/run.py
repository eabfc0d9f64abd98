"""Class names through the whole command line. Sources: basujindal/stable-diffusion#2, apple/ml-stable-diffusion#48, R3gm/SD_diffusers_interactive#6 (file names too long, overwritten); FPVTracksideCore PR#75, paperbanana PR#240 (NFD of the Mac). Right: every class can be asked for by the name that is printed, and every picture has a file of its own."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
import json, unicodedata
NFD = unicodedata.normalize("NFD", "café"); NFC = unicodedata.normalize("NFC", "café")
names = ["-x", "a+b", "c:d", "e,f", " lead", "trail ", "Cat", "cat", "1", "0", NFD, "猫", "犬", "x" * 240, "T-shirt", "T shirt", "{}", "None", "any", "plain", "new\nline", "a|b", "<b>", "ẞ"]
d = folder("names", names, n=2); o = W / "run"
r = train("--dataset", d, "--size", "tiny", "--max_train_images", 16, "--batch_size", 8, "--styles", "thick", "--output_dir", o)
check("training", r.returncode == 0, last(r))
if r.returncode: done()
def sample(tag, labels, *more):
    s = hf("sample", o, "--num_images", 1, "--output_dir", W / tag, "--class_labels", *labels, *more); return s
s = sample("short", [n for n in names if not n.startswith("-") and len(n) < 200 and n.strip() == n]); files = list((W / "short").glob("[0-9]*.png")) if s.returncode == 0 else []
check("hfdiff sample of the others: a file each", s.returncode == 0 and len(files) == len([n for n in names if not n.startswith("-") and len(n) < 200 and n.strip() == n]), last(s))
if s.returncode == 0:
    rec = json.loads((W / "short/samples.json").read_text())["images"]; check("samples.json names files that are there", all((W / "short" / x["file"]).is_file() for x in rec) and len({x["file"] for x in rec}) == len(rec))
s = sample("dash", ["-x"]); check("hfdiff sample --class_labels -x", s.returncode == 0, last(s))
s = hf("sample", o, "--num_images", 1, "--output_dir", W / "dash2", "--class_labels=-x"); check("hfdiff sample --class_labels=-x", s.returncode == 0, last(s))
s = hf("sample", o, "--num_images", 1, "--output_dir", W / "whole"); check("hfdiff sample of the whole table", s.returncode == 0, last(s))
s = hf("card", o); check("hfdiff card", s.returncode == 0, last(s))
if s.returncode == 0:
    t = (o / "README.md").read_text(); body = t.split("\n---\n", 1)[1]; check("the card: no raw HTML of a class name", "<b>" not in __import__("re").sub(r"`[^`]*`", "", body.replace("```", "")), [l for l in body.splitlines() if "<b>" in l][:1]); check("the card: no raw line break of a class name", "new\nline" not in body)
    code = [b.split("```")[0] for b in body.split("```python")[1:]]
    for i, c in enumerate(code): r_, e = refused(compile, c.strip("\n"), "card", "exec"); check(f"the card's code {i} is Python", e is None, short(e))
env = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
s = hf("sample", o, "--num_images", 1, "--output_dir", W / "猫out", "--class_labels", "猫", env=env); check("hfdiff sample on a screen of ASCII", s.returncode == 0 and "Traceback" not in s.stderr, last(s))
r = train("--dataset", d, "--size", "tiny", "--max_train_images", 16, "--batch_size", 8, "--styles", "thick", "--output_dir", W / "run2", env=env); check("training on a screen of ASCII", r.returncode == 0 and "Traceback" not in r.stderr, last(r))
done()
