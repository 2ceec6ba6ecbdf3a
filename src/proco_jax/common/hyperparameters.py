"""Hyperparameters as pytrees of scalars, so that members of one program may differ in them."""

from typing import Any

import jax.numpy as jnp


def hyper_from(config: Any, kind: Any, **nested: Any) -> Any:
    """The hyperparameters `kind`, a NamedTuple of floats, of a config section.

    Args:
      config: a section of `config.schema` with a field for each field of `kind`.
      kind: the NamedTuple class.
      **nested: values of fields that are hyperparameters of another part.
    """
    own = [name for name in kind._fields if name not in nested]
    return kind(**{name: jnp.float32(getattr(config, name)) for name in own}, **nested)
