"""First sentences: where they end, and which may be taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anmi_pipeline.collections.stdlib_names import Entry
from anmi_pipeline.collections.stdlib_sentences import first_sentence, normalise, take_sentences

REST = "Here follow more than ten plain words so that enough of it is left."


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"Read the whole file at once. {REST}", "Read the whole file at once."),
        (f"Read the whole\nfile at once.\n\n{REST}", "Read the whole file at once."),
        (f"Give names, e.g. Anna, to things. {REST}", "Give names, e.g. Anna, to things."),
        (f"No full stop at the end\n\n{REST}", "No full stop at the end"),
        (f"sleep(seconds)\n\nWait for some seconds here. {REST}", "Wait for some seconds here."),
    ],
)
def test_where_the_first_sentence_ends(text, sentence):
    found = first_sentence(text)
    assert found is not None
    assert found[0] == sentence
    assert REST in found[1]
    assert normalise(sentence) not in normalise(found[1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Too short.",
        "od.copy() -> a shallow copy of od",
        "a = b + c; d[e] = (f, g) / {h: 1}",
        "one\n  two three\nfour five six",
    ],
)
def test_what_is_no_sentence(text):
    assert first_sentence(text) is None


def entry(name, text):
    return Entry(name, name, text)


def test_a_sentence_leaves_all_its_documents_or_none():
    both = [entry("a", f"Close the file right now. {REST}"), entry("b", f"Close the file right now.\n\nAlso {REST}")]
    taken = take_sentences(both, train=9, held_out_share=0.0, seed=0)
    assert [sentence.sources for sentence in taken.sentences] == [("a", "b")]
    assert set(taken.rests) == {"a", "b"}
    short = [both[0], entry("b", "Close the file right now. Short rest.")]
    assert not take_sentences(short, train=9, held_out_share=0.0, seed=0).sentences


def test_a_sentence_that_stands_elsewhere_is_not_taken():
    texts = [entry("a", f"Close the file right now. {REST}"), entry("b", "Well. Close the file right now. Then go.")]
    assert not take_sentences(texts, train=9, held_out_share=0.0, seed=0).sentences


def test_a_sentence_that_its_own_document_repeats_is_not_taken():
    texts = [entry("a", f"Close the file right now.\n\nClose the file right now. {REST}")]
    assert not take_sentences(texts, train=9, held_out_share=0.0, seed=0).sentences


def test_documents_that_are_equal_without_their_sentence_share_a_group():
    texts = [entry("a", f"Close the file right now. {REST}"), entry("b", f"Open the file right now. {REST}")]
    for seed in range(20):
        taken = take_sentences(texts, train=9, held_out_share=0.5, seed=seed)
        assert len({(sentence.group, sentence.split) for sentence in taken.sentences}) == 1


@given(st.permutations(range(12)), st.integers(0, 5))
def test_the_order_of_documents_does_not_matter(order, seed):
    number = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
    texts = [entry(f"d{i}", f"Return the {word} thing of it. {REST} It is {word}.") for i, word in enumerate(number)]
    straight = take_sentences(texts, train=5, held_out_share=0.4, seed=seed)
    shuffled = take_sentences([texts[i] for i in order], train=5, held_out_share=0.4, seed=seed)
    assert straight == shuffled
