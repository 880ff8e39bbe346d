"""One step on one device, several, or several hosts. Only this file calls `pmap`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lab.errors import InvalidInputError, require

AXIS = "batch"
WHOLE = -1


class CompiledStep:
    """A step compiled for its devices; made by `compile`.

    `place` a state once, `split` each batch, call, and `fetch` a state to the host again. On one
    device these are plain transfers; on several the arrays get a leading device axis.
    """

    devices: list[jax.Device]
    local_devices: list[jax.Device]
    is_parallel: bool

    def __init__(self, step: Callable, devices: Sequence[jax.Device], donate: bool):
        self.devices = list(devices)
        self.local_devices = [d for d in devices if d.process_index == jax.process_index()]
        self.is_parallel = len(self.devices) > 1
        donated = (0,) if donate else ()
        if self.is_parallel:
            self._call = jax.pmap(step, AXIS, devices=self.devices, donate_argnums=donated)
        else:
            # shard_map over a mesh of one binds the axis name without an axis in the arrays.
            mesh, everything = Mesh(np.array(self.devices), (AXIS,)), PartitionSpec()
            bound = jax.shard_map(
                step, mesh=mesh, in_specs=everything, out_specs=everything, check_vma=False
            )
            self._call = jax.jit(bound, donate_argnums=donated)
            self._sharding = NamedSharding(mesh, everything)

    def __call__(self, state: Any, batch: Any) -> tuple[Any, Any]:
        """Takes the step on every device; metrics keep the device axis where there is one."""
        return self._call(state, batch)

    def place(self, state: Any) -> Any:
        """Copies a host state to every device (never aliases it, so donation is safe)."""
        if not self.is_parallel:
            state = jax.tree.map(lambda x: jnp.array(x, copy=True), state)
            return jax.device_put(state, self._sharding)
        return _replicate(state, self.local_devices)

    def split(self, batch: Any) -> Any:
        """Cuts this host's part of a batch into one equal part a device.

        Raises: InvalidInputError where the batch does not divide by the number of devices.
        """
        if not self.is_parallel:
            return batch
        count = len(self.local_devices)

        def cut(x):
            require(
                x.shape[0] % count == 0,
                f"a batch of {x.shape[0]} does not divide by {count} devices; "
                "pad it and mask the padding",
            )
            return x.reshape(count, x.shape[0] // count, *x.shape[1:])

        return jax.tree.map(cut, batch)

    def put(self, batch: Any) -> Any:
        """Splits this host's part of a batch and begins its transfer to the devices."""
        if not self.is_parallel:
            return jax.device_put(batch, self._sharding)
        return jax.device_put(self.split(batch), _over(self.local_devices))

    def fetch(self, tree: Any) -> Any:
        """The first device's copy of a state or of metrics, without the device axis."""
        if not self.is_parallel:
            return tree
        return jax.tree.map(lambda x: x.addressable_shards[0].data[0], tree)


def start_distributed(coordinator: str, num_processes: int, process_id: int) -> None:
    """Joins this process to the others of one run; before any other call to jax.

    Afterwards `jax.devices()` are the devices of all processes, `compile` steps on all of them,
    and each process feeds its part of a batch (`lab.data.streams` cuts it). Every process must
    call `fit` with the same arguments.

    Args:
      coordinator: "host:port" of process 0, reachable from all.
      num_processes, process_id: how many there are, and which this is, from 0.
    """
    require(
        0 <= process_id < num_processes,
        f"process_id must lie in 0..{num_processes - 1}, got {process_id}",
    )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, num_processes, process_id)


def largest_over_processes(value: int) -> int:
    """The largest of the values that all processes call this with; waits for all of them."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def compile(
    step: Callable, devices: Sequence[jax.Device] | None = None, *, donate: bool = True
) -> CompiledStep:
    """Compiles `step(state, batch) -> (state, metrics)` with the axis name "batch" bound.

    Args:
      step: pure; reduces over examples with `psum(..., "batch")` (see `steps.mean_over`).
      devices: all devices of all hosts by default. One: `jit`. Several: `pmap`.
      donate: give the state's buffers to the result.
    """
    devices = jax.devices() if devices is None else devices
    require(len(devices) > 0, "compile needs at least one device")
    return CompiledStep(step, devices, donate)


def compile_copies(
    run: Callable,
    in_axes: Any = 0,
    devices: Sequence[jax.Device] | None = None,
    *,
    in_turn: bool = False,
) -> Callable:
    """Compiles `run` over a leading axis of independent copies, sharded over local devices.

    Args:
      run: a function of one copy.
      in_axes: as of `jax.vmap`, an int or None an argument: 0 has the copies axis, None is shared.
      devices: this host's devices by default.
      in_turn: run the copies of a device one after another inside the call, not as one batch: less
        memory, faster on a CPU where a copy fills its cache, and bits that do not depend on the
        number of copies.
    Returns: a function of arrays whose copies axis has any length: on several devices it is
      padded with repeats of the last copy to a multiple of their number, and cut again.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    mapped = _in_turn(run, in_axes) if in_turn else jax.vmap(run, in_axes=in_axes)
    if len(devices) == 1:
        return jax.jit(mapped)
    parallel = jax.pmap(mapped, in_axes=in_axes, devices=devices)

    def call(*args):
        axes = _axes(in_axes, args)
        count = _num_copies(args, axes)
        per_device = -(-count // len(devices))
        spread = [
            arg if axis is None else jax.tree.map(lambda x: _spread(x, devices, per_device), arg)
            for arg, axis in zip(args, axes, strict=True)
        ]
        out = parallel(*spread)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], out)

    return call


def _axes(in_axes: Any, args: Sequence[Any]) -> Sequence[int | None]:
    return in_axes if isinstance(in_axes, tuple | list) else [in_axes] * len(args)


def _in_turn(run: Callable, in_axes: Any) -> Callable:
    def mapped(*args):
        axes = _axes(in_axes, args)

        def one(copied):
            copied = iter(copied)
            return run(
                *(a if axis is None else next(copied) for a, axis in zip(args, axes, strict=True))
            )

        return jax.lax.map(one, [a for a, axis in zip(args, axes, strict=True) if axis is not None])

    return mapped


def _num_copies(args: Sequence[Any], axes: Sequence[int | None]) -> int:
    sizes = {
        leaf.shape[0]
        for arg, axis in zip(args, axes, strict=True)
        if axis is not None
        for leaf in jax.tree.leaves(arg)
    }
    require(len(sizes) == 1, f"the copies axis must have one length, got {sorted(sizes)}")
    return sizes.pop()


def _spread(x: jax.Array, devices: Sequence[jax.Device], per_device: int) -> jax.Array:
    missing = len(devices) * per_device - x.shape[0]
    x = jnp.concatenate([x, jnp.repeat(x[-1:], missing, axis=0)]) if missing else x
    x = x.reshape(len(devices), per_device, *x.shape[1:])
    # Copies that an earlier call left on the devices lie otherwise, and pmap does not move them.
    return jax.device_put(x, NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS)))


class ShardedFunction:
    """A function whose arrays are cut along one axis over devices; made by `compile_sharded`.

    `split` what it is given, call it, and `join` what it returns; results may be given to it again
    as they are. Between the two, every array has a leading axis of this host's devices.
    """

    devices: list[jax.Device]
    local_devices: list[jax.Device]

    def __init__(
        self, function: Callable, devices: Sequence[jax.Device], axis_name: str, donated: Any
    ):
        self.devices = list(devices)
        this = jax.process_index()
        self.local_devices = [d for d in self.devices if d.process_index == this]
        self._places = [i for i, d in enumerate(self.devices) if d.process_index == this]
        self._call = jax.pmap(function, axis_name, devices=self.devices, donate_argnums=donated)

    def __call__(self, *args: Any) -> Any:
        """Runs on arguments that were split."""
        return self._call(*args)

    def split(self, tree: Any, axes: Any) -> Any:
        """Cuts whole arrays into one equal block a device, and keeps this host's blocks.

        Args: axes, a pytree prefix of the tree: the axis to cut, or WHOLE for what every device
          gets whole. Every host gives the same whole arrays.
        Raises: InvalidInputError where an axis does not divide by the number of devices.
        """
        return jax.tree.map(
            lambda axis, part: jax.tree.map(lambda x: self._cut(x, axis), part), axes, tree
        )

    def join(self, tree: Any, axes: Any) -> Any:
        """The inverse of `split`, as numpy arrays (typed keys stay keys), on every host."""
        return jax.tree.map(
            lambda axis, part: jax.tree.map(lambda x: self._glue(x, axis), part), axes, tree
        )

    def _cut(self, x: Any, axis: int) -> jax.Array:
        count = len(self.devices)
        if axis == WHOLE:
            return _replicate(x, self.local_devices)
        x = np.asarray(x)
        require(
            x.shape[axis] % count == 0,
            f"an axis of {x.shape[axis]} does not divide by {count} devices",
        )
        blocks = x.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :])
        mine = np.moveaxis(blocks, axis, 0)[self._places]
        return jax.device_put(mine, _over(self.local_devices))

    def _glue(self, x: jax.Array, axis: int) -> Any:
        if axis == WHOLE:
            first = x.addressable_shards[0].data[0]
            is_key = jnp.issubdtype(first.dtype, jax.dtypes.prng_key)
            return first if is_key else np.asarray(first)
        mine = np.concatenate([np.asarray(shard.data) for shard in _in_order(x)])
        if jax.process_count() > 1:
            mine = multihost_utils.process_allgather(mine, tiled=True)
        blocks = np.moveaxis(np.asarray(mine), 0, axis)
        return blocks.reshape(*blocks.shape[:axis], -1, *blocks.shape[axis + 2 :])


def compile_sharded(
    function: Callable,
    axis_name: str,
    devices: Sequence[jax.Device] | None = None,
    *,
    donate_argnums: tuple[int, ...] = (),
) -> ShardedFunction:
    """Compiles a function of blocks of its arrays, one block a device, with `axis_name` bound.

    Inside, collectives over `axis_name` (`psum`, `all_gather`, `ppermute`) reach the other blocks.

    Args: devices, all of all hosts by default, an equal number on each host.
    """
    devices = jax.devices() if devices is None else devices
    require(len(devices) > 0, "compile_sharded needs at least one device")
    return ShardedFunction(function, devices, axis_name, donate_argnums)


def dividing_devices(count: int, devices: Sequence[jax.Device] | None = None) -> list[jax.Device]:
    """The most devices, equally many a host, that `count` blocks divide over.

    Raises: InvalidInputError where not even one device a host is possible.
    """
    devices = jax.devices() if devices is None else list(devices)
    hosts = sorted({d.process_index for d in devices})
    by_host = [[d for d in devices if d.process_index == host] for host in hosts]
    for each in range(min(map(len, by_host)), 0, -1):
        if count % (each * len(hosts)) == 0:
            return [device for own in by_host for device in own[:each]]
    raise InvalidInputError(f"{count} do not divide over {len(hosts)} processes")


def _replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    return jax.tree.map(
        lambda x: jax.device_put(
            jnp.broadcast_to(x, (len(devices), *jnp.shape(x))), _over(devices)
        ),
        tree,
    )


def _over(devices: Sequence[jax.Device]) -> NamedSharding:
    """One row of the leading axis on each device."""
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))


def _in_order(x: jax.Array) -> list:
    return sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)


def global_index(local_size: int, axis_name: str = AXIS) -> jax.Array:
    """Index of each of this device's examples in the global batch; int32 [local_size]."""
    return jax.lax.axis_index(axis_name) * local_size + jnp.arange(local_size)


def example_keys(key: jax.Array, local_size: int, axis_name: str = AXIS) -> jax.Array:
    """A key an example that does not depend on the number of devices; keys [local_size]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, global_index(local_size, axis_name))
