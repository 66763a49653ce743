"""Exact neighbours of a mixture, and three networks with and without in-context learning: minutes on 2 cores.

python experiments/in_context.py
"""

from configs.in_context._schema import InContext

config = InContext()
