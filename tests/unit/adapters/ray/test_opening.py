"""From settings to a route."""

import pytest
from tests.fakes import SPEC

from vectoll.adapters.engines.ray import open_cluster_backend
from vectoll.adapters.engines.ray.names import app_name
from vectoll.domain.errors import ConfigurationError
from vectoll.domain.ids import ModelId
from vectoll.settings import ClusterSettings, QueueSettings

SECRET = "only gateways know this"


@pytest.mark.parametrize(
    ("cluster", "setting"),
    [
        (ClusterSettings(route="http", urls=("http://a",)), "cluster.secret"),
        (ClusterSettings(route="http", urls=("http://a",), secret="short"), "cluster.secret"),
        (ClusterSettings(route="http", urls=("http://a",), secret="é" * 20), "cluster.secret"),
        (ClusterSettings(route="http", urls=("http://a",), secret="a\n" * 20), "cluster.secret"),
    ],
)
def test_wrong_setting_is_named(cluster: ClusterSettings, setting: str) -> None:
    with pytest.raises(ConfigurationError, match=f"setting {setting}") as refused:
        open_cluster_backend(SPEC, cluster, QueueSettings())
    assert (cluster.secret or "-") not in str(refused.value) or cluster.secret == ""


def test_secret_is_not_shown() -> None:
    assert SECRET not in repr(ClusterSettings(secret=SECRET))


def test_models_never_share_an_application() -> None:
    ids = ["all-MiniLM-L6-v2", "BAAI/bge-m3", "BAAI-bge-m3", "BAAI bge-m3"]
    names = {app_name(ModelId(each)) for each in ids}
    assert len(names) == len(ids)
    assert "vectoll-all-MiniLM-L6-v2" in names
