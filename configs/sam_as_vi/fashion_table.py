"""Fashion-MNIST at 14x14, MLP, otherwise as mnist_table: under an hour on 2 cores.

python experiments/sam_as_vi.py --config fashion_table --data-dir DATA
"""

import dataclasses

from configs.sam_as_vi.mnist_table import config as mnist

config = dataclasses.replace(mnist, dataset="fashion_mnist", other_dataset="mnist")
