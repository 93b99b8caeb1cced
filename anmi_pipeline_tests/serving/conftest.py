"""A small corpus, its runs, and one package of every kind of system."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest

from anmi_pipeline.evaluation.config import InferenceSettings
from anmi_pipeline.evaluation.metrics import with_seed
from anmi_pipeline.evaluation.tuning import Cached, with_tail
from anmi_pipeline.reranking.cross_encoder import load_cross_encoder, score_pools
from anmi_pipeline.reranking.features import FEATURES, FeatureModel
from anmi_pipeline.retrieval.config import EncoderConfig, LexicalConfig, PoolConfig
from anmi_pipeline.retrieval.dense import search
from anmi_pipeline.retrieval.encoding import load_encoder
from anmi_pipeline.retrieval.fusion import min_max, rrf
from anmi_pipeline.retrieval.lexical import LexicalIndex, document_texts, lexical_run
from anmi_pipeline.retrieval.pool import build_pool, pool_documents
from anmi_pipeline.serving.config import PackageSettings
from anmi_pipeline.serving.package import Embedded, write_search_package
from anmi_pipeline.tables import CORPUS, QUERIES
from anmi_pipeline.training.map_retriever import MapCheckpoint

ENCODER = EncoderConfig(max_tokens=32, precision="float32")
DEPTH = 15
POOL = PoolConfig(depth=DEPTH)
POOL_SIZE = 8
TEXTS = {
    "os.listdir": "Return a list of the names of the entries in the given directory.",
    "os.remove": "Remove a file path. If the path is a directory, an error is raised.",
    "os.rename": "Rename a file or directory from source to destination.",
    "shutil.copy": "Copy a file to a destination file or directory, keeping its permissions.",
    "json.loads": "Deserialize a string that holds a JSON document to a Python object.",
    "json.dumps": "Serialize a Python object to a JSON formatted string.",
    "csv.reader": "Return a reader object that iterates over the lines of a CSV file.",
    "re.sub": "Replace the occurrences of a pattern in a string by a replacement.",
    "re.match": "Match a pattern at the beginning of a string.",
    "random.shuffle": "Shuffle a list in place, in random order.",
    "random.choice": "Choose a random element from a sequence that is not empty.",
    "math.sqrt": "Return the square root of a number.",
    "math.gcd": "Return the greatest common divisor of integers.",
    "time.sleep": "Suspend execution of the calling thread for a number of seconds.",
    "datetime.now": "Return the current local date and time.",
    "hashlib.sha256": "Return a SHA-256 hash object of some bytes.",
    "zipfile.open": "Open a member of a ZIP archive as a binary file.",
    "socket.connect": "Connect to a remote socket at an address.",
    "heapq.heappop": "Pop and return the smallest item from the heap.",
    "bisect.insort": "Insert an item into a sorted list and keep it sorted.",
}
QUESTIONS = {
    "q1": "how do I delete a file",
    "q2": "parse a JSON string",
    "q3": "pick a random item of a list",
    "q4": "wait a few seconds",
    "q5": "list the files in a directory",
    "q6": "square root",
}


@dataclass(frozen=True)
class World:
    """Everything the evaluated systems are made from."""

    corpus: pl.DataFrame
    queries: pl.DataFrame
    vectors: np.ndarray
    query_vectors: np.ndarray
    checkpoint: MapCheckpoint
    lexical: pl.DataFrame
    dense: pl.DataFrame
    pool: pl.DataFrame

    @property
    def doc_ids(self):
        return self.corpus["doc_id"].to_list()

    @property
    def query_ids(self):
        return self.queries["query_id"].to_list()


@pytest.fixture(scope="session")
def world():
    corpus = CORPUS.frame(
        [{"doc_id": d, "title": d, "text": t, "group_id": d.split(".", maxsplit=1)[0]} for d, t in TEXTS.items()]
    )
    queries = QUERIES.frame([{"query_id": q, "text": t, "split": "test"} for q, t in QUESTIONS.items()])
    encoder = load_encoder(ENCODER)
    vectors = encoder.encode(document_texts(corpus), "document")
    query_vectors = encoder.encode(queries["text"].to_list(), "query")
    noise = np.random.default_rng(0).normal(0, 0.05, (384, 384))
    lexical = lexical_run(corpus, queries, LexicalConfig(depth=DEPTH))
    dense = search(vectors, corpus["doc_id"].to_list(), query_vectors, queries["query_id"].to_list(), DEPTH)
    pool = build_pool({"lexical": lexical, "dense": dense}, POOL)
    checkpoint = MapCheckpoint((np.eye(384) + noise).astype(np.float32), 5.0, 0.0, 7.0)
    return World(corpus, queries, vectors, query_vectors, checkpoint, lexical, dense, pool)


KINDS = ("lexical", "encoder", "fusion_rrf", "fusion_min_max", "retriever", "features", "cross_encoder")
FUSIONS = {
    "fusion_rrf": InferenceSettings(fusion="rrf"),
    "fusion_min_max": InferenceSettings(fusion="min_max", lexical_weight=0.3),
}


@pytest.fixture(scope="session")
def checkpoints(world, tmp_path_factory):
    """Checkpoint folders in the trainers' layout."""
    folder = tmp_path_factory.mktemp("checkpoints")
    world.checkpoint.save(folder / "retriever")
    FeatureModel(np.linspace(1.0, 3.0, len(FEATURES))).save(folder / "features")
    load_cross_encoder(ENCODER.model, 48, seed=3).save(folder / "cross_encoder" / "encoder")
    (folder / "cross_encoder" / "settings.json").write_text('{"kind": "cross_encoder", "max_tokens": 48}')
    return folder


def scored_pool(world, checkpoints, kind):
    if kind == "features":
        return FeatureModel.load(checkpoints / "features").score(world.pool.filter(pl.col("rrf_pool_rank") <= POOL_SIZE))
    encoder = load_cross_encoder(str(checkpoints / "cross_encoder" / "encoder"), 48)
    texts = dict(zip(world.doc_ids, document_texts(world.corpus), strict=True))
    return score_pools(encoder, pool_documents(world.pool, "rrf", POOL_SIZE), QUESTIONS, texts)


def evaluated(world, checkpoints, kind):
    """The system's run as an evaluation computes it: all queries at once, on the evaluation's own frames."""
    if kind == "retriever":
        mapped = world.checkpoint.apply(world.vectors)
        return search(mapped, world.doc_ids, world.checkpoint.apply(world.query_vectors), world.query_ids, DEPTH)
    if kind in ("features", "cross_encoder"):
        return with_tail(scored_pool(world, checkpoints, kind), pool_documents(world.pool, "rrf", DEPTH))
    untrained = {
        "lexical": world.lexical,
        "encoder": world.dense,
        "fusion_rrf": rrf([world.lexical, world.dense], depth=DEPTH),
        "fusion_min_max": min_max([world.lexical, world.dense], [0.3, 0.7], depth=DEPTH),
    }
    return untrained[kind]


def tuned(world, run, settings, kind):
    pool = pool_documents(world.pool, "rrf", 10) if kind in ("features", "cross_encoder") else None
    return Cached(with_seed(run), world.lexical, pool, DEPTH).apply(settings).drop("seed")


def settings_of(kind, inference=None, **changes):
    base = {
        "system": kind,
        "kind": "fusion" if kind in FUSIONS else kind,
        "depth": DEPTH,
        "dense_depth": DEPTH,
        "encoder": None if kind == "lexical" else ENCODER,
        "fixed": FUSIONS.get(kind, InferenceSettings()),
        "tuned": inference or InferenceSettings(),
        "pool": POOL,
        "pool_size": POOL_SIZE,
        "origin": {"dataset": "toy", "elo_table": "e1"},
    }
    return PackageSettings.model_validate(base | changes)


def package(folder, world, checkpoints, kind, inference=None, include_encoder=False, **changes):
    settings = settings_of(kind, inference, **changes)
    vectors = world.checkpoint.apply(world.vectors) if kind == "retriever" else world.vectors
    write_search_package(
        folder,
        settings,
        world.corpus,
        lexical=LexicalIndex.build(world.corpus, LexicalConfig(depth=DEPTH)) if settings.needs_lexical else None,
        embedded=None if kind == "lexical" else Embedded(world.doc_ids[::-1], vectors[::-1]),
        checkpoint=checkpoints / kind if (checkpoints / kind).is_dir() else None,
        include_encoder=include_encoder,
    )
    return folder
