"""The two-dimensional picture of mean field against HMC on the Rosenbrock function: twenty seconds.

python experiments/gibbs_gap.py --config rosenbrock
"""

from configs.gibbs_gap._schema import Rosenbrock

config = Rosenbrock()
