"""The type of arrays in signatures."""

import jax
import numpy as np

# On a device or on the host: compiled functions take either and return the former.
Array = jax.Array | np.ndarray
