"""Ten-class MNIST, 14x14, all 60,000 images, 196-50-10: 16 ms a gradient on one core.

python experiments/certify.py --config mnist14 --data-dir DATA
"""

from configs.certify._schema import Certify

config = Certify(dataset="mnist", pool=2, hidden=(50,), activation="swish", prior_scale=5.0, gradients=10_000)
