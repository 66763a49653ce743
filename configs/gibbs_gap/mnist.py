"""Ten-class MNIST, 28x28, all 60,000 images, 784-600-600-10: for an accelerator.

python experiments/gibbs_gap.py --config mnist --data-dir DATA --seeds 0 1
"""

from configs.gibbs_gap._schema import GibbsGap

config = GibbsGap(
    dataset="mnist",
    hidden=(600, 600),
    beta_min=50.0,
    beta_max=60_000.0,
    rungs=24,
    num_integration_steps=32,
    pilot_rungs=24,
    pilot_moves=6,
    adapt_moves=100,
    draws=400,
    moves_per_chunk=2,
    rows_per_chunk=20_000,
    mean_field_betas=(120_000.0, 240_000.0),
    learning_rates=(0.01, 0.03),
    initial_scales=(0.1,),
    mean_field_steps=12_000,
    mean_field_evaluation_draws=16,
    mean_field_rung_draws=1000,
)
