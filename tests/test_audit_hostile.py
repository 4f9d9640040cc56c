"""Files that are cut off, lie about sizes or hold code: a clear error, in bounded memory, and nothing is run."""

import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from random import Random

import checkpoints as make
import numpy as np
import pytest
from support import effort

from normlib.audit import Unreadable, audit
from normlib.audit._checkpoint import HEADER, NAME

MOST = 100 << 20  # bytes of memory for any of these files


def refused(path, data=None):
    """The words with which a file is refused; memory stays small."""
    if data is not None:
        path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable) as error:
            audit(path)
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()
    words = str(error.value)
    assert words.startswith("audit: ")
    assert len(words) < 1000 + len(str(path))
    return words


def small(path, form):
    """A small file in a format."""
    arrays = make.bert(1, 4)
    if form == "onnx":
        onnx = pytest.importorskip("onnx")
        nodes = [onnx.helper.make_node("LayerNormalization", ["x", "w", "b"], ["h"], epsilon=1e-6, name="n")]
        for op, inputs, output in (
            ("Pow", ["h", "two"], "q"), ("ReduceMean", ["q"], "v"), ("Add", ["v", "e"], "u"), ("Sqrt", ["u"], "r"),
            ("Div", ["h", "r"], "z"), ("Mul", ["z", "w"], "y"),
        ):  # fmt: skip
            nodes.append(onnx.helper.make_node(op, inputs, [output]))
        constants = {"w": np.float32([1, 2]), "b": np.float32([3, 4]), "two": np.float32(2), "e": np.float32(1e-5)}
        initializers = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
        x, y = (onnx.helper.make_tensor_value_info(name, 1, [1, 2]) for name in "xy")
        graph = onnx.helper.make_graph(nodes, "g", [x], [y], initializers)
        path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
        return path
    if form == "legacy":
        return legacy(path, arrays)
    if form == "torchscript":
        return torchscript(path)
    writer = {"safetensors": make.safetensors, "torch": make.torch}.get(form)
    return writer(path, arrays) if writer else make.gguf(path, make.in_gguf(make.llama(1, 4)), make.GGUF)


def legacy(path, arrays):
    """What torch saved before 1.6."""
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    version, system = b"\x80\x02M\xe9\x03.", b"\x80\x02}."
    keys = b"\x80\x02](" + b"".join(make.unicode(str(i)) for i in range(len(arrays))) + b"e."
    data = b"".join(struct.pack("<q", array.size) + array.tobytes() for array in arrays.values())
    path.write_bytes(magic + version + system + make.state_dict(arrays) + keys + data)
    return path


CODE = """class LayerNorm(Module):
  def forward(self: __torch__.LayerNorm, x: Tensor) -> Tensor:
    return torch.layer_norm(x, [4], self.weight, self.bias, 9.9999999999999995e-07)
class BatchNorm2d(Module):
  eps : Final[float] = 0.001
"""


def torchscript(path):
    """Two norms of TorchScript, one behind the other."""

    def module(of, *items):
        return b"c__torch__.norms\n" + of + b"\n)\x81}(" + b"".join(items) + b"ub"

    array = np.float32([1, 2, 3, 4])
    own = [make.unicode("weight") + make.tensor("0", array), make.unicode("bias") + make.tensor("1", array)]
    inner = [make.unicode("0") + module(b"LayerNorm", *own), make.unicode("1") + module(b"BatchNorm2d", *own)]
    pickled = b"\x80\x02" + module(b"Sequential", *inner) + b"."
    return make.torch(path, {"a": array, "b": array}, pickled, **{"code____torch__/norms.py": CODE})


FORMS = ["safetensors", "gguf", "torch", "torchscript", "legacy", "onnx"]


@pytest.mark.parametrize("form", FORMS)
def test_the_small_files_are_sound(tmp_path, form):
    report = audit(small(tmp_path / f"x.{form}", form))
    assert len(report.norms) == {"onnx": 2, "torchscript": 2}.get(form, 3)
    if form == "torchscript":
        assert [norm.eps for norm in report.norms] == [1e-6, 1e-3]


@pytest.mark.parametrize("form", FORMS)
def test_files_that_are_cut_off(tmp_path, form):
    """At any byte: refused, or, where only the values of the last tensors are missing, these are."""
    data = small(tmp_path / f"x.{form}", form).read_bytes()
    whole = audit(tmp_path / f"x.{form}").values
    for length in range(0, len(data), effort(1 + len(data) // 60, 1)):
        (tmp_path / f"x.{form}").write_bytes(data[:length])
        try:
            report = audit(tmp_path / f"x.{form}")
        except Unreadable:
            continue
        assert form in ("onnx", "gguf"), length  # whose end may be padding, or fields that matter to nobody
        assert all(values == whole.get(name, values) for name, values in report.values.items()), length


@pytest.mark.parametrize("form", FORMS)
def test_files_with_errors_drawn_at_random(tmp_path, form, record_property):
    """Bytes changed, parts doubled or left out: a report or Unreadable, and never another error."""
    random, data = Random(1), small(tmp_path / f"x.{form}", form).read_bytes()
    path, readable = tmp_path / f"y.{form}", 0
    tries = effort(150, 20_000)
    for _ in range(tries):
        broken = bytearray(data)
        for _ in range(random.choice([1, 1, 2, 8])):
            at = random.randrange(len(broken))
            match random.randrange(5):
                case 0:
                    broken[at] ^= 1 << random.randrange(8)
                case 1:
                    broken[at] = random.choice([0, 1, 0x7F, 0x80, 0xFF])
                case 2:
                    broken[at : at + 8] = struct.pack("<Q", random.choice([0, 1 << 31, 1 << 40, (1 << 64) - 1]))
                case 3:
                    del broken[at : at + random.randrange(1, 40)]
                case 4:
                    broken[at:at] = broken[max(0, at - random.randrange(1, 40)) : at]
            if len(broken) < 20:
                break
        path.write_bytes(broken)
        try:
            report = audit(path, against=tmp_path / f"x.{form}")
            json.loads(report.json())
            assert str(report)
            readable += 1
        except Unreadable:
            pass
    assert readable  # what is changed may be a weight
    record_property("tried", tries)


# -- each format ----


def test_words_of_an_error_are_short_and_plain(tmp_path):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    words = refused(tmp_path / "x.safetensors", header({"\x1b[2J" + "n" * 100_000: entry}))
    assert words.isprintable()
    huge = header({"\x1b[2Jnorm.weight": entry | {"dtype": "U8", "shape": [1 << 23], "data_offsets": [0, 1 << 23]}})
    assert refused(tmp_path / "y.safetensors", huge + bytes(1 << 23)).isprintable()


def header(entries, length=None, after=b""):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + after


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
SAFETENSORS = {
    "length": (header(b"{}", 1 << 60), "the header says it has 1152921504606846976 bytes, expected at most"),
    "no end": (header(b"{}", 100), "the header: bytes 8 to 108, but the file ends at 10"),
    "no JSON": (header(b"{]"), "the header is not JSON"),
    "deep": (header(b'{"a":' * 100_000), "the header is not JSON"),
    "twice": (header(b'{"a": {}, "a": {}}'), "a name occurs twice"),
    "no dtype": (header({"norm.weight": {"shape": [2]}}), "expected dtype, shape and two data_offsets"),
    "past the end": (header({"norm.weight": F32}), "has data_offsets 0, 8, but 0 bytes follow"),
    "backward": (header({"norm.weight": F32 | {"data_offsets": [8, 0]}}, after=bytes(8)), "has data_offsets 8, 0"),
    "negative": (header({"norm.weight": F32 | {"shape": [-2]}}, after=bytes(8)), "expected sizes from 0 on"),
    "too few": (header({"norm.weight": F32 | {"shape": [1 << 40]}}, after=bytes(8)), "has 8 bytes, but shape"),
    "many axes": (header({"norm.weight": F32 | {"shape": [1] * 99}}, after=bytes(8)), "expected sizes from 0 on"),
    "long name": (header({"n" * 2 * NAME: F32}, after=bytes(8)), f"a name of more than {NAME} letters"),
}  # fmt: skip


@pytest.mark.parametrize("case", SAFETENSORS)
def test_safetensors(tmp_path, case):
    data, words = SAFETENSORS[case]
    assert words in refused(tmp_path / "x.safetensors", data)


def gguf(tensors=0, keys=0, rest=b"", version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def key(kind, value, name=b"k"):
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


def of_gguf(shape=(2,), kind=0, at=0, name=b"norm.weight"):
    sizes = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, at)
    return struct.pack("<Q", len(name)) + name + sizes


GGUF = {
    "version": (gguf(version=9), "GGUF of version 9, expected 2 or 3"),
    "tensors": (gguf(tensors=1 << 50), "the header says 1125899906842624 tensors, expected at most"),
    "keys": (gguf(keys=1 << 50), "the header says 1125899906842624 keys, expected at most"),
    "string": (gguf(keys=1, rest=struct.pack("<Q", 1 << 40)), "bytes of a string, expected at most"),
    "type": (gguf(keys=1, rest=key(77, b"")), "has a value of type 77, expected 0 to 12"),
    "array": (gguf(keys=1, rest=key(9, struct.pack("<IQ", 4, 1 << 60))), "past the end of the file"),
    "strings": (gguf(keys=1, rest=key(9, struct.pack("<IQ", 8, 1 << 60))), "expected at most"),
    "nested": (gguf(keys=1, rest=key(9, struct.pack("<IQ", 9, 1) * 9)), "nested 3 times at most"),
    "alignment": (gguf(keys=1, rest=key(4, b"\xff\xff\xff\xff", b"general.alignment")), "general.alignment is"),
    "axes": (gguf(tensors=1, rest=of_gguf((1,) * 9)), "has 9 axes, expected at most 8"),
    "size": (gguf(tensors=1, rest=of_gguf((1 << 60, 1 << 60))), "ends at byte"),
    "place": (gguf(tensors=1, rest=of_gguf(at=1 << 63)), "ends at byte"),
    "twice": (gguf(tensors=2, rest=of_gguf() * 2 + bytes(64)), "a name of a tensor occurs twice"),
    "nothing": (gguf(tensors=1), "the header: bytes 24 to 32, but the file ends at 24"),
}  # fmt: skip


@pytest.mark.parametrize("case", GGUF)
def test_gguf(tmp_path, case):
    data, words = GGUF[case]
    assert words in refused(tmp_path / "x.gguf", data)


class Code:
    """A pickle of it runs a command where it is loaded."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


def a_tensor(**changes):
    whole = {"storage": make.unicode("storage"), "shape": b"(" + make.number(2) + b"t"} | changes
    return (
        b"\x80\x02}" + make.unicode("norm.weight") + b"ctorch._utils\n_rebuild_tensor_v2\n((" + whole["storage"]
        + b"ctorch\nFloatStorage\n" + make.unicode("0") + make.unicode("cpu") + make.number(2) + b"tQ"
        + make.number(0) + whole["shape"] + b"(" + make.number(1) + b"t\x89NtRs."
    )  # fmt: skip


DOUBLING = b"\x80\x02)" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60)) + b"."
PICKLES = {
    "print": (pickle.dumps(Code(print, "run"), 2), "it asks for __builtin__.print, which is code, not data"),
    "eval": (pickle.dumps(Code(eval, "1"), 4), "it asks for builtins.eval, which is code, not data"),
    "system": (b"cos\nsystem\n(X\x04\x00\x00\x00exitR.", "it asks for os.system, which is code, not data"),
    "instance": (b"(ios\nsystem\n.", "it has the opcode INST, which data does not need"),
    "object": (b"\x80\x02ctorch\nFloatStorage\n)\x81.", "it makes an object of torch.FloatStorage"),
    "extension": (b"\x80\x02\x82\x01.", "it has the opcode EXT1, which data does not need"),
    "call": (b"\x80\x02ctorch\nFloatStorage\n)R.", "it calls a torch.FloatStorage"),
    "call of a number": (b"\x80\x02K\x01)R.", "it calls a int"),
    "a gigabyte": (b"\x80\x05\x96" + struct.pack("<Q", 1 << 30) + b".", "it is malformed"),
    "memo": (b"\x80\x02Nr\xff\xff\xff\x7f" * 1 + b"0.", "it has the opcode POP"),
    "empty stack": (b"\x80\x02\x86.", "its stack is empty"),
    "no mark": (b"\x80\x02t.", "it has no mark"),
    "no end": (b"\x80\x02}", "it is malformed"),
    "unknown memo": (b"\x80\x02h\x07.", "it is malformed"),
    "items of nothing": (b"\x80\x02NNNs.", "it sets items of something else than a dict"),
    "a key of many parts": (DOUBLING[:-1] + b"q\xf0}h\xf0Ns.", "a key is a tuple"),
    "a storage of nothing": (a_tensor(storage=make.unicode("memory")), "a storage is a tuple"),
    "a shape of many parts": (a_tensor(shape=DOUBLING[2:-1]), "a shape is a tuple, expected sizes from 0 on"),
    "a negative shape": (a_tensor(shape=b"(" + make.number(-2) + b"t"), "a shape is a tuple, expected sizes from 0"),
    "no tensors": (DOUBLING, "there are no tensors in it, expected a state_dict"),
    "a long integer": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "it is malformed"),
}  # fmt: skip


@pytest.mark.parametrize("case", PICKLES)
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_with_code_and_other_traps(tmp_path, case, zipped, capsys):
    data, words = PICKLES[case]
    path = tmp_path / "x.pt"
    if zipped:
        make.torch(path, {}, data)
    else:  # in the place of the state dict of the older form
        data = data if data[:1] == b"\x80" else b"\x80\x02" + data
        state = legacy(path, {}).read_bytes()
        path.write_bytes(state.replace(make.state_dict({}), data))
    assert words in refused(path)
    assert capsys.readouterr().out == ""


def test_a_storage_that_is_missing_or_too_short(tmp_path):
    path = tmp_path / "x.pt"
    assert "its entry 'data/0' is missing" in refused(make.torch(path, {}, a_tensor()))
    assert "is compressed, or ends before byte 8" in refused(make.torch(path, {"a": np.zeros(1, "i1")}, a_tensor()))
    compressed = make.torch(path, {}, a_tensor(), data__0=bytes(1 << 20))
    assert "is compressed, or ends before byte 8" in refused(compressed)


def test_a_bomb_in_a_zip_archive(tmp_path):
    """64 megabytes of nothing in 64 kilobytes."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data.pkl", "w", force_zip64=True) as entry,
    ):
        for _ in range(64):
            entry.write(bytes(1 << 20))
    assert f"has more than {HEADER} bytes" in refused(tmp_path / "x.pt", out.getvalue())


def test_modules_of_torchscript_that_hold_themselves(tmp_path):
    module = b"c__torch__.torch.nn\nSequential\n)\x81q\x01}" + make.unicode("self") + b"h\x01sb"
    report = audit(make.torch(tmp_path / "x.pt", {}, b"\x80\x02" + module + b"."))
    assert (report.format, report.norms) == ("torchscript", ())
    inner = b"N"
    for _ in range(80):
        inner = b"c__torch__\nA\n)\x81}" + make.unicode("a") + inner + b"sb"
    words = refused(make.torch(tmp_path / "x.pt", {}, b"\x80\x02" + inner + b"."))
    assert "its modules are nested too deep, or too many" in words


def field(number, payload):
    """A field of a message of protocol buffers, with bytes or a number."""

    def varint(n):
        return bytes([n & 0x7F | 0x80]) + varint(n >> 7) if n > 0x7F else bytes([n])

    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def nested(depth):
    graph = b""
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))
    return field(7, graph)


def initializer(*parts):
    node = field(1, b"x") + field(1, b"w") + field(2, b"y") + field(4, b"LayerNormalization")
    return field(7, field(1, node) + field(5, field(8, b"w") + b"".join(parts)))


def outside(**entries):
    given = {name: text.encode() for name, text in entries.items()}
    return b"".join(field(13, field(1, name.encode()) + field(2, text)) for name, text in given.items())


FLOATS = field(1, 2) + field(2, 1)
ONNX = {
    "no graph": (field(1, 8), "no graph in it, expected a model of ONNX"),
    "past its message": (field(7, b"\x0a\x7f"), "a field ends at byte"),
    "no end": (b"\x08\x80\x80", "it is cut off at byte"),
    "a long number": (b"\x08" + b"\x80" * 20, "has a number of more than ten bytes"),
    "groups": (field(7, b"\x0b"), "has a field of type 3, expected 0, 1, 2 or 5"),
    "deep": (nested(40), "graphs are nested more than 32 deep"),
    "long name": (field(7, field(1, field(4, b"a" * 70_000))), "a name at byte"),
    "number for a name": (field(7, field(1, field(4, 7))), "a number stands in the place of a string"),
    "number for a graph": (field(7, 7), "a number stands in the place of a message"),
    "shape": (initializer(field(1, 1 << 60), field(2, 1)), "expected sizes from 0 on"),
    "too few": (initializer(FLOATS, field(9, bytes(7))), "has 7 bytes, expected 8"),
    "too many": (initializer(FLOATS, field(9, bytes(7000))), "is stored in 7000 bytes, expected 8"),
    "a huge norm": (initializer(field(1, 1 << 40), field(2, 1)), "expected at most 4194304 in a norm"),
    "elsewhere": (initializer(FLOATS, outside(location="../../etc/passwd")), "expected a file beside the model"),
    "root": (initializer(FLOATS, outside(location="/etc/passwd")), "expected a file beside the model"),
    "offset": (initializer(FLOATS, outside(location="x.onnx", offset="-5")), "lies at offset '-5', expected a number"),
    "past the end": (initializer(FLOATS, outside(location="x.onnx", offset="9999")), "bytes 9999 to 10007, but the"),
}  # fmt: skip


@pytest.mark.parametrize("case", ONNX)
def test_onnx(tmp_path, case):
    data, words = ONNX[case]
    assert words in refused(tmp_path / "x.onnx", data)


# -- folders and paths ----


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin"])
def test_shards_lie_in_their_folder(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"norm.weight": name}}))
    assert "files *.safetensors beside it" in refused(tmp_path)


def test_folders_without_what_is_needed(tmp_path):
    assert "has no file of weights" in refused(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert "has no weight_map of names to files" in refused(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    make.safetensors(tmp_path / "a.safetensors", {"norm.weight": np.float32([1])})
    make.safetensors(tmp_path / "b.safetensors", {"norm.weight": np.float32([1])})
    assert "has 'norm.weight' in two files, expected it in one" in refused(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    (tmp_path / "config.json").write_text("[1]")
    assert "is a list in JSON, expected an object" in refused(tmp_path)


def test_files_that_are_none_of_these(tmp_path):
    assert "is empty" in refused(tmp_path / "x.onnx", b"")
    assert "is of no format that is known" in refused(tmp_path / "x.txt", b"what is this, a text")
    assert "no format that is known" in refused(tmp_path / "x.pkl", pickle.dumps([1], 2))
    assert "no zip archive" in refused(tmp_path / "x.pt", b"PK\x03\x04" + bytes(100))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.txt", "a")
    assert "a zip archive without data.pkl" in refused(tmp_path / "x.pt", out.getvalue())
    with pytest.raises(FileNotFoundError, match="does not exist"):
        audit(tmp_path / "absent")
