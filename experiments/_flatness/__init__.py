"""Parts of experiments/flatness.py."""
