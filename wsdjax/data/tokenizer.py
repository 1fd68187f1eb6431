"""From text to tokens: bytes as they are, or whatever the library `tokenizers` reads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wsdjax.data.shards import MOST_TOKENS
from wsdjax.errors import UserError
from wsdjax.files import write_if_changed

INSTALL = 'pip install -c constraints.txt -e ".[text]"'
SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>")
"""Names that the usual tokenizers give the token that ends a document."""


class TokenizerError(UserError):
    """A tokenizer that cannot be had, or cannot separate documents."""


class Tokenizer(Protocol):
    name: str
    vocabulary: int
    """Tokens are 0, ..., vocabulary - 1."""
    separator: int
    """Ends a document, and is never made from its text."""
    fingerprint: str
    """SHA-256 of all that decides the tokens, in hexadecimal."""

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of each text, without separators."""

    def encode_and_count(self, texts: Sequence[str]) -> list[tuple[np.ndarray, int]]:
        """The tokens of each text, and how many of its bytes in UTF-8 they say nothing of: of
        characters, white space apart, that have no token or the one for what is unknown."""


class Bytes:
    """A text's UTF-8 bytes, and 256 as the separator."""

    name = "bytes"
    vocabulary = 257
    separator = 256
    fingerprint = hashlib.sha256(b"UTF-8 bytes, separator 256").hexdigest()

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8) for text in texts]

    def encode_and_count(self, texts: Sequence[str]) -> list[tuple[np.ndarray, int]]:
        return [(tokens, 0) for tokens in self.encode(texts)]


class Learned:
    """A tokenizer of the library `tokenizers`: BPE, unigram, word pieces.

    Raises:
      TokenizerError: if it has no token `separator`, or, where that is None, none of `SEPARATORS`;
        if it makes that token from text; if a token is 2^31 or more.
    """

    def __init__(self, name: str, tokenizer: Any, separator: str | None = None):
        self.name = name
        self._tokenizer = tokenizer
        # A document that contains the separator's name must not be cut there.
        tokenizer.encode_special_tokens = True
        # Settings of whoever batches sentences: a document is encoded whole, and as it is.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokens = tokenizer.get_vocab(with_added_tokens=True)
        self.vocabulary = 1 + max(tokens.values())
        asked = SEPARATORS if separator is None else (separator,)
        ends = next((token for token in asked if token in tokens), None)
        if ends is None:
            raise TokenizerError(
                f"the tokenizer {name} has no token {' or '.join(asked)[:80]} to end a document: "
                "name the one it has with --separator"
            )
        if self.vocabulary > MOST_TOKENS:
            raise TokenizerError(
                f"the tokenizer {name} has the token {self.vocabulary - 1:,}: they may go up to "
                f"{MOST_TOKENS - 1:,}"
            )
        self.separator = tokens[ends]
        content = tokenizer.to_str()
        self.fingerprint = hashlib.sha256(f"{self.separator} {content}".encode()).hexdigest()
        described = json.loads(content)
        self._unknown = _unknown(described["model"], tokens)
        self._keeps_all = _keeps_all(described)
        if self.separator == self._unknown or self.separator in self.encode([ends])[0]:
            raise TokenizerError(
                f"the tokenizer {name} makes its token {ends[:40]!r} of a document's own text, "
                "which would be cut there: name another with --separator, or mark it as special in "
                "the tokenizer.json"
            )

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        with _told(f"the tokenizer {self.name} cannot encode a text"):
            encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(each.ids, np.uint32) for each in encoded]

    def encode_and_count(self, texts: Sequence[str]) -> list[tuple[np.ndarray, int]]:
        if self._keeps_all:
            return [(tokens, 0) for tokens in self.encode(texts)]
        with _told(f"the tokenizer {self.name} cannot encode a text"):
            encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [
            (ids := np.array(each.ids, np.uint32), _lost(text, ids != self._unknown, each.offsets))
            for text, each in zip(texts, encoded, strict=True)
        ]

    def save(self, path: str) -> None:
        write_if_changed(Path(path), self._tokenizer.to_str(pretty=True))


def _unknown(model: dict[str, Any], tokens: dict[str, int]) -> int | None:
    """The token for what is not in the vocabulary."""
    if model.get("unk_id") is not None:
        return model["unk_id"]
    return tokens.get(model.get("unk_token") or "")


def _lost(text: str, known: np.ndarray, offsets: Sequence[tuple[int, int]]) -> int:
    """The bytes of characters, white space apart, that no known token covers."""
    covered = np.zeros(len(text) + 1, np.int64)
    if known.any():
        starts, ends = np.array(offsets, np.int64)[known].T
        np.add.at(covered, starts, 1)
        np.add.at(covered, ends, -1)
    bare = np.flatnonzero(covered.cumsum()[:-1] == 0)
    return len("".join("".join(text[i] for i in bare).split()).encode())


def _keeps_all(described: dict[str, Any]) -> bool:
    """Whether a tokenizer has, by how it is made, tokens for whatever text.

    Of others the offsets of each token are needed, which take a fifth longer, and which after NFC
    leave out what was composed.
    """
    model, parts = described["model"], (described["normalizer"], described["pre_tokenizer"])
    steps = {_step(each) for part in parts for each in _flat(part)}
    if not steps <= _KEEPING or model.get("continuing_subword_prefix"):
        return False
    vocabulary = model.get("vocab")
    if model.get("byte_fallback"):
        pieces = vocabulary if isinstance(vocabulary, dict) else {v[0] for v in vocabulary or []}
        return all(f"<0x{byte:02X}>" in pieces for byte in range(256))
    if model.get("type") != "BPE" or "ByteLevel" not in steps or model.get("end_of_word_suffix"):
        return False
    return set(library().pre_tokenizers.ByteLevel.alphabet()) <= set(vocabulary or ())


_KEEPING = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "ByteLevel", "Metaspace"}
_KEEPING |= {"Digits", "Split", "Punctuation", "Replace", "UnicodeScripts"}


def _flat(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    if step is None:
        return []
    inner = step.get("normalizers") or step.get("pretokenizers")
    return [each for part in inner for each in _flat(part)] if inner else [step]


def _step(step: dict[str, Any]) -> str:
    """The type of a step, unless it drops what it finds."""
    dropping = step.get("behavior") == "Removed" or step.get("content") == ""
    return "dropping" if dropping else step["type"]


def load(name: str, separator: str | None = None) -> Bytes | Learned:
    """``"bytes"``, a tokenizer.json, or a tokenizer of the Hugging Face hub by its name."""
    if name == "bytes":
        return Bytes()
    path = Path(name)
    if name.endswith(".json") or path.exists():
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise TokenizerError(f"{path} is not there: give a tokenizer.json, a name, or bytes")
        with _told(f"{name} is no tokenizer.json"):
            return Learned(name, library().Tokenizer.from_file(str(path)), separator)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every try
    with _told(
        f"the tokenizer {name} is no file here, and could not be fetched from the Hugging Face "
        "hub: bring its tokenizer.json here and give that"
    ):
        return Learned(name, library().Tokenizer.from_pretrained(name), separator)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors of the library, which raises no narrower ones than Exception, begin with `what`."""
    try:
        yield
    except TokenizerError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:120]
        raise TokenizerError(f"{what}: {said or type(error).__name__}") from None


def train_bpe(name: str, texts: Iterable[str], vocabulary: int) -> Learned:
    """A byte-level BPE of so many tokens, 256 bytes and the separator among them.

    The same texts give the same tokenizer.
    """
    of = library()
    tokenizer = of.Tokenizer(of.models.BPE())
    tokenizer.pre_tokenizer = of.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = of.decoders.ByteLevel()
    trainer = of.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[SEPARATORS[0]],
        initial_alphabet=sorted(of.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return Learned(name, tokenizer)


def library() -> Any:
    """The module `tokenizers`."""
    try:
        import tokenizers
    except ImportError:
        raise TokenizerError(
            f"only bytes need no library tokenizers. Install it: {INSTALL}"
        ) from None
    return tokenizers
