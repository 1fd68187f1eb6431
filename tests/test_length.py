"""Lengths of training: what each text comes to, and what is no length."""

import pytest

from wsdjax.config.lengths import combined, share, terms, updates

ONE = {"epochs": 390.0, "tokens": 1 / 4096, "%": 19.53}


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (350, 350),
        ("350", 350),
        ("1_000 steps", 1000),
        ("50 epochs", 19_500),
        ("0.5 epochs", 195),
        ("1 epoch", 390),
        ("3e9 tokens", 732_422),
        ("35%", 684),
        ("100%", 1953),
        ("100% - 35%", 1953 - 684),
        ("2 epochs + 10 - 5%", 780 + 10 - 98),
        ("2epochs+10", 790),
    ],
)
def test_what_a_length_comes_to(length, expected):
    assert updates(length, ONE) == expected


@pytest.mark.parametrize("length", ["", "many", "5 parsecs", "5 5", "5 -", "-", "% 5", "1.2.3"])
def test_what_is_no_length_is_refused(length):
    with pytest.raises(ValueError, match="is no length: give updates"):
        updates(length, ONE)


@pytest.mark.parametrize(
    ("length", "said"),
    [("5%", "Set the experiment's length"), ("5 tokens", "the data have no tokens")],
)
def test_a_unit_that_means_nothing_here_is_refused(length, said):
    with pytest.raises(ValueError, match=said):
        updates(length, {"epochs": 3})


@pytest.mark.parametrize("length", ["1e400", "9" * 5_000, "1e308 epochs"])
def test_more_than_can_be_counted_is_refused(length):
    with pytest.raises(ValueError, match="is more updates than can be counted") as error:
        updates(length, {"epochs": 1e3})
    assert len(str(error.value)) < 200
    with pytest.raises(ValueError, match="than can be counted"):
        share(10**400, 0.5)


@pytest.mark.parametrize("percent", range(1, 100))
def test_a_share_and_the_rest_add_up(percent):
    """Whatever the rounding."""
    one = {"%": 0.37}
    rest = combined(["100%"], [f"{percent}%"])
    assert updates(rest, one) + updates(f"{percent}%", one) == 37


def test_arithmetic_is_that_of_numbers():
    """On numbers it gives numbers; on texts, texts that come to the same."""
    assert combined([1000, 30], [350]) == 680
    assert share(1000, 0.35) == 350
    assert share(19, 0.1) == 2  # rounded, not cut
    text = combined(["1000", "30"], [share("1000", 0.35)])
    assert updates(text, {}) == 680
    assert updates(share("50 epochs", 0.1), {"epochs": 390}) == 1950
    assert updates(combined(["3e9 tokens"], ["1e-3 tokens"]), {"tokens": 1}) == 3_000_000_000


def test_a_part_of_an_update_is_refused():
    """As a step of a fork or a number of updates; a part of an epoch is a length."""
    for text in ("3.6", "1e-1", "10 - 0.5"):
        with pytest.raises(ValueError, match="updates are whole numbers"):
            terms(text)
    assert terms("3.0") == [(3, "steps")]
    assert terms("0.5 epochs") == [(0.5, "epochs")]
