"""Every part once on 300 digits, too short to mean anything: ten seconds.

python experiments/gibbs_gap.py --config smoke
"""

from configs.gibbs_gap._schema import GibbsGap

config = GibbsGap(
    limit=300, hidden=(8,), rungs=5, chains=4, beta_max=400.0, num_integration_steps=5, pilot_rungs=8, pilot_moves=4,
    adapt_moves=20, draws=40, moves_per_chunk=10, learning_rates=(0.01,), initial_scales=(0.3,), mean_field_steps=100,
    mean_field_evaluation_draws=8,
    mean_field_draws=200, mean_field_rung_draws=50,
)  # fmt: skip
