"""A finished phase's result in one file: a tree of small host arrays that needs no template to be read back."""

import io
import json
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pbjax.runs.atomic import write_file

_STRUCTURE = "structure"


def _encode(tree: Any, arrays: list[np.ndarray]) -> Any:
    if tree is None or isinstance(tree, bool | int | str):
        return {"plain": tree}
    if isinstance(tree, float):  # through an array, so that every bit and NaN survive
        arrays.append(np.asarray(tree))
        return {"float": len(arrays) - 1}
    if isinstance(tree, dict):
        if not all(isinstance(key, str) for key in tree):
            raise ValueError(f"a phase's result may only have text keys, got {list(tree)}; use str(key)")
        return {"dict": [[key, _encode(value, arrays)] for key, value in tree.items()]}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        kind = f"{type(tree).__module__}:{type(tree).__qualname__}"
        return {"namedtuple": kind, "items": [_encode(value, arrays) for value in tree]}
    if isinstance(tree, list | tuple):
        return {type(tree).__name__: [_encode(value, arrays) for value in tree]}
    if isinstance(tree, jax.Array) and jnp.issubdtype(tree.dtype, jax.dtypes.prng_key):
        arrays.append(np.asarray(jax.random.key_data(tree)))
        return {"key": str(jax.random.key_impl(tree)), "data": len(arrays) - 1}
    array = np.asarray(tree) if hasattr(tree, "__array__") else None
    if array is None or array.dtype.hasobject:
        raise ValueError(
            f"a phase's result may hold arrays, numbers, text, lists, tuples, named tuples and dictionaries, "
            f"got {type(tree).__name__}"
        )
    arrays.append(array)
    return {"array": len(arrays) - 1}


def _decode(code: Any, arrays: dict[str, np.ndarray]) -> Any:
    if "plain" in code:
        return code["plain"]
    if "float" in code:
        return float(arrays[str(code["float"])])
    if "dict" in code:
        return {key: _decode(value, arrays) for key, value in code["dict"]}
    if "namedtuple" in code:
        module, _, name = code["namedtuple"].partition(":")
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        # The file names a class to call, so nothing but a named tuple may be called.
        make = getattr(found, "_make", None)
        if make is None or not (isinstance(found, type) and issubclass(found, tuple)):
            raise ValueError(f"{code['namedtuple']} is not a named tuple")
        return make(_decode(item, arrays) for item in code["items"])
    if "list" in code:
        return [_decode(item, arrays) for item in code["list"]]
    if "tuple" in code:
        return tuple(_decode(item, arrays) for item in code["tuple"])
    if "key" in code:
        return jax.random.wrap_key_data(jnp.asarray(arrays[str(code["data"])]), impl=code["key"])
    return arrays[str(code["array"])]


def to_bytes(tree: Any) -> bytes:
    """Packs a tree of arrays, numbers and text.

    Args:
      tree: nested dict (text keys), list, tuple and NamedTuple (importable) of arrays, numbers, text and None.

    Returns:
      The bytes of an uncompressed npz file whose entry `structure` is JSON.

    Raises:
      ValueError: the tree holds something else.
    """
    arrays: list[np.ndarray] = []
    structure = json.dumps(_encode(tree, arrays)).encode()
    sink = io.BytesIO()
    named: dict[str, Any] = {str(index): array for index, array in enumerate(arrays)}
    np.savez(sink, **{_STRUCTURE: np.frombuffer(structure, np.uint8)}, **named)
    return sink.getvalue()


def from_bytes(data: bytes) -> Any:
    """Reads back what `to_bytes` packed; arrays come back as numpy arrays, bit for bit.

    Args:
      data: the bytes.

    Returns:
      The tree.

    Raises:
      ValueError: the bytes are damaged (npz keeps a checksum of every array).

    Example:
      >>> from_bytes(to_bytes({"risk": 0.1, "names": ["a"], "draws": np.arange(3)}))
      {'risk': 0.1, 'names': ['a'], 'draws': array([0, 1, 2])}
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        structure = json.loads(arrays[_STRUCTURE].tobytes())
        return _decode(structure, arrays)
    except (zipfile.BadZipFile, OSError, EOFError, KeyError, AttributeError, ImportError) as error:
        raise ValueError(f"damaged archive ({type(error).__name__}: {error})") from error


def save(path: Path, tree: Any) -> None:
    """Writes a tree to one file, whole or not at all.

    Args:
      path: the file.
      tree: what `to_bytes` takes.
    """
    write_file(path, to_bytes(tree))


def load(path: Path) -> Any:
    """Reads a tree from the file that `save` wrote.

    Args:
      path: the file.

    Returns:
      The tree.

    Raises:
      ValueError: the file is damaged.
    """
    return from_bytes(path.read_bytes())
