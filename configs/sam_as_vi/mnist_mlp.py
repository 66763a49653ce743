"""MNIST at 14x14, MLP 196-100-10, eight methods and five seeds, ten epochs: five minutes on 2 cores.

python experiments/sam_as_vi.py --config mnist_mlp --data-dir DATA

Rates and radii are those that the search of mnist_table chose.
"""

from configs.sam_as_vi._schema import SamAsVi

config = SamAsVi(
    methods=("sgd", "adamw", "sam", "random_sam", "mix_sam", "mean_field", "variational_sam_a", "ivon"),
    epochs=10.0,
    learning_rates={
        "sgd": 0.4, "adamw": 0.002, "sam": 0.4, "random_sam": 0.4, "mix_sam": 0.4, "mean_field": 0.4,
        "variational_sam_a": 0.05, "ivon": 4.0,
    },
    radii={"sam": 0.2, "random_sam": 3.0, "mix_sam": 0.5, "mean_field": 10.0, "variational_sam_a": 1.0, "ivon": 3.0},
)  # fmt: skip
