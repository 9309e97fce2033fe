"""Every setting, in one typed tree: read once at start, then passed down."""

from vectoll.settings.loading import load_settings
from vectoll.settings.tree import (
    BaseSettings,
    ClusterSettings,
    DatabaseSettings,
    EngineSettings,
    HttpSettings,
    JwtSettings,
    LimitsSettings,
    LogSettings,
    ModelSettings,
    QueueSettings,
    Settings,
    SolanaSettings,
    TracingSettings,
    X402Settings,
    default_data_dir,
)

__all__ = [
    "BaseSettings",
    "ClusterSettings",
    "DatabaseSettings",
    "EngineSettings",
    "HttpSettings",
    "JwtSettings",
    "LimitsSettings",
    "LogSettings",
    "ModelSettings",
    "QueueSettings",
    "Settings",
    "SolanaSettings",
    "TracingSettings",
    "X402Settings",
    "default_data_dir",
    "load_settings",
]
