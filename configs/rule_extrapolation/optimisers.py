"""SAM and ASAM against AdamW at matched loss, maximum likelihood, sixteen seeds: half an hour on one core.

python experiments/rule_extrapolation.py --config optimisers
"""

from configs.rule_extrapolation._schema import RuleExtrapolation

config = RuleExtrapolation(
    optimisers=("adamw", "sam", "asam"),
    regimes=("maximum_likelihood",),
    seeds=tuple(range(16)),
    replicas_at_once=8,
    steps=4000,
    match=0.3,
)
