"""Rescaling by c = 1, 2, 4, gradient descent and AdamW, four seeds: three minutes on a core.

python experiments/fine_tuning.py
"""

from configs.fine_tuning._schema import FineTuning

config = FineTuning()
