"""The data sets that an experiment may name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wsdjax.config.kinds import DataConfig, Described, Shapes, kind
from wsdjax.config.validation import SIZE, check_path, count, number
from wsdjax.errors import ConfigError
from wsdjax.wording import shown

if TYPE_CHECKING:
    from wsdjax.data import Dataset
    from wsdjax.data.tokens import Description


class _Images(DataConfig):
    """32 x 32 photographs of ten classes."""

    unit = "images"

    @property
    def shapes(self) -> Shapes:
        return {"inputs": ((32, 32, 3), "float32"), "targets": ((), "int32")}


@kind
class Photos(_Images):
    """Crops of ten photographs; the class is the photograph (`wsdjax.data.photos`)."""

    noise: float = number(1.0, ge=0)
    """Standard deviation of the pixel noise, in units of the crop's own."""
    size: int = count(100_000)
    """Training crops in one epoch."""
    eval_size: int = count(2_000)
    augment: bool = False

    called = "photos (not CIFAR-10)"
    revision = 2
    """Revision 1 had crops that showed nothing."""

    def describe(self) -> Described:
        return Described(10, self.size, self.eval_size)

    def load(self) -> Dataset:
        from wsdjax.data import photos

        return photos.load(self)

    def note(self) -> str:
        return (
            "Data: photos, crops of ten photographs that stand in for CIFAR-10 where there is no "
            "network; its numbers are not those of CIFAR-10."
        )


@kind
class Cifar10(_Images):
    """CIFAR-10 as prepared by ``python -m experiments.prepare cifar10``."""

    directory: str = ""
    """Where it was prepared; empty for TFDS's own default."""
    augment: bool = False

    called = "CIFAR-10"

    def check(self, path: str) -> None:
        check_path(f"{path}.directory", self.directory)

    def describe(self) -> Described:
        return Described(10, 50_000, 10_000)

    def load(self) -> Dataset:
        from wsdjax.data import cifar10

        return cifar10.load(self.directory)


class _Sequences(DataConfig):
    """Sequences of tokens."""

    length: int
    unit = "tokens"

    @property
    def units(self) -> int:
        return self.length

    @property
    def shapes(self) -> Shapes:
        return dict.fromkeys(("inputs", "targets"), ((self.length,), "int32"))


class _Tokens(_Sequences):
    """Windows of token shards, of which tokens.json tells."""

    inert = False

    @property
    def eval_windows(self) -> int:
        """Held-out windows that are evaluated at most."""
        raise NotImplementedError

    def text(self) -> Description:
        """The prepared text; raises as `describe` does."""
        raise NotImplementedError

    def describe(self) -> Described:
        """Its facts are the text's hash and the bytes of held-out text for each token: bits a
        byte are nats a token / (these times ln 2)."""
        text = self.text()
        examples = text.windows("train", self.length)
        evaluated = min(self.eval_windows, text.windows("test", self.length))
        facts = {"sha256": text.sha256, "bytes_per_token": text.bytes_per_token("test")}
        return Described(text.vocabulary, examples, evaluated, facts, text)

    def load(self) -> Dataset:
        from wsdjax.data import Dataset
        from wsdjax.data.host import HostSplit

        text = self.text()
        train = HostSplit(text, "train", self.length)
        # As many of those held out as are to be evaluated, evenly spread over them.
        return Dataset(train, HostSplit(text, "test", self.length, self.eval_windows))


@kind
class Text(_Tokens):
    """Text as prepared by ``python -m experiments.prepare text`` (`wsdjax.data.tokens`)."""

    directory: str
    """Where it was prepared."""
    length: int = count(2_048)
    """Tokens of an example's inputs."""
    eval_tokens: int = number(1_000_000, ge=1, lt=2**63)
    """Held-out tokens that are evaluated, in whole windows spread over all there are."""

    @property
    def called(self) -> str:
        return self.directory

    @property
    def eval_windows(self) -> int:
        return max(1, self.eval_tokens // self.length)

    def check(self, path: str) -> None:
        check_path(f"{path}.directory", self.directory)

    def not_there(self) -> str:
        from wsdjax.data import tokens

        return tokens.not_there(self.directory)

    def text(self) -> Description:
        from wsdjax.data import tokens

        return tokens.describe(self.directory)


@kind
class Stdlib(_Tokens):
    """The source of Python's standard library, as installed (`wsdjax.data.stdlib`)."""

    tokenizer: str = "bytes"
    """"bytes", or "bpe:1024" for a BPE of so many tokens that is trained on it."""
    length: int = count(128)
    """Tokens of an example's inputs."""
    eval_size: int = count(1_000)
    """Held-out windows that are evaluated, spread over all there are."""

    called = "source of Python's standard library"

    @property
    def eval_windows(self) -> int:
        return self.eval_size

    def check(self, path: str) -> None:
        size = re.fullmatch(r"bytes|bpe:(\d{1,6})", self.tokenizer)
        # 256 bytes, the separator, and one merge at least.
        if not size or not 258 <= int(size[1] or 258) <= 2**16:
            raise ConfigError(
                f'{path}.tokenizer = {shown(self.tokenizer)}: must be "bytes", or "bpe:N" with '
                "N from 258 to 65536"
            )

    def text(self) -> Description:
        from wsdjax.data import stdlib

        return stdlib.describe(self.tokenizer)


@kind
class Bigram(_Sequences):
    """A synthetic language of known entropy: some tokens determine the next one, after the
    others it is drawn (`wsdjax.data.synthetic`)."""

    vocabulary: int = number(64, ge=2, le=4_096)
    length: int = count(64)
    """Tokens of an example's inputs."""
    ambiguous: float = number(0.5, ge=0, le=1)
    """The share of the vocabulary, to a whole token, after which the next one is uncertain."""
    choices: int = count(4, least=2)
    """How many tokens may follow an ambiguous one."""
    skew: float = number(1.0, gt=0, le=1)
    """Each of them is so many times as likely as the one before it; 1 for all alike."""
    language: int = number(0, ge=0, lt=SIZE)
    """The seed of the language itself."""
    size: int = count(100_000)
    """Training sequences in one epoch."""
    eval_size: int = count(2_000)

    def check(self, path: str) -> None:
        if self.choices > self.vocabulary:
            raise ConfigError(
                f"{path}.choices = {self.choices}: must be at most the vocabulary, "
                f"{self.vocabulary}"
            )

    def describe(self) -> Described:
        return Described(self.vocabulary, self.size, self.eval_size)

    def load(self) -> Dataset:
        from wsdjax.data import synthetic

        return synthetic.load(self)

    def note(self) -> str:
        from wsdjax.data.synthetic import entropy_rate

        return f"Entropy of the language, nats a token: {entropy_rate(self):.4f}."
