"""Classes that are each other's mirror image: left and right, b and d. Sources: AlexeyAB/darknet#674, #3606, #6012; reproduce-chexnet#3. Right: the judge (and CLIP), which measure and choose, tell them apart as well as a straight line does, or say that they cannot."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
import torch
from hfdiff.data.loading import load_training_data
from hfdiff.evaluation.judge import accuracy
from hfdiff.evaluation.judge_training import make_judge, train_judge
torch.set_num_threads(1); rng = np.random.default_rng(0); d = W / "arrows"
shape = np.zeros((9, 9)); shape[4, :] = 1
for i in range(4): shape[4 - i, i] = shape[4 + i, i] = 1     # an arrow to the left
def picture(c):
    a = np.full((16, 16), 20.); y, x = rng.integers(0, 7, 2) // 2 + 2; s = shape if c == "left" else shape[:, ::-1]; a[y:y + 9, x:x + 9] += 200 * s; return Image.fromarray((a + rng.normal(0, 8, a.shape)).clip(0, 255).astype(np.uint8))
for c in ("left", "right"):
    (d / c).mkdir(parents=True)
    for k in range(300): picture(c).save(d / c / f"{k}.png")
t, v = load_training_data(str(d)); X = t.pixels.numpy().reshape(len(t), -1) / 255.; y = t.labels.numpy() * 2. - 1
w = np.linalg.lstsq(np.c_[X, np.ones(len(X))].T @ np.c_[X, np.ones(len(X))] + 3 * np.eye(257), np.c_[X, np.ones(len(X))].T @ y, rcond=None)[0]
V = v.pixels.numpy().reshape(len(v), -1) / 255.; line = ((np.c_[V, np.ones(len(V))] @ w > 0) == (v.labels.numpy() == 1)).mean()
j = make_judge(t, (8, 16, 32)); told = []
for epoch in train_judge(j, t, v, epochs=12, batch_size=32): pass
acc = accuracy(j, v); print(f"   info: a straight line is right on {line:.2f} of {len(v)} held-out pictures")
check("the judge tells left from right", acc > min(0.9, line - 0.1), f"right on {acc:.2f}")
import inspect, hfdiff.evaluation.clip_training as C; check("the small CLIP is trained without mirroring, or with a choice", "mirror_and_shift" not in inspect.getsource(C) or "flip" in inspect.getsource(C).replace("mirror_and_shift", ""), "hfdiff/evaluation/clip_training.py trains on mirror_and_shift, with no flag")
done()
