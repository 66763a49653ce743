"""The published sizes and switches, two seeds of maximum likelihood for 2,000 steps: for a CPU and some hours.

python experiments/rule_extrapolation.py --config paper_short
"""

import dataclasses

from configs.rule_extrapolation.paper import config as paper

config = dataclasses.replace(
    paper,
    regimes=("maximum_likelihood",),
    seeds=(0, 1),
    completion_seeds=None,
    replicas_at_once=1,
    steps=2000,
    evaluate_every=250,
    sharpness=False,
)
