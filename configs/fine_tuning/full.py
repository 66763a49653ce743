"""Rescaling and mixing by c = 1, 2, 4, 8, ten ways to fine-tune, eight seeds: 33 minutes on a core.

python experiments/fine_tuning.py --config full
"""

from configs.fine_tuning._schema import FineTuning

config = FineTuning(
    symmetries=("rescaling", "mixing"),
    strengths=(2, 4, 8),
    methods=(
        "sgd", "momentum", "adamw", "squared_weights", "muon", "shampoo", "lora_1", "lora_2", "lora_3", "lora_4"
    ),
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
)  # fmt: skip
