"""Six languages of the Chomsky hierarchy, four kinds of network, maximum likelihood, three seeds: 22 minutes on a core.

python experiments/rule_extrapolation.py --config chomsky

Sized for two cores, so no reproduction of arXiv 2409.13728: strings up to 32 symbols (256 there), 512 training strings
(15,000 of the regular languages), LSTM of two layers without dropout (five, 0.4), prompts of 6 in every language (8,
and 5 of a^n b^n c^n), 2,000 steps of 64 strings, padding counted in every loss, and values at named evaluations where
its tables take the maximum over training. Three seeds a side cannot reach a p-value below 0.1.
"""

from configs.rule_extrapolation._schema import RuleExtrapolation

config = RuleExtrapolation(
    languages=("even_as", "b_then_even_as", "anbn", "dyck", "anbncn", "interleaved"),
    models=("transformer", "lstm", "state_space", "linear"),
    regimes=("maximum_likelihood",),
    batch_size=64,
    warmup=500,
    steps=2000,
    evaluate_every=200,
    sharpness=False,
)
