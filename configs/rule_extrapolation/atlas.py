"""A seed atlas: 256 networks by maximum likelihood, compared at matched loss (an hour on one core).

python experiments/rule_extrapolation.py --config atlas

On an accelerator --max-length 64 --replicas-at-once 256 is the larger one.
"""

from configs.rule_extrapolation._schema import RuleExtrapolation

config = RuleExtrapolation(
    regimes=("maximum_likelihood",),
    seeds=tuple(range(256)),
    replicas_at_once=8,
    match=0.3,
    bands=(0.7, 0.3, 0.15),
)
