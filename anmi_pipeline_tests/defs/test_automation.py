"""Automation fires on changed content and on nothing else (conditions evaluated without a daemon)."""

import dagster as dg

from anmi_pipeline.defs.declaring import ON_CHANGED_CONTENT


def definitions():
    @dg.asset
    def elo():
        return dg.MaterializeResult(data_version=dg.DataVersion("first"))

    @dg.asset(deps=[elo], automation_condition=ON_CHANGED_CONTENT)
    def model():
        return dg.MaterializeResult(data_version=dg.DataVersion("model"))

    return dg.Definitions(assets=[elo, model])


def report(instance, asset, version):
    event = dg.AssetMaterialization(asset_key=asset, tags={"dagster/data_version": version})
    instance.report_runless_asset_event(event)


def test_equal_content_fires_nothing_and_changed_content_fires_once():
    instance, code = dg.DagsterInstance.ephemeral(), definitions()
    report(instance, "elo", "first")
    report(instance, "model", "model")
    state = dg.evaluate_automation_conditions(code, instance)
    assert state.total_requested == 0
    report(instance, "elo", "first")
    state = dg.evaluate_automation_conditions(code, instance, cursor=state.cursor)
    assert state.total_requested == 0
    report(instance, "elo", "second")
    state = dg.evaluate_automation_conditions(code, instance, cursor=state.cursor)
    assert state.get_requested_partitions(dg.AssetKey("model")) == {None}
    state = dg.evaluate_automation_conditions(code, instance, cursor=state.cursor)
    assert state.total_requested == 0


def test_a_model_that_was_never_built_waits_for_a_person():
    instance, code = dg.DagsterInstance.ephemeral(), definitions()
    report(instance, "elo", "first")
    state = dg.evaluate_automation_conditions(code, instance)
    report(instance, "elo", "second")
    state = dg.evaluate_automation_conditions(code, instance, cursor=state.cursor)
    assert state.total_requested == 0
