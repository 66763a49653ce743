"""Six languages of the Chomsky hierarchy, four kinds of network, maximum likelihood, three seeds.

python experiments/rule_extrapolation.py --config chomsky
"""

from configs.rule_extrapolation._schema import RuleExtrapolation

config = RuleExtrapolation(
    languages=("even_as", "b_then_even_as", "anbn", "dyck", "anbncn", "interleaved"),
    models=("transformer", "lstm", "state_space", "linear"),
    regimes=("maximum_likelihood",),
    batch_size=64,
    steps=4000,
    evaluate_every=200,
    sharpness=False,
)
