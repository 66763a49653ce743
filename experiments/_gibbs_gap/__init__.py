"""Parts of experiments/gibbs_gap.py."""
