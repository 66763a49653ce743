"""The same on a 40 x 40 grid: the minima are refined off the grid, so they come out the same. Ten seconds.

python experiments/flatness.py --config smoke
"""

from configs.flatness._schema import Flatness

config = Flatness(grid=(40, 40))
