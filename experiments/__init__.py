"""Experiment scripts; run them from a checkout, `python experiments/gibbs_gap.py --help`."""
