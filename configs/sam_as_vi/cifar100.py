"""CIFAR-100, otherwise as cifar10. Ready, but never run: its data were not at hand.

python experiments/sam_as_vi.py --config cifar100 --data-dir DATA
"""

import dataclasses

from configs.sam_as_vi.cifar10 import config as cifar10

config = dataclasses.replace(cifar10, dataset="cifar100")
