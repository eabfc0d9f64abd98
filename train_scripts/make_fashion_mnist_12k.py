"""Write the embedded dataset: 10,000 + 2,000 images of Fashion-MNIST's train split, balanced by class.

python train_scripts/make_fashion_mnist_12k.py [SOURCE]        # SOURCE: the Hub id, or a folder with its parquet files
"""

import sys

import datasets
import numpy as np

from hfdiff.data.registry import DATASETS

PER_CLASS = {"train": 1000, "validation": 200}


def main(source: str) -> None:
    train = datasets.load_dataset(source, split="train")
    labels = np.array(train["label"])
    order = np.random.default_rng(0).permutation(len(labels))
    rows = {name: np.array([], dtype=int) for name in PER_CLASS}
    for label in range(train.features["label"].num_classes):
        of_class = order[labels[order] == label]
        start = 0
        for name, count in PER_CLASS.items():
            rows[name] = np.concatenate([rows[name], of_class[start : start + count]])
            start += count
    for name, chosen in rows.items():
        train.select(np.sort(chosen)).to_parquet(f"{DATASETS['fashion_mnist_12k'].source}/{name}.parquet")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else DATASETS["fashion_mnist"].source)
