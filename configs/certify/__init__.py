"""Configs of experiments/certify.py; each file's `config` is one, and every field is a flag."""
