"""Digests of a small dataset's artifacts do not move unless the asset's code_version does.

A digest that moves while its version stands would let an old record stand for new content. When a change of content is meant:
raise `code_version` of the asset and write the new digest here, with the reason in the commit. Only assets without linear algebra
are listed: the last bits of a solver differ between processors.
"""

import json
from pathlib import Path

from anmi_pipeline.records import Records
from anmi_pipeline.store import Store
from anmi_pipeline_tests.small import anmi, write_small

GOLDEN = Path(__file__).with_name("digests.json")


def test_golden_digests(tmp_path):
    environment = write_small(tmp_path)
    done = anmi(environment, "run", "--dataset", "small", "--until", "pairwise_judgments")
    assert done.returncode == 0, done.stderr
    records = Records(Store(environment["ANMI_HOME"]))
    expected = json.loads(GOLDEN.read_text())
    found = {}
    for asset in expected:
        record = records.current(asset, "small")
        assert record is not None
        found[asset] = {"code_version": record.code_version, "digest": record.digest}
    assert found == expected
