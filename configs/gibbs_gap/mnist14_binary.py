"""MNIST 0-4 against 5-9, 14x14, all 60,000 images, 196-50-2.

    python experiments/gibbs_gap.py --config mnist14_binary --data-dir DATA
"""

from configs.gibbs_gap._schema import GibbsGap

config = GibbsGap(
    dataset="mnist", pool=2, binary=True, hidden=(50,), beta_min=50.0, beta_max=20_000.0, num_integration_steps=16,
    pilot_rungs=32, pilot_moves=5, adapt_moves=40, draws=120, moves_per_chunk=4, batch_size=1000,
)  # fmt: skip
