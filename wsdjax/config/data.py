"""The data sets that an experiment may name: typed dataclasses, which `wsdjax.config` checks.

Each tells, without JAX, what a tree's lengths and a model need of it: `classes`, the number of
values of a target; `examples`, those of one training epoch; `evaluated`, those held out that are
evaluated; `unit`, of which an example has `units`, what an example's `shapes` are; `revision`,
which counts the changes of what an index gives; and `facts`, what else of the data a branch's
record keeps.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from wsdjax.config.validation import SIZE, check_path, count, number
from wsdjax.errors import ConfigError
from wsdjax.wording import shown

if TYPE_CHECKING:
    from wsdjax.data.tokens import Description


Shapes = dict[str, tuple[tuple[int, ...], str]]
"""Of the arrays of one example, with their dtypes."""


class _Images:
    """What 32 x 32 photographs have in common."""

    classes = 10
    unit, units = "images", 1
    shapes: ClassVar[Shapes] = {"inputs": ((32, 32, 3), "float32"), "targets": ((), "int32")}

    def facts(self) -> dict[str, Any]:
        return {}


class _Sequences:
    """What sequences of tokens have in common."""

    length: int
    augment = False
    revision = 1
    unit = "tokens"

    @property
    def units(self) -> int:
        return self.length

    @property
    def shapes(self) -> Shapes:
        return dict.fromkeys(("inputs", "targets"), ((self.length,), "int32"))

    def facts(self) -> dict[str, Any]:
        return {}


@dataclass
class Photos(_Images):
    """Crops of ten photographs; the class is the photograph (`wsdjax.data.photos`)."""

    noise: float = number(1.0, ge=0)
    """Standard deviation of the pixel noise, in units of the crop's own."""
    size: int = count(100_000)
    """Training crops in one epoch."""
    eval_size: int = count(2_000)
    augment: bool = False

    revision = 2
    """Revision 1 had crops that showed nothing."""

    @property
    def examples(self) -> int:
        return self.size

    @property
    def evaluated(self) -> int:
        return self.eval_size


@dataclass
class Cifar10(_Images):
    """CIFAR-10 as prepared by ``python -m experiments.prepare cifar10``."""

    directory: str = ""
    """Where it was prepared; empty for TFDS's own default."""
    augment: bool = False

    examples = 50_000
    evaluated = 10_000
    revision = 1


class _Tokens(_Sequences):
    """What windows of token shards have in common; tokens.json tells it."""

    @property
    def eval_windows(self) -> int:
        """Held-out windows that are evaluated at most."""
        raise NotImplementedError

    def description(self) -> "Description":
        """What is prepared.

        Raises:
          NotPrepared: if nothing is, naming the command that prepares it.
          TokensError: for a tokens.json that cannot be read.
        """
        raise NotImplementedError

    @property
    def classes(self) -> int:
        """The vocabulary."""
        return self.description().vocabulary

    @property
    def examples(self) -> int:
        return self.description().windows("train", self.length)

    @property
    def evaluated(self) -> int:
        return min(self.eval_windows, self.description().windows("test", self.length))

    def facts(self) -> dict[str, Any]:
        """The hash of the text, and the bytes of held-out text for each token: bits a byte are
        nats a token / (these times ln 2)."""
        described = self.description()
        return {"sha256": described.sha256, "bytes_per_token": described.bytes_per_token("test")}


@dataclass
class Text(_Tokens):
    """Text as prepared by ``python -m experiments.prepare text`` (`wsdjax.data.tokens`)."""

    directory: str
    """Where it was prepared."""
    length: int = count(2_048)
    """Tokens of an example's inputs."""
    eval_tokens: int = number(1_000_000, ge=1, lt=2**63)
    """Held-out tokens that are evaluated, in whole windows spread over all there are."""

    @property
    def eval_windows(self) -> int:
        return max(1, self.eval_tokens // self.length)

    def description(self) -> "Description":
        from wsdjax.data import tokens

        return tokens.describe(self.directory)


@dataclass
class Stdlib(_Tokens):
    """The source of Python's standard library, as installed (`wsdjax.data.stdlib`)."""

    tokenizer: str = "bytes"
    """"bytes", or "bpe:1024" for a BPE of so many tokens that is trained on it."""
    length: int = count(128)
    """Tokens of an example's inputs."""
    eval_size: int = count(1_000)
    """Held-out windows that are evaluated, spread over all there are."""

    @property
    def eval_windows(self) -> int:
        return self.eval_size

    def description(self) -> "Description":
        from wsdjax.data import stdlib

        return stdlib.describe(self.tokenizer)


@dataclass
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

    @property
    def classes(self) -> int:
        return self.vocabulary

    @property
    def examples(self) -> int:
        return self.size

    @property
    def evaluated(self) -> int:
        return self.eval_size


def check_data(path: str, data: object) -> None:
    """What bounds of single fields cannot say.

    Raises:
      ConfigError: naming the field, the value and what is allowed.
    """
    if isinstance(data, Stdlib):
        size = re.fullmatch(r"bytes|bpe:(\d{1,6})", data.tokenizer)
        # 256 bytes, the separator, and one merge at least.
        if not size or not 258 <= int(size[1] or 258) <= 2**16:
            raise ConfigError(
                f'{path}.tokenizer = {shown(data.tokenizer)}: must be "bytes", or "bpe:N" with '
                "N from 258 to 65536"
            )
    elif isinstance(data, Text | Cifar10):
        check_path(f"{path}.directory", data.directory)
    elif isinstance(data, Bigram) and data.choices > data.vocabulary:
        raise ConfigError(
            f"{path}.choices = {data.choices}: must be at most the vocabulary, {data.vocabulary}"
        )
