"""The smallest language model with a memory: a leaky sum of embeddings. It tells apart rows, dropout and a cache."""

import jax
import jax.numpy as jnp

from pbjax.models import LanguageModel

LEAK = 0.7


def leaky_sum(vocabulary_size=5, *, width=6, dropout=0.0, reads_rows=False, max_positions=None):
    """h_t = LEAK h_(t-1) + E[x_t], logits tanh(h_t) U, plus sin(row) in the last logit for models that read rows."""

    def init(key):
        # Quasi-random weights from the key's bits: normal draws take a second of compilation in every program.
        phase = (jax.random.key_data(key).ravel()[-1] % 1009).astype(jnp.float32)
        waves = 1.3 * jnp.sin(jnp.arange(1, 2 * vocabulary_size * width + 1, dtype=jnp.float32) ** 1.5 * (2 + phase))
        embedding, output = jnp.split(waves, 2)
        return {
            "embedding": embedding.reshape(vocabulary_size, width),
            "output": output.reshape(width, vocabulary_size),
        }

    def offset(rows):
        last = jnp.arange(vocabulary_size) == vocabulary_size - 1
        return jnp.outer(jnp.sin(rows.astype(jnp.float32)), last.astype(jnp.float32))

    def apply(params, tokens, *, key=None, rows=None):
        # One product with a matrix of powers: a scan would cost a test several times as long to compile.
        age = jnp.arange(tokens.shape[1])[:, None] - jnp.arange(tokens.shape[1])[None]
        leak = jnp.where(age < 0, 0.0, LEAK ** jnp.maximum(age, 0).astype(jnp.float32)).astype(jnp.float32)
        hidden = jnp.tanh(jnp.einsum("ts,nsd->ntd", leak, params["embedding"][tokens]))
        if key is not None and dropout:
            # Whole channels: random bits for every entry take a second to compile.
            kept = jax.random.bits(key, (width,), jnp.uint8) >= int(256 * dropout)
            hidden *= (kept / jnp.float32(1 - dropout)).astype(jnp.float32)[None, None]
        logits = hidden @ params["output"]
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
