"""Fashion-MNIST at 14x14, two convolutions, all methods, searched rates and radii.

python experiments/sam_as_vi.py --config fashion_cnn --data-dir DATA
"""

from configs.sam_as_vi._schema import SamAsVi

config = SamAsVi(dataset="fashion_mnist", other_dataset="mnist", model="small_cnn", tune=True)
