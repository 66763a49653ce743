"""a^n b^n up to 32 symbols, three regimes and eight seeds, 6,000 steps: half an hour on one core.

python experiments/rule_extrapolation.py --config small_full
"""

from configs.rule_extrapolation._schema import RuleExtrapolation

config = RuleExtrapolation(
    seeds=tuple(range(8)),
    replicas_at_once=8,
    steps=6000,
    evaluate_every=200,
    match=0.3,
)
