"""Files made to do harm: each is refused by name, none has an effect."""

import os
import pickle
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import CorruptFileError, LabError, UnsafeFileError
from lab.interop import load_checkpoint
from tests.interop import archives
from tests.interop.archives import FIXTURES, call, dict_of, name, number, program, text, tuple_of

CANARY = f"{tempfile.gettempdir()}/tenfold-canary-{os.getpid()}"


def load(tmp_path, pickled: bytes, records=None) -> dict:
    path = archives.write_archive(tmp_path / "hostile.pth", pickled, records)
    checkpoint = load_checkpoint(path)
    return dict(checkpoint)


class Reduces:
    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


RUN = f"touch {CANARY}"
CALLS = {
    "os.system": Reduces(os.system, (RUN,)),
    "builtins.eval": Reduces(eval, (f"__import__('os').system({RUN!r})",)),
    "builtins.getattr": Reduces(getattr, (os, "system")),
    "builtins.exec": {"model": {"w": Reduces(exec, (f"open({CANARY!r}, 'w')",))}},
    "builtins.__import__": Reduces(__import__, ("os",)),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("called", CALLS)
def test_calls_are_refused_by_name(tmp_path, called, protocol):
    if called == "builtins.getattr":
        content = program(call(called, name("posix.system"), text("__call__")))
    else:
        content = pickle.dumps(CALLS[called], protocol)
    refused = called.replace("os.", r"(os|posix)\.")
    with pytest.raises(UnsafeFileError, match=rf"hostile\.pth.*'{refused}|'posix\.system'"):
        load(tmp_path, content)
    assert not os.path.exists(CANARY)


@pytest.mark.parametrize(
    "dotted",
    [
        "torch.load",
        "torch.hub.load",
        "torch._utils._rebuild_sparse_tensor",
        "torch.nn.modules.linear.Linear",
        "torch.storage._load_from_bytes",
        "collections.namedtuple",
        "copyreg._reconstructor",
        "functools.partial",
        "numpy.load",
        "numpy.testing._private.utils.runstring",
        "lab.interop.torch_globals.admitted",
        "argparse.Namespace.__init__.__globals__",
    ],
)
def test_other_globals_are_refused_even_if_not_called(tmp_path, dotted):
    with pytest.raises(UnsafeFileError, match=dotted):
        load(tmp_path, program(name(dotted)))
    module, _, attribute = dotted.rpartition(".")
    on_stack = pickle.PROTO + b"\x04" + text(module) + text(attribute) + pickle.STACK_GLOBAL
    with pytest.raises(UnsafeFileError, match=dotted):
        load(tmp_path, on_stack + pickle.STOP)


def test_global_spelt_with_escapes_is_still_seen(tmp_path):
    with pytest.raises(UnsafeFileError, match="system"):
        load(tmp_path, program(b"cp\\x6fsix\nsyst\\x65m\n"))


FLOATS = archives.storage(4)
RECORDS = {"data/0": np.arange(4, dtype="<f4").tobytes()}
TENSOR = archives.tensor(FLOATS, 0, (4,), (1,))
SMALL_STATE = dict_of(__class__=text("x"))

REFUSED = {
    "calls a string": program(text("torch.Size"), tuple_of(number(1)), pickle.REDUCE),
    "calls a tensor": program(TENSOR, tuple_of(), pickle.REDUCE),
    "calls a dtype": program(call("torch.float32", number(1))),
    "calls list": program(call("builtins.list", text("x"))),
    "makes an object of a tensor class": program(name("torch.Tensor"), b")", pickle.NEWOBJ),
    "sets the state of a tensor": program(TENSOR, SMALL_STATE, pickle.BUILD),
    "sets the state of a global": program(name("torch.Size"), SMALL_STATE, pickle.BUILD),
    "sets the state of a list": program(pickle.EMPTY_LIST, SMALL_STATE, pickle.BUILD),
    "rebuilds by another class": program(
        call("torch._tensor._rebuild_from_type_v2", name("torch.Size"), text("x"), b")", b"}")
    ),
    "old style instance": program(pickle.MARK + text(RUN) + pickle.INST + b"os\nsystem\n"),
    "old style object": program(pickle.MARK + name("torch.Size") + pickle.OBJ),
    "extension code": program(pickle.EXT1 + b"\x01"),
    "persistent id as text": program(pickle.PERSID + b"0\n"),
    "object with keywords": program(name("torch.Size"), b")}", pickle.NEWOBJ_EX),
}


@pytest.mark.parametrize("case", REFUSED)
def test_abuse_of_admitted_objects_is_refused(tmp_path, case):
    with pytest.raises(UnsafeFileError, match=r"hostile\.pth"):
        load(tmp_path, REFUSED[case], RECORDS)


def _with_metadata() -> bytes:
    """An OrderedDict whose attributes a file tries to replace."""
    state = dict_of(items=number(1), __class__=text("x"), keys=text("y"))
    return call("collections.OrderedDict") + state + pickle.BUILD + text("w") + TENSOR + b"s"


def test_state_of_an_ordered_dict_has_no_effect(tmp_path):
    arrays = load(tmp_path, program(_with_metadata()), RECORDS)
    np.testing.assert_array_equal(arrays["w"], np.arange(4))


def test_namespace_attributes_are_only_entries(tmp_path):
    state = dict_of(__class__=text("x"), items=text("y"), __setstate__=text("z"))
    pickled = program(dict_of(args=call("argparse.Namespace") + state + pickle.BUILD, w=TENSOR))
    path = archives.write_archive(tmp_path / "a.pth", pickled, RECORDS)
    checkpoint = load_checkpoint(path)
    assert checkpoint.extras == {"args.__class__": "x", "args.items": "y", "args.__setstate__": "z"}


HUGE = 1 << 60
CORRUPT = {
    "beyond the storage": archives.tensor(FLOATS, 0, (5,), (1,)),
    "offset beyond": archives.tensor(FLOATS, 4, (1,), (1,)),
    "stride beyond": archives.tensor(FLOATS, 0, (2, 2), (3, 1)),
    "negative offset": archives.tensor(FLOATS, -1, (1,), (1,)),
    "negative size": archives.tensor(FLOATS, 0, (-1,), (1,)),
    "negative stride": archives.tensor(FLOATS, 3, (4,), (-1,)),
    "size and stride of different length": archives.tensor(FLOATS, 0, (2, 2), (1,)),
    "enormous offset": archives.tensor(FLOATS, 1 << 63, (1,), (1,)),
    "product overflows": archives.tensor(FLOATS, 0, (1 << 32, 1 << 32), (0, 0)),
    "expanded without end": archives.tensor(FLOATS, 0, (HUGE,), (0,)),
    "empty but enormous": archives.tensor(FLOATS, 0, (0, HUGE, HUGE), (0, 0, 0)),
    "too many dimensions": archives.tensor(FLOATS, 0, (1,) * 65, (1,) * 65),
    "storage larger than its record": archives.tensor(archives.storage(5), 0, (5,), (1,)),
    "storage smaller than its record": archives.tensor(archives.storage(2), 0, (2,), (1,)),
    "storage of negative size": archives.tensor(archives.storage(-4), 0, (0,), (1,)),
    "storage outside the archive": archives.tensor(
        archives.storage(4, record="../../../etc/passwd"), 0, (4,), (1,)
    ),
    "storage of unknown type": archives.tensor(archives.storage(4, "torch.Size"), 0, (4,), (1,)),
    "persistent id of another kind": tuple_of(text("module"), text(RUN)) + pickle.BINPERSID,
    "persistent id is a string": text(RUN) + pickle.BINPERSID,
    "tensor without a storage": archives.tensor(text("x"), 0, (4,), (1,)),
    "size is text": call(
        "torch._utils._rebuild_tensor_v2", FLOATS, number(0), text("x"), text("y"), b"N", b"N"
    ),
    "too few arguments": call("torch._utils._rebuild_tensor_v2", FLOATS),
    "parameter of no tensor": call("torch._utils._rebuild_parameter", text("x"), b"N", b"N"),
    "memo never set": pickle.BINGET + b"\x07",
    "empty stack": pickle.TUPLE3,
    "no mark": pickle.SETITEMS,
    "append to a tensor": TENSOR + number(1) + pickle.APPEND,
    "item of a tensor": TENSOR + number(1) + number(2) + pickle.SETITEM,
    "key that is a list": pickle.EMPTY_DICT + pickle.EMPTY_LIST + number(1) + pickle.SETITEM,
    "key nested deeply": pickle.EMPTY_DICT + b")" + pickle.TUPLE1 * 200_000 + b"Ns",
    "string longer than the file": pickle.BINUNICODE8 + (1 << 62).to_bytes(8, "little") + b"x",
    "bytes longer than the file": pickle.BINBYTES8 + (1 << 40).to_bytes(8, "little") + b"x",
    "byte array longer than the file": pickle.BYTEARRAY8 + (1 << 40).to_bytes(8, "little"),
    "enormous byte array": call("builtins.bytearray", number(1 << 40)),
    "very long integer": pickle.LONG4 + (1 << 16).to_bytes(4, "little") + b"\x7f" * (1 << 16),
    "numpy array without contents": dict_of(
        w=call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"))
    ),
    "numpy array of objects": call("numpy.dtype", text("O8")),
    "numpy scalar beyond its bytes": call(
        "numpy.core.multiarray.scalar",
        *(call("numpy.dtype", text("f8")), call("_codecs.encode", text("x"), text("latin1"))),
    ),
    "other codec": call("_codecs.encode", text("x"), text("zip")),
    "nested beyond reason": dict_of(w=pickle.EMPTY_LIST + pickle.TUPLE1 * 100_000),
    "not a container": text("only text"),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_malformed_contents_are_corrupt_files(tmp_path, case):
    with pytest.raises(CorruptFileError, match=r"hostile\.pth"):
        load(tmp_path, program(CORRUPT[case]), RECORDS)


def test_size_one_dimension_may_have_any_stride(tmp_path):
    pickled = program(dict_of(w=archives.tensor(FLOATS, 0, (1, 4), (1 << 61, 1))))
    np.testing.assert_array_equal(load(tmp_path, pickled, RECORDS)["w"], [[0, 1, 2, 3]])


def test_enormous_memo_index_takes_no_memory(tmp_path):
    put = pickle.LONG_BINPUT + b"\xff\xff\xff\xff" + pickle.LONG_BINGET + b"\xff\xff\xff\xff"
    arrays = load(tmp_path, program(dict_of(w=TENSOR), put), RECORDS)
    assert list(arrays) == ["w"]


def test_repeated_copies_of_one_object_are_bounded(tmp_path):
    long = pickle.BINUNICODE + (1 << 20).to_bytes(4, "little") + b"x" * (1 << 20)
    encode = name("_codecs.encode") + b"h\x00" + text("latin1") + pickle.TUPLE2 + pickle.REDUCE
    pickled = program(long, b"q\x00", pickle.MARK, encode * 20_000, pickle.TUPLE)
    start = time.process_time()
    with pytest.raises(CorruptFileError, match="expands beyond its size"):
        load(tmp_path, pickled)
    assert time.process_time() - start < 5


def test_container_in_itself(tmp_path):
    loop = pickle.EMPTY_DICT + b"q\x00" + text("again") + b"h\x00" + pickle.SETITEM
    with pytest.raises(CorruptFileError, match="in itself"):
        load(tmp_path, program(loop))


def doubling_lists(depth: int = 30) -> bytes:
    """A list that holds a list twice, which holds one twice, ...: 2^depth leaves in few bytes."""
    level = pickle.EMPTY_LIST + b"q\x00"
    for index in range(1, depth + 1):
        inner = bytes([index - 1])
        level += b"0](h" + inner + b"h" + inner + b"eq" + bytes([index])
    return level


def test_doubling_containers_are_bounded(tmp_path):
    start = time.process_time()
    with pytest.raises(CorruptFileError, match="far too many names"):
        load(tmp_path, program(doubling_lists()))
    assert time.process_time() - start < 10


@pytest.mark.parametrize("argument", [doubling_lists(), b")" + pickle.TUPLE1 * 100_000])
def test_message_about_a_hostile_container_is_short(tmp_path, argument):
    rebuild = "torch._utils._rebuild_tensor_v3"
    arguments = (FLOATS, number(0), b")", b")", b"N", b"N", argument)
    with pytest.raises(CorruptFileError, match=r"has dtype a (list|tuple)") as caught:
        load(tmp_path, program(call(rebuild, *arguments)))
    assert len(str(caught.value)) < 300


def test_name_that_two_arrays_share(tmp_path):
    pickled = program(
        pickle.EMPTY_DICT, text("a.b"), TENSOR, b"s", text("a"), dict_of(b=TENSOR), b"s"
    )
    with pytest.raises(CorruptFileError, match=r"two arrays named 'a\.b'"):
        load(tmp_path, pickled, RECORDS)


def test_archive_with_two_pickles(tmp_path):
    path = archives.write_archive(tmp_path / "two.pth", program(dict_of(w=TENSOR)), RECORDS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b/data.pkl", program(dict_of()))
    with pytest.raises(CorruptFileError, match=r"2 records data\.pkl"):
        load_checkpoint(path)


CONTENTS = {
    file: (FIXTURES / file).read_bytes()
    for file in ("layouts.pth", "containers.pth", "dtypes.pth", "weights.safetensors")
}
ARRAYS = {file: dict(load_checkpoint(FIXTURES / file)) for file in CONTENTS}


def _load_bytes(content: bytes, suffix: str) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"flipped{suffix}"
        path.write_bytes(content)
        return {name: np.array(array) for name, array in load_checkpoint(path).items()}


flips = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4
)


@settings(max_examples=300, deadline=None)
@given(file=st.sampled_from(["layouts.pth", "containers.pth", "dtypes.pth"]), flips=flips)
def test_flipped_bytes_give_the_same_arrays_or_an_error(file, flips):
    content = bytearray(CONTENTS[file])
    for place, change in flips:
        content[int(place * len(content))] ^= change
    try:
        arrays = _load_bytes(bytes(content), ".pth")
    except LabError:
        return
    for name_, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[file][name_])


@settings(max_examples=100, deadline=None)
@given(flips=flips)
def test_flipped_bytes_of_safetensors_give_arrays_or_an_error(flips):
    """The format has no checksum, so values may differ; nothing else may happen."""
    content = bytearray(CONTENTS["weights.safetensors"])
    for place, change in flips:
        content[int(place * len(content))] ^= change
    try:
        arrays = _load_bytes(bytes(content), ".safetensors")
    except LabError:
        return
    assert sum(array.nbytes for array in arrays.values()) <= len(content)


PICKLED = {
    file: zipfile.ZipFile(FIXTURES / file).read(f"{file.removesuffix('.pth')}/data.pkl")
    for file in ("layouts.pth", "containers.pth")
}


@pytest.mark.filterwarnings("ignore:invalid escape")  # of pickletools, about a flipped text
@settings(max_examples=300, deadline=None)
@given(file=st.sampled_from(sorted(PICKLED)), flips=flips)
def test_flipped_instructions_behind_a_valid_checksum_do_no_harm(file, flips):
    pickled = bytearray(PICKLED[file])
    for place, change in flips:
        pickled[int(place * len(pickled))] ^= change
    with zipfile.ZipFile(FIXTURES / file) as archive:
        root = file.removesuffix(".pth")
        records = {
            n: archive.read(f"{root}/{n}")
            for n in (f"data/{i}" for i in range(12))
            if f"{root}/{n}" in archive.namelist()
        }
    with tempfile.TemporaryDirectory() as folder:
        path = archives.write_archive(Path(folder) / "a.pth", bytes(pickled), records)
        try:
            checkpoint = load_checkpoint(path)
            shapes = {name_: array.shape for name_, array in checkpoint.items()}
        except LabError:
            return
    assert all(len(shape) <= 64 for shape in shapes.values())
