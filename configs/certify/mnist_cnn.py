"""Ten-class MNIST, 14x14, all 60,000 images, convolutions of 12 and 24 channels: 0.3 s a gradient on one core.

python experiments/certify.py --config mnist_cnn --data-dir DATA
"""

from configs.certify._schema import Certify

config = Certify(
    dataset="mnist", pool=2, model="cnn", channels=(12, 24), activation="swish", prior_scale=4.0, gradients=3000,
    rows_per_chunk=250,
)  # fmt: skip
