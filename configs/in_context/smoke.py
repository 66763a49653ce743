"""Small mixtures and two networks of 40 steps: shows that everything runs, no more.

python experiments/in_context.py --config smoke
"""

import dataclasses

from configs.in_context._schema import InContext, MixtureOptions

# One size for all mixtures, and few laws: most of the time goes into compiling.
SIZES = MixtureOptions(
    concepts=2, entities=1, properties=2, vocabulary_size=3, delimiter_probability=0.4, permutations=1, smoothing=0.1
)

config = InContext(
    mixture=SIZES,
    symbols=2,
    examples=3,
    starts=(1, 2),
    laws=("wrong",),
    draws=200,
    tiny=SIZES,
    tiny_length=5,
    taught=dataclasses.replace(SIZES, resets=True),
    taught_examples=4,
    penalty_start=2,
    width=8,
    heads=2,
    feed_forward=16,
    layers=1,
    batch_size=8,
    warmup=10,
    steps=40,
    branch_steps=20,
    evaluate_every=20,
    seeds=(0, 1),
    penalty_prompts=4,
    test_sequences=64,
    test_prompts=64,
    quick_compile=True,
)
