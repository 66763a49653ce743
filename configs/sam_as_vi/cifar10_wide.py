"""CIFAR-10, WideResNet-10-1, crop, flip, Cutout and label smoothing, 4,000 images, 10 epochs: sized for 2 cores.

python experiments/sam_as_vi.py --config cifar10_wide --data-dir DATA

--depth 28 --width 10 --limit 49040 --epochs 200 on an accelerator is the network that papers report; this run is not.
"""

import dataclasses

from configs.sam_as_vi.cifar10_small import config as small

config = dataclasses.replace(
    small,
    model="wide_resnet",
    depth=10,
    width=1,
    methods=("sgd", "sam", "asam"),
    crop=4,
    flip=True,
    cutout=8,
    label_smoothing=0.1,
)
