"""Three regimes held at one divergence from the data law, so that their losses are equal and not only matched.

python experiments/rule_extrapolation.py --config equal_loss
"""

from configs.rule_extrapolation._schema import RuleExtrapolation

config = RuleExtrapolation(
    pin=0.3,
    seeds=tuple(range(8)),
    replicas_at_once=8,
    steps=4000,
    match=0.31,
    bands=(0.7, 0.31),
)
