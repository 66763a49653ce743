"""MNIST 0-4 against 5-9, 14x14, all 60,000 images, 196-50-2.

python experiments/gibbs_gap.py --config mnist14_binary --data-dir DATA
"""

from configs.gibbs_gap._schema import GibbsGap

config = GibbsGap(
    dataset="mnist",
    pool=2,
    binary=True,
    hidden=(50,),
    beta_min=50.0,
    beta_max=4000.0,
    num_integration_steps=12,
    pilot_rungs=16,
    pilot_moves=4,
    adapt_moves=60,
    draws=300,
    moves_per_chunk=4,
    mean_field_betas=(20_000.0, 40_000.0, 80_000.0, 160_000.0),
    learning_rates=(0.03,),
    initial_scales=(0.1,),
    mean_field_steps=6000,
    mean_field_evaluation_draws=16,
    mean_field_rung_draws=1000,
)
