"""CIFAR-10, ResNet-20-FRN, no augmentation, 200 epochs, SGD, IVON and bSAM: for an accelerator.

python experiments/sam_as_vi.py --config cifar10 --data-dir DATA

40,960 rows train and 9,040 choose rates and radii, as in the JAX peer cs-giung/bdlx whose errors stand beside these in
docs/results. Its public scripts take 50,000 steps of 256 rows, about 312 epochs, on pixels of the same shift and scale,
with the decays below; its errors are those of the validation rows that chose its rates. Half of the steps here see the
prior's rows only, for the certificate, so this is no reproduction.
"""

from configs.sam_as_vi._schema import SamAsVi

config = SamAsVi(
    dataset="cifar10",
    other_dataset="none",
    pool=None,
    validation_rows=9040,
    # Mean and standard deviation of the channels of natural images; fixed, so that no certified row sets them.
    shift=(125.0, 123.0, 114.0),
    scale=(63.0, 62.0, 67.0),
    model="resnet_frn",
    methods=("sgd", "ivon", "bsam"),
    budgets=("epochs", "gradients"),
    epochs=200.0,
    batch_size=256,
    weight_decay=1e-3,
    weight_decays={"sgd": 3e-3, "bsam": 3e-3},
    seeds=(0, 1),
    tune=True,
    tune_seeds=(100,),
    certificate_steps=2000,
    certificate_repeats=1,
    replicas_at_once=2,
)
