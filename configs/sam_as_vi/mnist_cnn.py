"""MNIST at 14x14, two convolutions, otherwise as fashion_cnn.

python experiments/sam_as_vi.py --config mnist_cnn --data-dir DATA
"""

import dataclasses

from configs.sam_as_vi.fashion_cnn import config as fashion

config = dataclasses.replace(fashion, dataset="mnist", other_dataset="fashion_mnist")
