"""Configs of the experiments, one folder each."""
