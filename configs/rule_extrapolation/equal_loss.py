"""Three regimes held near one divergence from the data law, eight seeds: compare them at the end of training.

python experiments/rule_extrapolation.py --config equal_loss

After these steps the networks are still on their way to the pin, see docs/results.
"""

from configs.rule_extrapolation._schema import RuleExtrapolation

config = RuleExtrapolation(
    pin=0.3,
    seeds=tuple(range(8)),
    replicas_at_once=8,
    steps=4000,
    # The square pulls at the KL with 2 v (KL - pin), the likelihood, a mean over 33 positions, with 1/33: a weight of 1
    # or more drowns the completions, which are a mean over positions, too.
    pin_weight=0.05,
    match=0.35,
    bands=(0.7, 0.35),
)
