"""Parts of experiments/certify.py."""
