"""Configs of experiments/sam_as_vi.py; each file's `config` is one, and every field is a flag."""
