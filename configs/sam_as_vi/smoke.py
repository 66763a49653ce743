"""Digits, eight epochs, two seeds, two methods: shows that everything runs, no more.

python experiments/sam_as_vi.py --config smoke
"""

from configs.sam_as_vi._schema import SamAsVi

config = SamAsVi(
    dataset="digits",
    other_dataset="none",
    pool=None,
    validation_rows=237,
    hidden=(16,),
    methods=("sam", "mean_field"),
    epochs=8.0,
    batch_size=50,
    seeds=(0, 1),
    learning_rates={"sam": 0.2},
    curve_radii=(0.05, 0.2),
    certificate_steps=100,
    posterior_samples=4,
    sharpness_rows=200,
    sharpness_samples=4,
    hutchinson_probes=4,
    lanczos_iterations=8,
    replicas_at_once=4,
)
