# two more questions: mask folder merging; huge picture; identical prompts for Cat and cat
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1]))
from common import *
d = W / "m"; i = 0
for p in ("images", "masks"):
    for c in ("cats", "dogs"):
        (d / p / c).mkdir(parents=True)
        for k in range(3): flat(10 if p == "images" else 255).save(d / p / c / f"{k}.png")
r, e = refused(load, d); print("images/ and masks/ beside each other:", short(e) if e else (len(r[1]), sorted(set(r[1])), "white masks among the pictures:", int((r[0].min((1, 2, 3)) == 255).sum())))
(W / "h" / "a").mkdir(parents=True); (W / "h" / "b").mkdir(); Image.new("1", (20000, 20000)).save(W / "h/a/big.png"); flat(3).save(W / "h/b/0.png")
r, e = refused(load, W / "h", resolution=16); print("400 megapixels:", short(e) if e else "read")
from hfdiff.pipelines import subject, prompt
print("prompts:", prompt(subject("Cat", {}, {})), "|", prompt(subject("cat", {}, {})))
# multi-page TIFF
d = W / "pages"; [(d / c).mkdir(parents=True) for c in "ab"]; (d / "a/stack.tif").write_bytes(enc(flat(9), "TIFF", save_all=True, append_images=[flat(99), flat(200)])); flat(3).save(d / "b/0.png"); r, e = refused(load, d); print("a TIFF of three pages:", len(r[1]) - 1, "picture of 3, nothing said")
