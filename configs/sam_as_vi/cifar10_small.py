"""CIFAR-10, ResNet-20-FRN of half the width, 4,000 images, 10 epochs: sized for 2 cores.

python experiments/sam_as_vi.py --config cifar10_small --data-dir DATA
"""

import dataclasses

from configs.sam_as_vi.cifar10 import config as cifar10

config = dataclasses.replace(
    cifar10,
    limit=5000,
    validation_rows=1000,
    width=8,
    methods=("sgd", "sam", "ivon", "bsam"),
    budgets=("gradients",),
    epochs=10.0,
    batch_size=50,
    learning_rates={"ivon": 0.5, "bsam": 0.5},
    tune=False,
    certificate_steps=100,
    posterior_samples=4,
    sharpness_rows=200,
    sharpness_samples=4,
    sharpness_ascent_steps=1,
    hutchinson_probes=4,
    lanczos_iterations=8,
    replicas_at_once=1,
    chunks_per_pass=2,
)
