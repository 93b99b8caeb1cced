"""Configuration files are found, merged and checked; every mistake is one sentence with its place and the nearest valid name."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anmi_pipeline.catalog.datasets import DatasetConfig, load_dataset, read_dataset
from anmi_pipeline.catalog.files import fields_at, locate, merge, names, read_yaml, resolve, shipped
from anmi_pipeline.catalog.recipes import RecipeConfig, load_recipe
from anmi_pipeline.errors import InputError


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A user's configuration folder."""
    for room in ("datasets", "recipes"):
        (tmp_path / room).mkdir()
    return tmp_path


def dataset(conf: Path, name: str, text: str) -> Path:
    """A dataset's file in the user's folder."""
    path = conf / "datasets" / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def recipe(conf: Path, name: str, text: str) -> Path:
    """A recipe's file in the user's folder."""
    path = conf / "recipes" / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


MINE = "description: mine\nsource: {reader: beir, path: mine}\n"


# Finding


def test_shipped_and_own_files_are_listed_together(conf: Path) -> None:
    dataset(conf, "mine", MINE)
    dataset(conf, "scifact", MINE)
    (conf / "datasets" / "notes.txt").write_text("no dataset")
    assert names("datasets", conf) == sorted({*names("datasets", None), "mine"})
    assert names("datasets", conf / "nowhere") == names("datasets", None)


def test_a_users_file_stands_above_a_shipped_one(conf: Path) -> None:
    assert locate("datasets", "scifact", conf) == shipped("datasets") / "scifact.yaml"
    path = dataset(conf, "scifact", MINE)
    assert locate("datasets", "scifact", conf) == path
    assert load_dataset("scifact", conf).description == "mine"
    assert load_dataset("scifact", None).description != "mine"
    recipe(conf, "bm25", "description: my own\nkind: untrained\nmethod: lexical\n")
    assert load_recipe("bm25", conf).description == "my own"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("scifct", r'unknown dataset "scifct". Did you mean "scifact"\?'),
        ("nfcorpus-simulatd", r'Did you mean "nfcorpus-simulated"\?'),
        ("my-own", r'Did you mean "my-owm"\?'),
        ("zzzzzz", r"Known: .*msmarco-dl19.*, my-owm, nfcorpus.*stdlib\."),
    ],
)
def test_an_unknown_dataset_names_the_nearest(conf: Path, name: str, problem: str) -> None:
    dataset(conf, "my-owm", MINE)
    with pytest.raises(InputError, match=problem):
        load_dataset(name, conf)


def test_an_unknown_recipe_names_the_nearest(conf: Path) -> None:
    with pytest.raises(InputError, match=r'unknown recipe "placebbo". Did you mean "placebo"\?'):
        load_recipe("placebbo", conf)


def test_a_dataset_that_names_what_is_not_there_is_refused(conf: Path) -> None:
    path = dataset(conf, "mine", f"{MINE}recipes: [bm25, anmii]\n")
    with pytest.raises(InputError, match=rf'{path}: unknown recipe "anmii". Did you mean "anmi"\?'):
        load_dataset("mine", conf)
    dataset(conf, "mine", f"{MINE}compare_with: [sciffact]\n")
    with pytest.raises(InputError, match=rf'{path}: unknown dataset "sciffact". Did you mean "scifact"\?'):
        load_dataset("mine", conf)
    dataset(conf, "mine", f"{MINE}recipe_settings: {{all: {{}}, placeboo: {{seeds: [1]}}}}\n")
    with pytest.raises(InputError, match=rf'{path}: unknown recipe "placeboo". Did you mean "placebo"\?'):
        load_dataset("mine", conf)
    dataset(conf, "mine", f"{MINE}recipes: [mine]\n")
    with pytest.raises(InputError, match=r'unknown recipe "mine". '):
        load_dataset("mine", conf)


# Extending


def test_a_chain_is_merged_from_the_root_up(conf: Path) -> None:
    dataset(conf, "root", f"{MINE}seed: 1\nrating: {{prior_precision: 0.5, model: bradley_terry}}\nrecipes: [bm25, minilm]\n")
    dataset(conf, "middle", "description: middle\nextends: root\nrating: {prior_precision: 0.25}\nrecipes: [rrf]\n")
    path = dataset(conf, "leaf", "extends: middle\ndescription: leaf\nseed: 3\n")
    node, chain = resolve("datasets", path, conf)
    assert chain == ["leaf", "middle", "root"]
    assert "extends" not in node
    leaf = load_dataset("leaf", conf)
    assert (leaf.name, leaf.family, leaf.description, leaf.seed) == ("leaf", "root", "leaf", 3)
    assert (leaf.rating.prior_precision, leaf.rating.model) == (0.25, "bradley_terry")
    assert leaf.recipes == ("rrf",), "lists are replaced, not joined"
    assert leaf.source == load_dataset("root", conf).source


def test_a_users_dataset_may_extend_a_shipped_one_also_of_its_own_name(conf: Path) -> None:
    dataset(conf, "scifact", "extends: scifact\ndescription: with another prior\nrating: {prior_precision: 0.5}\n")
    own, plain = load_dataset("scifact", conf), load_dataset("scifact", None)
    assert own.family == plain.family == "scifact"
    changed = {"description": "with another prior", "rating": own.rating}
    assert own == plain.model_copy(update=changed)
    assert own.rating.prior_precision == 0.5
    assert load_dataset("scifact-simulated", conf).rating.prior_precision == 0.5, "the shipped variant extends the user's"


@pytest.mark.parametrize(
    ("chain", "circle"),
    [(("a",), "a -> a"), (("a", "b"), "a -> b -> a"), (("a", "b", "c"), "a -> b -> c -> a")],
)
def test_a_circle_is_shown(conf: Path, chain: tuple[str, ...], circle: str) -> None:
    for name, parent in zip(chain, (*chain[1:], chain[0]), strict=True):
        dataset(conf, name, f"extends: {parent}\n")
    with pytest.raises(InputError, match=rf"a.yaml: extends goes in a circle: {circle}\."):
        load_dataset("a", conf)


def test_an_unknown_parent_is_named_with_the_file_that_asks_for_it(conf: Path) -> None:
    path = dataset(conf, "mine", "extends: scifct\n")
    with pytest.raises(InputError, match=rf'{path}: unknown dataset "scifct". Did you mean "scifact"\?'):
        load_dataset("mine", conf)


NODES = st.recursive(
    st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), NODES, max_size=3)


@given(MAPPINGS, MAPPINGS)
def test_merging_keeps_what_stands_above_and_changes_neither(below: dict[str, object], above: dict[str, object]) -> None:
    copies = repr(below), repr(above)
    merged = merge(below, above)
    assert (repr(below), repr(above)) == copies
    assert merge(merged, above) == merged
    assert merge(below, {}) == below
    assert merge({}, above) == above
    assert set(merged) == set(below) | set(above)
    assert all(merged[key] == value for key, value in above.items() if not isinstance(value, dict))


# Reading


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"description: [unclosed\nsource: x\n", r"mine.yaml, line \d+, column \d+: not YAML: .* Correct the line"),
        (b"a: 1\n\tb: 2\n", r"mine.yaml, line 2, column 1: not YAML: .*\\t"),
        (b"a: 1\nb: {c: 1, d: 2, c: 3}\n", r'mine.yaml, line 2, column 17: not YAML: key "c" stands twice'),
        (
            b"a: !!python/object/apply:os.system [ls]\n",
            r"mine.yaml, line 1, column 4: not YAML: could not determine a constructor",
        ),
        (b"description: caf\xe9\n", r"mine.yaml is not UTF-8: byte 16. Save it as UTF-8"),
        (b"a: \x00\n", r"mine.yaml is not YAML: .*#x0000"),
        (b"", r"mine.yaml must hold a mapping of settings, .*it holds nothing"),
        (b"# only a comment\n", r"it holds nothing"),
        (b"- a\n- b\n", r"it holds list"),
        (b"just words\n", r"it holds str"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_with_its_line(conf: Path, data: bytes, problem: str) -> None:
    path = conf / "datasets" / "mine.yaml"
    path.write_bytes(data)
    with pytest.raises(InputError, match=problem):
        read_yaml(path)
    with pytest.raises(InputError, match=problem):
        load_dataset("mine", conf)


def test_a_file_that_is_not_there_is_named(conf: Path) -> None:
    with pytest.raises(InputError, match=rf"cannot read {conf}/no.yaml: No such file or directory"):
        read_dataset(conf / "no.yaml", None)
    with pytest.raises(InputError, match=rf"cannot read {conf}: Is a directory"):
        read_dataset(conf, None)


def test_crlf_bom_anchors_and_merges_are_yaml_too(conf: Path) -> None:
    path = conf / "datasets" / "mine.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINE.replace("\n", "\r\n").encode())
    assert load_dataset("mine", conf).description == "mine"
    dataset(conf, "mine", "base: &base {a: 1, b: 2}\nother: {<<: *base, a: 3}\n")
    assert read_yaml(path)["other"] == {"a": 3, "b": 2}


# Checking


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sead: 1\n", r'unknown field "sead". Did you mean "seed"\?'),
        ("rating: {prior_precison: 1}\n", r'unknown field "rating.prior_precison". Did you mean "prior_precision"\?'),
        (
            "retrieval: {dense: {encoder: {max_token: 9}}}\n",
            r'unknown field "retrieval.dense.encoder.max_token". Did you mean "max_tokens"\?',
        ),
        (
            "judging: {judges: [{kind: simulated, name: s, eror_rate: 0.1}]}\n",
            r'unknown field "judging.judges.0.simulated.eror_rate". Did you mean "error_rate"\?',
        ),
        ("zzz: 1\n", r'unknown field "zzz". Known: calibration, compare_with, description, evaluation, .*tuning\.'),
        ("seed: one\n", r"""field "seed": Input should be a valid integer.* \(found 'one'\)"""),
        ("scope: groups\n", r"""field "scope": Input should be 'corpus' or 'group' \(found 'groups'\)"""),
        ("rating: {tolerance: 0}\n", r'field "rating.tolerance": Input should be greater than 0 \(found 0\)'),
        ("rating: 3\n", r'field "rating": .*\(found 3\)'),
        ("1: x\n", r"(?i)key"),
    ],
)
def test_a_wrong_field_of_a_dataset_is_named(conf: Path, text: str, problem: str) -> None:
    path = dataset(conf, "mine", MINE + text)
    with pytest.raises(InputError, match=problem) as caught:
        load_dataset("mine", conf)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{reader: beir, pth: x}", r'unknown field "source.beir.pth". Did you mean "path"\?'),
        ("{reader: beir, path: x, qrel: {}}", r'unknown field "source.beir.qrel". Did you mean "qrels"\?'),
        ("{reader: beir, path: x, splits: {dev_shar: 0.1}}", r'unknown field "source.beir.splits.dev_shar"'),
        (
            "{reader: trec, corpus: c, topics: t, title_tag: T}",
            r'unknown field "source.trec.title_tag". Did you mean "title_tags"\?',
        ),
        (
            "{reader: tabular, corpus: {path: c, colums: {}}, queries: {path: q}}",
            r'unknown field "source.tabular.corpus.colums". Did you mean "columns"\?',
        ),
        ("{reader: beer, path: x}", r'field "source": .*beer.*beir'),
        ("{path: x}", r'field "source": .*reader'),
    ],
)
def test_a_wrong_field_of_a_source_is_named_among_those_of_its_reader(conf: Path, source: str, problem: str) -> None:
    dataset(conf, "mine", f"description: mine\nsource: {source}\n")
    with pytest.raises(InputError, match=problem):
        load_dataset("mine", conf)


def test_a_misspelt_field_that_is_needed_is_called_unknown_not_missing(conf: Path) -> None:
    dataset(conf, "mine", "descripton: mine\nsource: {reader: beir, path: x}\n")
    with pytest.raises(InputError, match=r'unknown field "descripton". Did you mean "description"\?'):
        load_dataset("mine", conf)


def test_settings_of_one_recipe_stand_above_those_of_all(conf: Path) -> None:
    dataset(conf, "mine", f"{MINE}recipe_settings: {{all: {{encoder: {{max_tokens: 96}}, seeds: [1]}}, anmi: {{seeds: [2]}}}}\n")
    mine = load_dataset("mine", conf)
    assert mine.settings_for("anmi") == {"encoder": {"max_tokens": 96}, "seeds": [2]}
    assert mine.settings_for("placebo") == {"encoder": {"max_tokens": 96}, "seeds": [1]}
    assert load_recipe("anmi", conf, mine.settings_for("anmi")).seeds == (2,)


def test_a_missing_field_is_named(conf: Path) -> None:
    dataset(conf, "mine", "description: mine\n")
    with pytest.raises(InputError, match=r'mine.yaml: field "source" is missing. Add it\.'):
        load_dataset("mine", conf)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "kind: retriever\ntraining: {kind: retriever, learning_rat: 1}\n",
            r'"training.retriever.learning_rat". Did you mean "learning_rate"\?',
        ),
        (
            "kind: retriever\ntraining: {kind: retriever, loss: {kind: hybrid, scal: 1}}\n",
            r'"training.retriever.loss.hybrid.scal". Did you mean "scale"\?',
        ),
        ("kind: retriever\ntraining: {kind: retriever, curriculum: [{min_gap: 1, alpa: 1}]}\n", r'alpa". Did you mean "alpha"\?'),
        ("kind: retriever\ntraining: {kind: retriver}\n", r'field "training": .*retriver.*cross_encoder'),
        ("kind: retriever\n", r"a retriever recipe needs `training`"),
        ("kind: untrained\n", r"an untrained recipe needs `method`"),
        ("kind: untraind\n", r'field "kind": '),
        ("kind: untrained\nmethod: lexical\nseeds: []\n", r'field "seeds": '),
        ("kind: untrained\nmethod: lexical\nminig: {}\n", r'unknown field "minig". Did you mean "mining"\?'),
    ],
)
def test_a_wrong_field_of_a_recipe_is_named(conf: Path, text: str, problem: str) -> None:
    recipe(conf, "mine", f"description: mine\n{text}")
    with pytest.raises(InputError, match=problem):
        load_recipe("mine", conf)


def test_a_wrong_field_in_a_datasets_recipe_settings_says_where_it_stands(conf: Path) -> None:
    with pytest.raises(
        InputError, match=r'anmi.yaml, with the dataset\'s recipe_settings on top: unknown field "encoder.max_token"'
    ):
        load_recipe("anmi", conf, {"encoder": {"max_token": 9}})


def test_fields_at_a_place() -> None:
    assert "seed" in fields_at(DatasetConfig, ())
    assert "tolerance" in fields_at(DatasetConfig, ("rating",))
    assert "path" in fields_at(DatasetConfig, ("source", "beir"))
    assert "topics" not in fields_at(DatasetConfig, ("source", "beir"))
    assert "error_rate" in fields_at(DatasetConfig, ("judging", "judges", 0, "simulated"))
    assert "max_tokens" in fields_at(RecipeConfig, ("encoder",))
