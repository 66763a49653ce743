"""The smallest language model with a memory: a leaky sum of embeddings. It tells apart rows, dropout and a cache."""

import jax
import jax.numpy as jnp

from pbjax.models import LanguageModel

LEAK = 0.7


def leaky_sum(vocabulary_size=5, *, width=6, dropout=0.0, reads_rows=False, max_positions=None):
    """h_t = LEAK h_(t-1) + E[x_t], logits tanh(h_t) U, plus sin(row) in the last logit for models that read rows."""

    def init(key):
        first, second = jax.random.split(key)
        return {
            "embedding": jax.random.normal(first, (vocabulary_size, width), jnp.float32),
            "output": jax.random.normal(second, (width, vocabulary_size), jnp.float32),
        }

    def offset(rows):
        last = jnp.arange(vocabulary_size) == vocabulary_size - 1
        return jnp.outer(jnp.sin(rows.astype(jnp.float32)), last.astype(jnp.float32))

    def apply(params, tokens, *, key=None, rows=None):
        def advance(hidden, token):
            hidden = LEAK * hidden + params["embedding"][token]
            return hidden, hidden

        start = jnp.zeros((tokens.shape[0], width), jnp.float32)
        _, hidden = jax.lax.scan(advance, start, tokens.T)
        hidden = jnp.tanh(hidden.swapaxes(0, 1))
        if key is not None and dropout:
            hidden *= jax.random.bernoulli(key, 1 - dropout, hidden.shape) / (1 - dropout)
        logits = hidden.astype(jnp.float32) @ params["output"]
        if reads_rows:
            logits += offset(jnp.arange(tokens.shape[0]) if rows is None else rows)[:, None]
        return logits

    def start(params, rows, length):
        return jnp.zeros((rows.shape[0], width), jnp.float32), rows, jnp.zeros((rows.shape[0], length), jnp.int32)

    def step(params, cache, tokens):
        hidden, rows, seen = cache
        hidden = LEAK * hidden + params["embedding"][tokens]
        logits = jnp.tanh(hidden) @ params["output"]
        if reads_rows:
            logits += offset(rows)
        return logits, (hidden, rows, seen)

    return LanguageModel(init, apply, start, step, vocabulary_size, max_positions)
