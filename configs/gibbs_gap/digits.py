"""8x8 digits, ten classes, 64-16-10, embedded in scikit-learn: two minutes on 2 cores.

python experiments/gibbs_gap.py --config digits
"""

from configs.gibbs_gap._schema import GibbsGap

config = GibbsGap()
