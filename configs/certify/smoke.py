"""Every part once on 300 digits, too short to mean anything: ten seconds.

python experiments/certify.py --config smoke
"""

from configs.certify._schema import Certify

config = Certify(limit=300, hidden=(8,), gradients=400, chunks=8, seeds=(0, 1))
