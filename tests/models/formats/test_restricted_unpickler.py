"""Pickles of all kinds: what is known is read as plain values, what could run code is one sentence, and nothing is run or allocated."""

import argparse
import contextlib
import io
import os
import pickle
import pickletools
import signal
import struct
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amaru.errors import CheckpointError
from amaru.models.formats.restricted_unpickler import Record, StoredTensor, unpickle

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(PLAIN, st.integers(3, pickle.HIGHEST_PROTOCOL))
def test_plain_values_are_what_they_were(value, protocol):
    assert unpickle(pickle.dumps(value, protocol), "here") == value


def test_settings_become_records_of_their_fields():
    said = argparse.Namespace(num_layers=3, params_dtype=torch.bfloat16, where=PurePosixPath("a/b"))
    read = unpickle(pickle.dumps({"args": said}), "here")["args"]
    assert isinstance(read, Record) and read.kind == "argparse.Namespace"
    assert (read.fields["num_layers"], read.fields["params_dtype"]) == (3, torch.bfloat16)
    assert read.fields["where"].kind == "pathlib.PurePosixPath"


def test_what_torch_saves_beside_tensors_is_read():
    """In pickle's second protocol: sets, enumerations, random states, devices."""
    said = {"cpu": torch.device("cpu"), "signal": signal.SIGUSR2, "names": {"a", "b"}, "random": np.random.RandomState(0).get_state()}
    buffer = io.BytesIO()
    torch.save(said, buffer)
    read = unpickle(zipfile.ZipFile(buffer).read("archive/data.pkl"), "here")
    assert read["names"] == {"a", "b"} and read["random"][0] == "MT19937"
    assert (read["signal"].kind, read["signal"].arguments, read["cpu"].kind) == ("signal.Signals", (int(signal.SIGUSR2),), "torch.device")


def test_tensors_become_the_places_where_they_lie():
    buffer = io.BytesIO()
    whole = torch.arange(12, dtype=torch.float16).view(3, 4)
    torch.save(OrderedDict(a=whole, b=whole[1:, 2:], c=torch.nn.Parameter(torch.zeros(2))), buffer)
    read = unpickle(zipfile.ZipFile(buffer).read("archive/data.pkl"), "here")
    assert read["b"] == StoredTensor(key="0", elements=12, dtype=torch.float16, offset=6, shape=(2, 2), stride=(4, 1))
    assert read["a"].key == "0" and read["c"].shape == (2,)


class Calls:
    """Something that runs when an ordinary reader reads it."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


CALLS = [(os.system, "touch {}"), (eval, "open('{}', 'w')"), (exec, "open('{}', 'w')"), (__import__, "antigravity")]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(("function", "text"), CALLS)
def test_no_code_runs(tmp_path, protocol, function, text):
    data = pickle.dumps({"weight": Calls(function, text.format(tmp_path / "ran"))}, protocol)
    with pytest.raises(CheckpointError, match=rf"asks for '\w+\.{function.__name__}'.*nothing of it was run"):
        unpickle(data, "here")
    assert not list(tmp_path.iterdir()) and "antigravity" not in sys.modules


def test_a_class_that_is_not_known_is_named_and_not_imported():
    data = b"\x80\x04\x8c\x0bthis.module\x8c\x05Thing\x93)\x81."
    with pytest.raises(CheckpointError, match=r"here asks for 'this\.module\.Thing'"):
        unpickle(data, "here")
    assert "this" not in sys.modules


PERSISTENT = b"(\x8c\x07storage\x8c\x05torch\x8c\x0cFloatStorage\x93\x8c\x010\x8c\x03cpuK\x04tQ"
NAMESPACE = b"\x8c\x08argparse\x8c\tNamespace\x93"


@pytest.mark.parametrize(
    "body",
    [
        b"(ios\nsystem\n.",  # INST
        b"(cos\nsystem\no.",  # OBJ
        b"\x82\x01.",  # EXT1: the copyreg registry
        b"Pname\n.",  # a persistent name as text
        b"\x8c\x06system)R.",  # a call of text
        b"})R.",  # a call of a dict
        NAMESPACE + b"K\x01R.",  # arguments that are no tuple
        NAMESPACE + b"}\x8c\x01a\x8c\x01bsb.",  # attributes of a class
        b"]}\x8c\x01a\x8c\x01bsb.",  # attributes of a list
        b"(\x8c\x07storage\x8c\x05torch\x8c\x07float32\x93\x8c\x010\x8c\x03cpuK\x04tQ.",  # bytes of a kind that is none
        b"(\x8c\x07storage\x8c\x05torch\x8c\x0cFloatStorage\x93\x8c\x010\x8c\x03cpuJ\xff\xff\xff\xfftQ.",  # -1 elements
        b"\x8c\x05torch\x8c\x04Size\x93(K\x01\x8c\x01at\x85R.",  # a size that is text
        b"\x8c\x0ctorch._utils\x8c\x12_rebuild_tensor_v2\x93(" + PERSISTENT + b"J\xff\xff\xff\xff))tR.",  # a negative offset
        b"\x8c\x05torch\x8c\x04Size\x93)\x81}\x8c\x01aK\x01sb.",
        b"h\x07.",  # a memo that was never filled
        b"0.",
        b"",
        b"\x80\x63.",
    ],
)
def test_damaged_and_hostile_opcodes_are_one_sentence(body):
    with pytest.raises(CheckpointError, match=r"^here "):
        unpickle(b"\x80\x04" + body if body[:1] != b"\x80" else body, "here")


@pytest.mark.parametrize(
    "body",
    [
        b"Nr" + struct.pack("<I", 2**31 - 1) + b".",  # a memo of two thousand million places
        b"\x8e" + struct.pack("<Q", 2**40) + b"ab.",  # bytes that are not there
        b"\x8d" + struct.pack("<Q", 2**40) + b"ab.",  # text that is not there
        b"\x96" + struct.pack("<Q", 2**40) + b"ab.",  # a bytearray
        b"\x95" + struct.pack("<Q", 2**40) + b"ab.",  # a frame
        b"\x8b" + struct.pack("<i", 2**30) + b"ab.",  # a number
    ],
)
def test_what_is_claimed_is_not_allocated(body):
    tracemalloc.start()
    try:
        with contextlib.suppress(CheckpointError):
            unpickle(b"\x80\x04" + body, "here")
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


OPCODES = st.sampled_from([opcode.code.encode("latin-1") for opcode in pickletools.opcodes])


@given(st.binary(max_size=200) | st.lists(OPCODES, max_size=40).map(b"".join))
def test_any_bytes_are_a_value_or_one_sentence(data):
    try:
        unpickle(data, "here")
    except CheckpointError as error:
        assert str(error).startswith("here ")
