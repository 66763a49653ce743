"""a^n b^n up to 16 symbols, three regimes and two seeds, 200 steps: shows that everything runs, no more.

python experiments/rule_extrapolation.py --config smoke
"""

from configs.rule_extrapolation._schema import RuleExtrapolation

config = RuleExtrapolation(
    max_length=16,
    prompt_length=4,
    feed_forward=16,
    layers=1,
    seeds=(0, 1),
    replicas_at_once=4,
    warmup=50,
    steps=200,
    evaluate_every=50,
    match=3.0,
    bands=(3.0, 1.0),
    class_length=4,
    sharpness_samples=4,
)
