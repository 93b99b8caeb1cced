"""Epochs: opened once, the last one is current, expiry is judged when they were opened."""

import polars as pl
import pytest

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.epochs import EPOCHS, JUDGED, Epoch, EpochBook, Origin, current_epoch, last_epoch
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.verdicts import VERDICTS

ORIGIN = Origin("small", "k" * 64, "d" * 64)


@pytest.fixture
def books(ledger_url):
    with Books(ledger_url) as opened:
        yield opened
        with opened.transaction() as connection:  # the server is shared by the tests
            EPOCHS.drop(connection, checkfirst=True)


def test_the_first_epoch_is_the_configured_one_and_opened_once(books):
    first = current_epoch(books, "small", "1", {JUDGED: ORIGIN})
    again = current_epoch(books, "small", "1")
    assert again == first
    assert (first.name, first.number, first.carried, first.scope, first.settings()) == ("1", 1, None, "small", {})


def test_a_reader_opens_nothing(books):
    seen = last_epoch(books, "small", "1")
    assert (seen.name, seen.number) == ("1", 1)
    assert EpochBook(books, "small").all() == []
    opened = current_epoch(books, "small", "1")
    assert last_epoch(books, "small", "1") == opened
    assert last_epoch(books, "small", "2").number == 2


def test_the_epoch_opened_last_is_current_whatever_was_opened_again(books):
    current_epoch(books, "small", "1")
    book = EpochBook(books, "small")
    opened = book.open("2026-10-05", {JUDGED: ORIGIN}, max_usd=3.5, max_calls=200, at="2026-10-05T00:00:00.000000Z")
    assert opened == Epoch("small", "2026-10-05", 2, "2026-10-05T00:00:00.000000Z", {JUDGED: ORIGIN}, 3.5, 200)
    assert book.open("2026-10-05", {}, max_usd=99) == opened
    assert current_epoch(books, "small", "1") == opened
    assert book.open("1").number == 1
    assert book.last() == opened


def test_a_new_name_in_the_yaml_opens_that_epoch(books):
    current_epoch(books, "small", "1")
    second = current_epoch(books, "small", "second", {JUDGED: ORIGIN}, max_usd=1)
    assert (second.number, second.carried, second.max_usd) == (2, ORIGIN, 1)
    assert second.settings() == {"epoch": {"name": "second", "opened_at": second.opened_at, "carried": ORIGIN.digest}}


def test_epochs_belong_to_one_dataset(books):
    current_epoch(books, "small", "1")
    EpochBook(books, "small").open("2")
    assert current_epoch(books, "other", "1").number == 1
    assert EpochBook(books, "nobody").last() is None


def test_only_an_epoch_with_caps_has_a_scope_of_its_own(books):
    current_epoch(books, "small", "1")
    book = EpochBook(books, "small")
    assert book.open("2").scope == "small"
    assert book.open("3", max_calls=0).scope == "small:3"


def test_caps_can_be_raised_while_it_is_open(books):
    current_epoch(books, "small", "1")
    book = EpochBook(books, "small")
    book.open("2", max_usd=1, max_calls=10)
    assert book.cap("2", None, None) == book.find("2")
    raised = book.cap("2", 5.0, None)
    assert (raised.max_usd, raised.max_calls) == (5.0, 10)
    with pytest.raises(InputError, match='no epoch "9"'):
        book.cap("9", 1, 1)


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_a_name_has_a_length(books, name):
    with pytest.raises(InputError, match="1 to 64"):
        EpochBook(books, "small").open(name)


def test_what_expires_after_the_opening_is_not_asked_again(books):
    """A verdict that is good when the epoch opens stays good for all its runs."""
    book = EpochBook(books, "small")
    current_epoch(books, "small", "1")
    epoch = book.open("2", at="2026-10-05T00:00:00.000000Z")
    keys = pl.Series("call_key", ["a" * 64, "b" * 64])
    answers = pl.DataFrame({
        "call_key": keys, "status": ["ok", "ok"], "p_first": [0.9, 0.8], "raw_answer": [None, None],
        "input_tokens": [1, 1], "output_tokens": [1, 1], "cost_usd": [0.0, 0.0], "latency_ms": [None, None],
        "request_id": [None, None], "provenance": ["model", "model"],
        "expires_at": ["2026-10-06T00:00:00.000000Z", "2026-10-04T00:00:00.000000Z"],
    }, schema=VERDICTS)  # fmt: skip
    books.append(answers, pl.Series(["j", "j"]), "1")
    found = books.look_up(keys, epoch.name, epoch.opened_at)
    assert found["call_key"].to_list() == ["a" * 64]
