"""Rescaling by c = 1, 2, 4, 8 where only the two layers around the neurons are fine-tuned: 21 minutes on half a core.

python experiments/fine_tuning.py --config feed_forward
"""

from configs.fine_tuning._schema import FineTuning

config = FineTuning(
    trained="feed_forward",
    strengths=(2, 4, 8),
    methods=("sgd", "momentum", "adamw", "squared_weights"),
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
)
