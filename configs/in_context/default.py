"""Exact neighbours of a mixture, and three networks with and without in-context learning: four minutes of a core.

python experiments/in_context.py
"""

from configs.in_context._schema import InContext

config = InContext()
