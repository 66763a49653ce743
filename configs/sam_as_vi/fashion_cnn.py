"""Fashion-MNIST at 14x14, two convolutions, all methods, four epochs, searched rates and radii: a quarter of an hour.

python experiments/sam_as_vi.py --config fashion_cnn --data-dir DATA
"""

from configs.sam_as_vi._schema import SamAsVi

config = SamAsVi(
    dataset="fashion_mnist",
    other_dataset="mnist",
    model="small_cnn",
    tune=True,
    epochs=4.0,
    posterior_samples=16,
    certificate_repeats=1,
    hutchinson_probes=16,
    chunks_per_pass=2,
)
