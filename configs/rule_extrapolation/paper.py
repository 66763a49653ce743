"""The published sizes and the switches of the public code, 16 and 8 seeds: for an accelerator.

python experiments/rule_extrapolation.py --config paper
"""

from configs.rule_extrapolation._schema import RuleExtrapolation

# Sixteen seeds of maximum likelihood and eight of each other regime; the public runs take 35,000 to 50,000 steps and
# find their least validation loss after 7,500 (maximum likelihood) to 30,000 (oracle).
config = RuleExtrapolation(
    max_length=256,
    prompt_length=8,
    new_tokens=300,
    feed_forward=1024,
    positions=("batch_row",),
    identical_layers=True,
    skip_first=True,
    seeds=tuple(range(16)),
    completion_seeds=tuple(range(8)),
    replicas_at_once=24,
    steps=15_000,
    evaluate_every=500,
    match=0.644,
    bands=(0.886, 0.644, 0.263),
)
