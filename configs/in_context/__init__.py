"""Configs of experiments/in_context.py; each file's `config` is one, and every field is a flag."""
