"""Where state lives and what the environment may set; the base class of every configuration.

Belongs here: `Config`, `Settings` and the environment variables. Does not: dataset and recipe settings (`catalog/`).
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from anmi_pipeline.errors import InputError


class Config(BaseModel):
    """Base of every configuration model: frozen, unknown fields refused, every field described."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Settings(Config):
    """Paths and URLs of one installation. Everything lives under `home` until a URL replaces a part."""

    home: Path = Field(description="state folder (ANMI_HOME, default ./.anmi)")
    conf: Path | None = Field(default=None, description="a user's folder with datasets/ and recipes/ YAML files (ANMI_CONF)")
    data: Path | None = Field(default=None, description="folder that relative dataset paths start from (ANMI_DATA)")
    store_url: str = Field(description="object store: a folder or any fsspec URL (ANMI_STORE)")
    ledger_url: str = Field(description="SQLAlchemy URL of the judgment ledger (ANMI_LEDGER)")
    tracking_url: str = Field(description="MLflow tracking URI (ANMI_MLFLOW)")
    dagster_url: str = Field(description="base URL that links to the Dagster UI start with (ANMI_DAGSTER_UI)")
    mlflow_ui_url: str = Field(description="base URL that links to the MLflow UI start with (ANMI_MLFLOW_UI)")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read ANMI_HOME, ANMI_CONF, ANMI_DATA and the URL overrides.

        Raises:
            InputError: ANMI_CONF or ANMI_DATA names a folder that does not exist, or ANMI_HOME a file.
        """
        home = Path(environment.get("ANMI_HOME") or ".anmi").expanduser().resolve()
        if home.exists() and not home.is_dir():
            raise InputError(f"ANMI_HOME is {home}, which is not a folder. Set it to a folder, which may be new, or unset it.")
        conf = folder(environment, "ANMI_CONF")
        data = folder(environment, "ANMI_DATA")
        return cls(
            home=home,
            conf=conf,
            data=data,
            store_url=absolute(environment.get("ANMI_STORE") or str(home)),
            ledger_url=environment.get("ANMI_LEDGER") or f"sqlite:///{home / 'ledger.db'}",
            tracking_url=environment.get("ANMI_MLFLOW") or f"sqlite:///{home / 'mlflow.db'}",
            dagster_url=environment.get("ANMI_DAGSTER_UI") or "http://127.0.0.1:3000",
            mlflow_ui_url=environment.get("ANMI_MLFLOW_UI") or "http://127.0.0.1:5000",
        )

    @property
    def scratch(self) -> Path:
        """Folder of files that builds write before they are stored."""
        return self.home / "scratch"

    @property
    def dagster_home(self) -> Path:
        """The DAGSTER_HOME that every command of ours sets."""
        return self.home / "dagster"


def absolute(url: str) -> str:
    """A folder as an absolute path, so that it stays the same wherever a command is called; a URL as it is.

    >>> absolute("s3://bucket/anmi"), absolute("/srv/anmi")
    ('s3://bucket/anmi', '/srv/anmi')
    """
    return url if "://" in url else str(Path(url).expanduser().resolve())


def folder(environment: Mapping[str, str], variable: str) -> Path | None:
    """Read a variable that names an existing folder; None when it is unset or empty."""
    value = environment.get(variable)
    if not value:
        return None
    path = Path(value).expanduser().resolve()
    if not path.is_dir():
        raise InputError(f'{variable} is "{value}", which is not a folder. Set it to an existing folder or unset it.')
    return path
