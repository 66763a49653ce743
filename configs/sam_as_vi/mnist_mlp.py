"""MNIST at 14x14, MLP 196-100-10, eight methods and five seeds: five minutes on 2 cores.

python experiments/sam_as_vi.py --config mnist_mlp --data-dir DATA
"""

from configs.sam_as_vi._schema import SamAsVi

config = SamAsVi(
    methods=("sgd", "adamw", "sam", "random_sam", "mix_sam", "mean_field", "variational_sam_a", "ivon"),
)
