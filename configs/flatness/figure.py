"""The four panels on a 400 x 400 grid with rho = 8: twenty seconds on 2 cores.

python experiments/flatness.py --config figure
"""

from configs.flatness._schema import Flatness

config = Flatness()
