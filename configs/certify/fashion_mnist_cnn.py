"""Ten-class Fashion-MNIST, 14x14, all 60,000 images, two convolutions of 12 and 24 channels and a linear layer.

python experiments/certify.py --config fashion_mnist_cnn --data-dir DATA
"""

import dataclasses

from configs.certify.mnist_cnn import config as mnist

config = dataclasses.replace(mnist, dataset="fashion_mnist")
