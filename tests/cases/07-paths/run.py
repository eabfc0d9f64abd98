"""File and folder names. Sources: huggingface/datasets#7468, #7201, #5650; ultralytics#13063; lightning-flash#1500. Right: all pictures are read, with their class, or refused by name."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
def try_(name, d, n=6, classes=None):
    r, e = refused(load, d)
    if e is not None: check(name, clean(e) and "Traceback" not in str(e), "refused: " + short(e)); return
    check(name, len(r[1]) == n and (classes is None or sorted(set(r[1])) == sorted(classes)), f"{len(r[1])} of {n}, classes {sorted(set(r[1]))}")
for k, base in enumerate(("[D_DATA] x", "a*b", "what?", "{x,y}", "a#b", "100%20", "with space", "Фото 猫 🐈", "a::b", "zip:", "new\nline", "quote'\"", "~tilde", "a\\b", "train", "data.zip", "test", "-")):
    p = W / f"p{k}" / base; src = folder(f"s{k}", ["cats", "dogs"]); p.parent.mkdir(); shutil.move(src, p); try_(f"folder {base!r}", p, 6, ["cats", "dogs"])
for k, c in enumerate(("a::b", "[x]", "a*", "q?", "#1", "50%", "emoji 🐈", "new\nline", "-x", "a+b", "a:b", "a,b", "{}", "~", "a\\b", "con", "x.zip", "x.tar", " lead", "trail ", "None", "1", "__x", "plain", "é" )):
    try_(f"class {c!r}", folder(f"c{k}", [c, "other"]), 6, [c, "other"])
for k, f in enumerate(("train.png", "test.png", "a::b.png", "[1].png", "x#1.png", "x%20.png", "x?.png", "x*.png", "val_1.png", "new\nline.png", "猫.png", "🐈.png", "a.tar.png", "x.zip.png", "UPPER.PNG", "dot..png", "__a.png")):
    d = folder(f"f{k}", ["cats", "dogs"]); (d / "cats/00.png").rename(d / "cats" / f); try_(f"file {f!r}", d, 6, ["cats", "dogs"])
d = folder("bytes", ["cats", "dogs"]); os.rename(os.fsencode(d / "cats"), os.fsencode(d) + b"/caf\xe9"); try_("class of bytes that are no UTF-8", d)
d = folder("bytes2", ["cats", "dogs"]); os.rename(os.fsencode(d / "cats/00.png"), os.fsencode(d) + b"/cats/\xe9.png"); try_("file of bytes that are no UTF-8", d)
d = folder("long", ["c" * 250, "dogs"]); try_("class of 250 letters", d, 6, ["c" * 250, "dogs"])
done()
