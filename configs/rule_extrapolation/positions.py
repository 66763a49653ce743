"""How much the row-indexed encoding matters: five position encodings, eight seeds: 15 minutes on one core.

python experiments/rule_extrapolation.py --config positions
"""

from configs.rule_extrapolation._schema import RuleExtrapolation

config = RuleExtrapolation(
    positions=("none", "batch_row", "sinusoidal", "learned", "rotary"),
    regimes=("maximum_likelihood",),
    seeds=tuple(range(8)),
    replicas_at_once=8,
    steps=4000,
    evaluate_every=200,
    identical_layers=True,
)
