"""Exact neighbours of a mixture, and three networks with and without in-context learning: six minutes of CPU time.

python experiments/in_context.py
"""

from configs.in_context._schema import InContext

config = InContext()
