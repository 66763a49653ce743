"""Configs of experiments/fine_tuning.py; each file's `config` is one, and every field is a flag."""
