"""8x8 digits, ten classes, 64-16-10, eight networks, embedded in scikit-learn: a minute on 2 cores.

python experiments/certify.py
"""

from configs.certify._schema import Certify

config = Certify(gradients=8000, seeds=(0, 1, 2, 3, 4, 5, 6, 7))
