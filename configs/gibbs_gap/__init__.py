"""Configs of experiments/gibbs_gap.py; each file's `config` is one, and every field is a flag."""
