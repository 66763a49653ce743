"""Parts of experiments/sam_as_vi.py."""
