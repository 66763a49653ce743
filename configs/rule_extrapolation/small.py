"""a^n b^n up to 32 symbols, three regimes and three seeds, no positions: four minutes on 2 cores.

python experiments/rule_extrapolation.py --config small
"""

from configs.rule_extrapolation._schema import RuleExtrapolation

config = RuleExtrapolation()
