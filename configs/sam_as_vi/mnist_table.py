"""MNIST at 14x14, MLP, all methods, searched rates and radii, curves along radius, kappa and samples: under an hour.

python experiments/sam_as_vi.py --config mnist_table --data-dir DATA
"""

from configs.sam_as_vi._schema import SamAsVi

config = SamAsVi(
    tune=True,
    curve_methods=("sam", "asam", "random_sam", "mean_field", "mean_field_then_sam"),
    curve_radii=(0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0),
    curve_kappas=(0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 16.0),
    curve_samples=(1, 2, 4),
)
