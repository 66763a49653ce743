"""Three regimes held at one divergence from the data law, eight seeds: compare them at the end of training.

python experiments/rule_extrapolation.py --config equal_loss
"""

from configs.rule_extrapolation._schema import RuleExtrapolation

config = RuleExtrapolation(
    pin=0.3,
    seeds=tuple(range(8)),
    replicas_at_once=8,
    steps=4000,
    # Three times the pull of the likelihood, a mean over 33 positions: above what completions gain at the pin, and far
    # from drowning them on the way there.
    pin_weight=0.1,
    pin_width=0.05,
    match=0.35,
    bands=(0.7, 0.35),
)
