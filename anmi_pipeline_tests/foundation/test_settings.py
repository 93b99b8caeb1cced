"""The environment decides where state lives; nothing is created by reading it."""

from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.progress import silent
from anmi_pipeline.settings import Config, Settings, absolute


def test_everything_lives_under_home_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_environment({})
    assert settings.home == tmp_path / ".anmi"
    assert settings.store_url == str(tmp_path / ".anmi")
    assert settings.ledger_url == f"sqlite:///{tmp_path}/.anmi/ledger.db"
    assert settings.tracking_url == f"sqlite:///{tmp_path}/.anmi/mlflow.db"
    assert settings.dagster_home == tmp_path / ".anmi" / "dagster"
    assert settings.conf is None
    assert settings.data is None
    assert settings.dagster_url.startswith("http://127.0.0.1:")
    assert settings.mlflow_ui_url.startswith("http://127.0.0.1:")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_variable_is_an_unset_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("HOME", "CONF", "DATA", "STORE", "LEDGER", "MLFLOW", "DAGSTER_UI", "MLFLOW_UI")
    assert Settings.from_environment({f"ANMI_{name}": "" for name in names}) == Settings.from_environment({})


def test_every_part_can_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "data").mkdir()
    settings = Settings.from_environment(
        {
            "ANMI_HOME": str(tmp_path / "new" / "home"),
            "ANMI_CONF": str(tmp_path / "conf"),
            "ANMI_DATA": str(tmp_path / "data"),
            "ANMI_STORE": "s3://bucket/anmi",
            "ANMI_LEDGER": "postgresql://db/ledger",
            "ANMI_MLFLOW": "http://127.0.0.1:5001",
            "ANMI_DAGSTER_UI": "http://127.0.0.1:3001",
            "ANMI_MLFLOW_UI": "http://127.0.0.1:5002",
        }
    )
    assert settings.home == tmp_path / "new" / "home"
    assert (settings.conf, settings.data) == (tmp_path / "conf", tmp_path / "data")
    assert (settings.store_url, settings.ledger_url) == ("s3://bucket/anmi", "postgresql://db/ledger")
    assert settings.tracking_url == "http://127.0.0.1:5001"
    assert (settings.dagster_url, settings.mlflow_ui_url) == ("http://127.0.0.1:3001", "http://127.0.0.1:5002")


def test_paths_do_not_depend_on_where_a_command_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    settings = Settings.from_environment({"ANMI_HOME": "state", "ANMI_STORE": "~/store"})
    assert settings.home == tmp_path / "state"
    assert settings.store_url == str(tmp_path / "person" / "store")
    assert absolute("gs://bucket/x") == "gs://bucket/x"


@pytest.mark.parametrize("variable", ["ANMI_CONF", "ANMI_DATA"])
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, variable: str) -> None:
    with pytest.raises(InputError, match=rf'{variable} is "{tmp_path}/no", which is not a folder. Set it to an existing folder'):
        Settings.from_environment({variable: f"{tmp_path}/no"})


def test_home_may_not_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=rf"ANMI_HOME is {tmp_path}/file, which is not a folder"):
        Settings.from_environment({"ANMI_HOME": f"{tmp_path}/file"})


def test_a_configuration_is_frozen_and_knows_its_fields() -> None:
    class Small(Config):
        """An example."""

        rate: float = Field(default=0.5, description="a rate")

    small = Small()
    with pytest.raises(ValidationError, match="frozen"):
        small.rate = 1.0  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Small.model_validate({"rat": 1.0})


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_nearest_name_is_offered() -> None:
    assert nearest("nfcorpsu", ["scifact", "nfcorpus"]) == ' Did you mean "nfcorpus"?'
    assert nearest("zzz", ["scifact", "nfcorpus"]) == " Known: nfcorpus, scifact."
    assert nearest("zzz", []) == ""
    assert silent(1, 2, "pairs") is None
