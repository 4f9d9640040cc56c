"""Small checkpoints in every format that the audit reads, written without the libraries of these formats."""

import io
import json
import struct
import zipfile

import numpy as np

DTYPES = {"f8": "F64", "f4": "F32", "f2": "F16", "i8": "I64", "i4": "I32", "i1": "I8", "u2": "BF16"}
GGUF_TYPES = {"f4": 0, "f2": 1, "f8": 28, "i1": 24, "u2": 30}
STORAGES = {"f8": "Double", "f4": "Float", "f2": "Half", "u2": "BFloat16", "i8": "Long"}


def bfloat16(values):
    """Values as the 16 bits of bfloat16, cut off: uint16, which the writers here take for it."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def safetensors(path, arrays):
    header, data = {}, b""
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": DTYPES[array.dtype.str[1:]], "shape": list(array.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def folder(path, arrays, config):
    """A folder of Hugging Face."""
    path.mkdir(exist_ok=True, parents=True)
    (path / "config.json").write_text(json.dumps(config))
    safetensors(path / "model.safetensors", arrays)
    return path


def gguf(path, arrays, metadata):
    def string(text):
        return struct.pack("<Q", len(text.encode())) + text.encode()

    def value(v):
        if isinstance(v, str):
            return struct.pack("<I", 8) + string(v)
        if isinstance(v, list):
            return struct.pack("<IIQ", 9, 8, len(v)) + b"".join(map(string, v))
        return struct.pack("<If", 6, v) if isinstance(v, float) else struct.pack("<II", 4, v)

    out = b"GGUF" + struct.pack("<IQQ", 3, len(arrays), len(metadata))
    out += b"".join(string(key) + value(v) for key, v in metadata.items())
    data = b""
    for name, array in arrays.items():
        shape = array.shape[::-1]
        kind = GGUF_TYPES[array.dtype.str[1:]]
        out += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        data += array.tobytes() + bytes(-array.nbytes % 32)
    path.write_bytes(out + bytes(-len(out) % 32) + data)
    return path


def unicode(text):
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def number(n):
    return b"J" + struct.pack("<i", n)


def tensor(key, array, offset=0):
    """The opcodes of a tensor."""
    strides = [n // array.itemsize for n in array.strides]
    storage = f"ctorch\n{STORAGES[array.dtype.str[1:]]}Storage\n".encode()
    persistent = b"(" + unicode("storage") + storage + unicode(key) + unicode("cpu") + number(array.size) + b"tQ"
    shapes = b"".join(b"(" + b"".join(map(number, of)) + b"t" for of in (array.shape, strides))
    empty = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + persistent + number(offset) + shapes + b"\x89" + empty + b"tR"


def state_dict(arrays):
    """A pickle of protocol 2, as torch.save makes it."""
    items = b"".join(unicode(name) + tensor(str(i), array) for i, (name, array) in enumerate(arrays.items()))
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u."


def torch(path, arrays, pickle=None, **entries):
    """What torch.save makes; or with another pickle, or further entries of the archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", state_dict(arrays) if pickle is None else pickle)
        for i, array in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{i}", array.tobytes())
        for name, data in entries.items():
            archive.writestr(f"archive/{name.replace('__', '/', 1)}", data, zipfile.ZIP_DEFLATED)
    path.write_bytes(out.getvalue())
    return path


def layers(count, **shapes):
    """Arrays of so many layers, and of what is around them, with values as training leaves them: about 1, about 0."""
    random = np.random.default_rng(0)
    names = [(n.replace("#", str(i)), s) for n, s in shapes.items() for i in range(count if "#" in n else 1)]
    return {name: values(name, shape, random) for name, shape in names}


def values(name, shape, random):
    drawn = random.normal(0, 0.2, shape).astype(np.float32)
    norm = len(shape) == 1 and name.endswith(("weight", "gamma"))
    return np.abs(drawn + (norm or name.endswith("running_var"))) if norm or "running_var" in name else drawn


def llama(count=3, width=8):
    return layers(count, **{
        "model.embed_tokens.weight": (16, width),
        "model.layers.#.input_layernorm.weight": (width,),
        "model.layers.#.self_attn.q_proj.weight": (width, width),
        "model.layers.#.post_attention_layernorm.weight": (width,),
        "model.layers.#.mlp.up_proj.weight": (width, width),
        "model.norm.weight": (width,),
    })  # fmt: skip


LLAMA = {"model_type": "llama", "rms_norm_eps": 1e-6, "num_hidden_layers": 3}


def bert(count=3, width=8):
    names = ("embeddings", "encoder.layer.#.attention.output", "encoder.layer.#.output")
    norms = {f"{name}.LayerNorm.{key}": (width,) for name in names for key in ("weight", "bias")}
    return layers(count, **norms, **{"encoder.layer.#.attention.self.query.weight": (width, width)})


BERT = {"model_type": "bert", "layer_norm_eps": 1e-12, "num_hidden_layers": 3}


def resnet(count=3, width=8):
    keys = ("weight", "bias", "running_mean", "running_var")
    return layers(count, **{f"layer1.#.bn1.{key}": (width,) for key in keys}, **{"layer1.#.conv1.weight": (8, 8, 3, 3)})


GGUF = {"general.architecture": "llama", "llama.attention.layer_norm_rms_epsilon": 1e-6, "llama.block_count": 3}
TO_GGUF = {
    "model.embed_tokens": "token_embd", "model.layers": "blk", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "mlp.up_proj": "ffn_up",
    "model.norm": "output_norm",
}  # fmt: skip


def in_gguf(arrays):
    """The names of a Llama in GGUF."""
    renamed = {}
    for name, array in arrays.items():
        for before, after in TO_GGUF.items():
            name = name.replace(before, after)
        renamed[name] = array
    return renamed
