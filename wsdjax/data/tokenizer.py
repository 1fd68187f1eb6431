"""From text to tokens: bytes as they are, or whatever the library `tokenizers` reads."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wsdjax.validation import UserError

INSTALL = 'pip install -c constraints.txt -e ".[text]"'
SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>")
"""What the usual tokenizers call the token that ends a document."""


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


class Bytes:
    """A text's UTF-8 bytes, and 256 as the separator."""

    name = "bytes"
    vocabulary = 257
    separator = 256
    fingerprint = hashlib.sha256(b"UTF-8 bytes, separator 256").hexdigest()

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8) for text in texts]


class Learned:
    """A tokenizer of the library `tokenizers`: BPE, unigram, word pieces.

    Raises:
      TokenizerError: if it has no token `separator`, or, where that is None, none of `SEPARATORS`.
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
        found = [tokens[token] for token in asked if token in tokens]
        if not found:
            raise TokenizerError(
                f"the tokenizer {name} has no token {' or '.join(asked)} to end a document: name "
                "the one it has with --separator"
            )
        self.separator = found[0]
        described = f"{self.separator} {tokenizer.to_str()}"
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(each.ids, np.uint32) for each in encoded]

    def save(self, path: str) -> None:
        self._tokenizer.save(path)


def load(name: str, separator: str | None = None) -> Bytes | Learned:
    """``"bytes"``, a tokenizer.json, or a tokenizer of the Hugging Face hub by its name.

    Raises:
      TokenizerError: for one that is not there, cannot be read, or has no separator.
    """
    if name == "bytes":
        return Bytes()
    if name.endswith(".json") or Path(name).exists():
        try:
            return Learned(name, library().Tokenizer.from_file(_file(name)), separator)
        except TokenizerError:
            raise
        except Exception as error:  # the library raises no narrower one
            said = " ".join(str(error).split())[:200]
            raise TokenizerError(f"{name} is no tokenizer.json: {said}") from None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every try
    try:
        return Learned(name, library().Tokenizer.from_pretrained(name), separator)
    except TokenizerError:
        raise
    except Exception as error:
        raise TokenizerError(
            f"the tokenizer {name} is no file here, and could not be fetched from the Hugging Face "
            f"hub ({type(error).__name__}): bring its tokenizer.json here and give that"
        ) from None


def _file(name: str) -> str:
    path = Path(name)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise TokenizerError(f"{path} is not there: give a tokenizer.json, a name, or bytes")
    return str(path)


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
    """The module `tokenizers`.

    Raises:
      TokenizerError: if it is not installed, naming the command that installs it.
    """
    try:
        import tokenizers
    except ImportError:
        raise TokenizerError(
            f"only bytes need no library tokenizers. Install it: {INSTALL}"
        ) from None
    return tokenizers
