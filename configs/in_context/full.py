"""The same with eight seeds and twice the steps: about twenty minutes of CPU time.

python experiments/in_context.py --config full
"""

from configs.in_context._schema import InContext

config = InContext(
    draws=10_000,
    seeds=tuple(range(8)),
    steps=8000,
    branch_steps=4000,
    evaluate_every=500,
    test_sequences=32_768,
    test_prompts=8192,
)
