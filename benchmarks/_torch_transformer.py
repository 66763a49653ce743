"""The transformer of the rule-extrapolation papers in PyTorch, written from their definition: what users have now."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from pbjax.formal import EOS, PAD

WIDTH, HEADS, LAYERS, DROPOUT, EPSILON, VOCABULARY = 10, 5, 5, 0.1, 6e-3, 5


def available() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def version() -> str | None:
    """PyTorch's version."""
    if not available():
        return None
    import torch  # pyright: ignore[reportMissingImports]

    return str(torch.__version__)


def make_model(feed_forward: int) -> Any:
    """Module `(tokens [n, t]) -> logits [n, t, v]`: post-norm encoder layers under a causal mask, no positions."""
    import torch  # pyright: ignore[reportMissingImports]

    nn = torch.nn

    class Model(nn.Module):  # pyright: ignore[reportUntypedBaseClass]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, WIDTH)
            self.dropout = nn.Dropout(DROPOUT)
            layer = nn.TransformerEncoderLayer(
                WIDTH, HEADS, feed_forward, DROPOUT, layer_norm_eps=EPSILON, batch_first=True
            )
            self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
            self.output = nn.Linear(WIDTH, VOCABULARY)

        def forward(self, tokens: Any) -> Any:
            t = tokens.shape[1]
            causal = torch.ones(t, t, dtype=torch.bool).triu(1)
            hidden = self.dropout(self.embedding(tokens) * WIDTH**0.5)
            hidden = self.encoder(hidden, mask=causal, src_key_padding_mask=tokens == PAD)
            return self.output(hidden)

    torch.manual_seed(0)
    return Model()


def make_step(sequences: np.ndarray, *, feed_forward: int) -> Callable[[], float]:
    """A training step on the whole set: loss over all positions, AdamW."""
    import torch  # pyright: ignore[reportMissingImports]

    model = make_model(feed_forward).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    tokens = torch.from_numpy(sequences.astype(np.int64))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    def step() -> float:
        optimiser.zero_grad()
        logits = model(inputs)
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), targets.reshape(-1))
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def decode(prompts: np.ndarray, *, new_tokens: int, feed_forward: int) -> np.ndarray:
    """Greedy completions without a cache, a pass over the whole string for each token, as the public code makes them.

    Of a model of the same shape with random weights, whose output bias forbids EOS.
    """
    import torch  # pyright: ignore[reportMissingImports]

    model = make_model(feed_forward).eval()
    with torch.no_grad():
        model.output.bias[EOS] = -1e9
        tokens = torch.from_numpy(prompts.astype(np.int64))
        for _ in range(new_tokens):
            new = model(tokens)[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, new], dim=1)
    return tokens.numpy()
