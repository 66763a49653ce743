"""Configs of experiments/rule_extrapolation.py; each file's `config` is one, and every field is a flag."""
