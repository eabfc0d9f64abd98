"""The cache of `datasets`. Sources: huggingface/datasets#2956, #444. Right: what is in the folder now is what is trained on."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
d = W / "m"; d.mkdir()
for k in range(6): flat(20 * k + 1).save(d / f"{k}.png")
def meta(c): (d / "metadata.csv").write_text("file_name,label\n" + "".join(f"{k}.png,{c(k)}\n" for k in range(6)))
meta(lambda k: "cat" if k < 3 else "dog"); t = os.stat(d / "metadata.csv").st_mtime_ns; load(d)
meta(lambda k: "dog" if k < 3 else "cat"); os.utime(d / "metadata.csv", ns=(t, t))   # rsync -a, unzip, git checkout keep times
r = load(d); got = {(int(p.max()) - 1) // 20: c for p, c in zip(r[0], r[1])}; check("metadata.csv corrected, its time kept (unzip, rsync -a)", got == {k: "dog" if k < 3 else "cat" for k in range(6)}, got)
meta(lambda k: "eel" if k < 3 else "cat"); r = load(d); check("metadata.csv corrected", "eel" in r[1], sorted(set(r[1])))
flat(250).save(d / "0.png"); r = load(d); check("a picture redrawn in place", any(int(p.max()) == 250 for p in r[0]))
f = folder("f", ["cats", "dogs"]); load(f); (f / "dogs").rename(f / "wolves"); r = load(f); check("a class folder renamed", sorted(set(r[1])) == ["cats", "wolves"], sorted(set(r[1])))
shutil.move(f / "cats/00.png", f / "wolves/zz.png"); r = load(f); check("a picture moved to another class", r[1].count("wolves") == 4, r[1].count("wolves"))
x = folder("x", ["a", "b"]); load(x); shutil.rmtree(x); x = folder("x", ["c", "d"]); r = load(x); check("another data set in the same place", sorted(set(r[1])) == ["c", "d"], sorted(set(r[1])))
done()
