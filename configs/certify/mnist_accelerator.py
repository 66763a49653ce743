"""Ten-class MNIST, 28x28, all 60,000 images, convolutions of 16 and 32 channels, five seeds: for an accelerator.

python experiments/certify.py --config mnist_accelerator --data-dir DATA
"""

from configs.certify._schema import Certify

config = Certify(
    dataset="mnist",
    model="cnn",
    channels=(16, 32),
    activation="swish",
    prior_scale=4.0,
    beta=2.0,
    gradients=20_000,
    seeds=(0, 1, 2, 3, 4),
    rows_per_chunk=20_000,
    chunks=60,
    matmul_precision="tensorfloat32",
)
