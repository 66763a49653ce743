"""A network of one layer, c = 2, gradient descent alone, two seeds: shows that everything runs, no more.

python experiments/fine_tuning.py --config smoke
"""

from configs.fine_tuning._schema import FineTuning

config = FineTuning(
    max_length=9,
    width=8,
    heads=2,
    feed_forward=8,
    layers=1,
    pretrain_steps=200,
    strengths=(2,),
    methods=("sgd",),
    rates=3,
    target=5.0,
    max_steps=400,
    evaluate_every=20,
    seeds=(0, 1),
    linearised=False,
    sharpness_samples=4,
)
