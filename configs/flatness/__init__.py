"""Configs of experiments/flatness.py; each file's `config` is one, and every field is a flag."""
