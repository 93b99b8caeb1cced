"""Run as a process of its own: collects the made-up dataset and says on stdout how far it is, until it is killed."""

import sys

from anmi_pipeline.judging.cascade import Desk
from anmi_pipeline.judging.collect import collect
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.ledger import Ledger
from anmi_pipeline.judging.panel import build_judges
from anmi_pipeline.judging.plan import plan_comparisons
from anmi_pipeline.judging.round_plans import plan_first
from anmi_pipeline.judging.rounds import collect_rounds
from anmi_pipeline.judging.study import open_study
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline_tests.judging.made import Watched, made_evidence


def main(url: str, settings: str, chunk: int) -> None:
    """Collect; one line per chunk that is durable."""
    config, evidence = JudgingConfig.model_validate_json(settings), made_evidence(6, 20)

    def tell(done: int, _total: int, _unit: str, /) -> None:
        sys.stdout.write(f"{done}\n")
        sys.stdout.flush()

    judges = [Watched(judge, chunk=chunk) for judge in build_judges(config, evidence, 0)]
    with Ledger(url) as ledger:
        if config.adaptive:
            study = open_study("made", config, RatingConfig(), 0, evidence.pool, {})
            desk = Desk(judges, evidence, ledger, config, study.rating, 0)
            collect_rounds(plan_first(study)[0], desk, study, tell)
        else:
            plan, _ = plan_comparisons(pool_documents(evidence.pool, config), config, 0)
            collect(plan, judges, evidence, ledger, config, tell)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
