"""Few pictures of a class. Sources: huggingface/datasets PR#4322, DeepWisdom/AutoDL#36, scikit-learn#18424. Right: every class that the model can be asked for has a training picture, or it is said."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
from hfdiff.data.loading import load_training_data
from hfdiff.data.table import describe
def counts(d): t, v = load_training_data(str(d)); return t, np.array(t.class_counts())
t, c = counts(folder("k1", [f"c{i:03d}" for i in range(100)], n=1)); check("100 classes of one picture: none without a training picture", (c == 0).sum() == 0, f"{(c == 0).sum()} of 100 classes have none; the table printed: {[l for l in describe(t).splitlines() if l.rstrip().endswith(' 0')][:1]}")
d = W / "k2"
for i in range(60): (d / "many").mkdir(parents=True, exist_ok=True); flat(i).save(d / "many" / f"{i}.png")
lost = []
for n in (1, 2, 3):
    for j in range(6):
        (d / f"rare{n}{j}").mkdir(); [flat(200).save(d / f"rare{n}{j}" / f"{q}.png") for q in range(n)]
t, c = counts(d); lost = [t.class_names[i] for i in np.flatnonzero(c == 0)]; check("rare classes of 1 to 3 beside one of 60", not lost, f"untrained: {lost}")
d = W / "k3"
for s, cl in (("train", ["a", "b"]), ("test", ["a", "b", "c"])):
    for c_ in cl: (d / s / c_).mkdir(parents=True); [flat(5 * q).save(d / s / c_ / f"{q}.png") for q in range(3)]
r, e = refused(counts, d); check("a class that only the test split has: refused or said", (e is not None and clean(e)), short(e) if e is not None else f"classes {r[0].class_names}, counts {r[1].tolist()}, nothing said")
done()
