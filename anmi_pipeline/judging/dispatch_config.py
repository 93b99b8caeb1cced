"""How requests are sent: the configuration of a dispatch.

Belongs here: workers, retries, breaker, pace. Does not: sending (`dispatch.py`).
"""

from pydantic import Field

from anmi_pipeline.judging.pacing import PaceConfig
from anmi_pipeline.settings import Config


class DispatchConfig(Config):
    """How requests are sent."""

    workers: int = Field(default=64, ge=1, le=1024, description="calls in flight at once, at most")
    pace: PaceConfig = Field(default_factory=PaceConfig, description="requests and tokens per minute")
    attempts: int = Field(default=6, ge=1, description="attempts per request before it counts as failed")
    backoff_seconds: float = Field(default=0.5, gt=0, description="delay before the first retry; doubles, with jitter")
    longest_backoff_seconds: float = Field(default=30.0, gt=0, description="longest delay, unless the provider asks for more")
    breaker_failures: int = Field(default=20, ge=1, description="failures in a row after which sending stops for a while")
    breaker_seconds: float = Field(default=5.0, gt=0, description="first such while; doubles up to a minute")
    breaker_trials: int = Field(default=8, ge=1, description="failed trials after which the run stops")
    grace_seconds: float = Field(default=60.0, ge=0, description="how long calls in flight are awaited when a run is stopped")
    linger_seconds: float = Field(
        default=0.02, ge=0, description="how long outcomes and reservations wait for others to share a commit"
    )
