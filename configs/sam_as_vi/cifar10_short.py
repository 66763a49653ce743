"""CIFAR-10, ResNet-20-FRN, the rows and networks of cifar10 for half an epoch instead of 200, on 2 cores.

python experiments/sam_as_vi.py --config cifar10_short --data-dir DATA

Shows where the learning curves of cifar10 start and what an epoch costs. Rates and radii are those of the peer named in
cifar10, not searched: IVON's h_0 = 1 is the radius 2.6, since radius^2 = P / (n (h_0 + weight_decay)).
"""

import dataclasses

from configs.sam_as_vi.cifar10 import config as cifar10

config = dataclasses.replace(
    cifar10,
    budgets=("gradients",),
    epochs=0.5,
    batch_size=128,
    tune=False,
    learning_rates={"sgd": 0.03, "ivon": 0.1, "bsam": 0.1},
    radii={"ivon": 2.6, "bsam": 0.03},
    measures=(),
    posterior_samples=4,
    sharpness_rows=1000,
    replicas_at_once=1,
    chunks_per_pass=16,
)
