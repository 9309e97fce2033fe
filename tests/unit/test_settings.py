"""load_settings: where settings come from, which wins, and what is said when one is wrong."""

from pathlib import Path

import pytest

from vectoll.domain.catalog import TokenIdPolicy
from vectoll.domain.errors import ConfigurationError
from vectoll.settings import Settings, default_data_dir, load_settings


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_nothing_given_is_the_defaults() -> None:
    settings = load_settings(environ={})
    assert settings == Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8787)
    assert settings.limits.requests_per_minute == 500


def test_each_source_wins_over_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "vectoll.toml").write_text('port = 1\nhost = "a"\npublic_url = "http://a"\n')
    environ = {"VECTOLL_PORT": "2", "VECTOLL_HOST": "b"}
    settings = load_settings(flags={"port": 3, "host": None}, environ=environ)
    assert (settings.port, settings.host, settings.public_url) == (3, "b", "http://a")


def test_tables_are_merged_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "vectoll.toml").write_text("[limits]\nblock_s = 5\nfailure_window_s = 6\n")
    settings = load_settings(
        flags={"limits": {"requests_in_flight": 8}}, environ={"VECTOLL_LIMITS__BLOCK_S": "7"}
    )
    limits = settings.limits
    assert (limits.block_s, limits.failure_window_s, limits.requests_in_flight) == (7, 6, 8)
    assert limits.requests_per_minute == 500


def test_config_can_be_named_by_argument_and_by_variable(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("port = 1")
    (tmp_path / "b.toml").write_text("port = 2")
    environ = {"VECTOLL_CONFIG": str(tmp_path / "a.toml")}
    assert load_settings(environ=environ).port == 1
    assert load_settings(tmp_path / "b.toml", environ=environ).port == 2


def test_variables_with_other_meanings_and_other_prefixes_are_left_alone() -> None:
    environ = {
        "VECTOLL_API_KEY": "vtk_x",
        "_VECTOLL_COMPLETE": "bash_source",
        "OTHER": "1",
        "VECTOL_PORT": "x",
    }
    assert load_settings(environ=environ) == Settings()


def test_variable_may_hold_a_list_or_a_table() -> None:
    environ = {
        "VECTOLL_MODELS": '[{"id": "m", "token_ids": "reject", "aliases": ["a", "b"]}]',
        "VECTOLL_JWT__PUBLIC_KEY_FILES": '["one.pem"]',
    }
    settings = load_settings(environ=environ)
    assert settings.models[0].token_ids is TokenIdPolicy.REJECT
    assert settings.models[0].aliases == ("a", "b")
    assert settings.jwt.public_key_files == ("one.pem",)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"VECTOLL_PORT": "eighty"}, "setting port: must be an integer, not text (VECTOLL_PORT=eighty)"),
        ({"VECTOLL_PORT": "65536"}, "setting port: must be an integer <= 65535 (VECTOLL_PORT=65536)"),
        ({"VECTOLL_LIMITS__BLOCK_S": "0"}, "setting limits.block_s: must be an integer >= 1"),
        (
            {"VECTOLL_LIMITS__BLOCKS_S": "1"},
            "VECTOLL_LIMITS__BLOCKS_S: unknown setting; did you mean VECTOLL_LIMITS__BLOCK_S?",
        ),
        ({"VECTOLL_PRT": "1"}, "VECTOLL_PRT: unknown setting; did you mean VECTOLL_PORT?"),
        ({"VECTOLL_XYZZY": "1"}, "VECTOLL_XYZZY: unknown setting"),
        (
            {"VECTOLL_X402__BSE__RPC_URL": "1"},
            "VECTOLL_X402__BSE__RPC_URL: unknown setting; did you mean VECTOLL_X402__BASE__RPC_URL?",
        ),
        (
            {"VECTOLL_MODELS": '[{"id": "m", "poolin": "cls"}]'},
            "VECTOLL_MODELS: unknown setting models.poolin; did you mean models.pooling?",
        ),
        ({"VECTOLL_MODELS": "m"}, 'a list in a variable is JSON, e.g. [{"id": "m"}] (VECTOLL_MODELS)'),
        ({"VECTOLL_PUBLIC_URL": "foo"}, "setting public_url: must be a URL such as https://"),
        ({"VECTOLL_PUBLIC_URL": "https://"}, "setting public_url: must be a URL such as https://"),
        ({"VECTOLL_PUBLIC_URL": "https://[::1"}, "setting public_url: must be a URL such as https://"),
        ({"VECTOLL_PUBLIC_URL": "https://u@a.example"}, "setting public_url: must be a URL such as https://"),
        ({"VECTOLL_FORWARDED_ALLOW_IPS": "notanip"}, "setting forwarded_allow_ips: 'notanip' is not an IP"),
        ({"VECTOLL_FORWARDED_ALLOW_IPS": "10.0.0.1, *"}, "setting forwarded_allow_ips: '*' is not an IP"),
        ({"VECTOLL_SIWX__DOMAINS": '["a b"]'}, "setting siwx.domains: must be host names"),
        ({"VECTOLL_DRAIN_TIMEOUT_S": "inf"}, "setting drain_timeout_s: must be a finite number"),
        ({"VECTOLL_TRACING__ENDPOINT": "nonsense"}, "setting tracing.endpoint: must be a URL"),
        ({"VECTOLL_MODELS": '[{"id": " "}]'}, "setting models[0].id: ' ' is not an id"),
        ({"VECTOLL_CLUSTER__MIN_REPLICAS": "5"}, "setting cluster.min_replicas: 5 is more than"),
        ({"VECTOLL_CLUSTER__URLS": '["ftp://a"]'}, "setting cluster.urls: must be URLs such as http://"),
        (
            {
                "VECTOLL_ENGINE__BACKEND": "ray",
                "VECTOLL_CLUSTER__ROUTE": "http",
                "VECTOLL_CLUSTER__SECRET": "0123456789abcdef0123456789abcdef",
            },
            "setting cluster.urls: must be set when cluster.route is http",
        ),
        (
            {
                "VECTOLL_ENGINE__BACKEND": "ray",
                "VECTOLL_CLUSTER__ROUTE": "http",
                "VECTOLL_CLUSTER__URLS": '["http://ray:8000"]',
            },
            "setting cluster.secret: must be set when cluster.route is http",
        ),
        (
            {"VECTOLL_HTTP__CORS_ORIGINS": "a.example"},
            "setting http.cors_origins: 'a.example' is not an origin",
        ),
        ({"VECTOLL_ENGINE__STREAMS": "1025"}, "setting engine.streams: must be an integer <= 1024"),
        ({"VECTOLL_LIMITS": "5"}, "setting limits: must be a table, not text"),
        ({"VECTOLL_LOG": "x", "VECTOLL_LOG__LEVEL": "info"}, "VECTOLL_LOG__LEVEL clashes"),
        (
            {"VECTOLL_LOG__LEVEL": "loud"},
            "setting log.level: 'loud' is not one of debug, error, info, warning",
        ),
        (
            {"VECTOLL_MODELS": '[{"id": "x"}, {"id": "y", "pooling": "max"}]'},
            "setting models[1].pooling: 'max' is not one of",
        ),
        ({"VECTOLL_MODELS": '[{"name": "x"}]'}, "setting models[0]: must have id"),
        ({"VECTOLL_MODELS": "[broken"}, "setting models: must be a list, not text"),
        ({"VECTOLL_DATA_DIR": ""}, "setting data_dir: must be text of length >= 1"),
        ({"VECTOLL_CONFIG": "gone.toml"}, "cannot read gone.toml: No such file or directory"),
    ],
)
def test_wrong_setting_is_named_in_one_line(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_settings(environ=environ)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"port = ", b"\xff\xfe", b"port = 1\nport = 2\n"])
def test_broken_file_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"broken\.toml is not valid TOML"):
        load_settings(path, environ={})


def test_file_is_utf_8_whatever_the_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes('[[models]]\nid = "m"\nprompt = "für "\n'.encode())
    monkeypatch.setattr("io.text_encoding", lambda encoding, *_: encoding or "latin-1")
    assert load_settings(path, environ={}).models[0].prompt == "für "


@pytest.mark.parametrize(
    "environ",
    [
        {"VECTOLL_X402__BASE__SETTLEMENT_KEY": '["0xSECRET"]'},
        {"VECTOLL_X402__BASE": "0xSECRET"},
        {"VECTOLL_X402": '{"base": {"settlement_key": ["0xSECRET"]}}'},
        {"VECTOLL_DATABASE__URL": '["postgresql://u:SECRET@h/d"]'},
        {"VECTOLL_PUBLIC_URL": "user:SECRET@api.example"},
        {"VECTOLL_CLUSTER__URLS": "user:SECRET@ray"},
    ],
)
def test_message_about_a_secret_does_not_hold_it(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_settings(environ=environ)
    assert "SECRET" not in str(error.value)
    assert next(iter(environ)) in str(error.value)


def test_list_of_texts_in_a_variable_may_have_commas() -> None:
    settings = load_settings(environ={"VECTOLL_SIWX__DOMAINS": "a.example, b.example:8443"})
    assert settings.siwx.domains == ("a.example", "b.example:8443")


def test_who_said_what_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('prt = 1\nlimits.block_s = 5\n[x402.base]\npay_too = ""\n')
    with pytest.raises(ConfigurationError, match=r"own\.toml: unknown setting prt; did you mean port\?"):
        load_settings(path, environ={})
    path.write_text('[x402.base]\npay_too = "0x"\n')
    with pytest.raises(ConfigurationError, match=r"base\.pay_too; did you mean x402\.base\.pay_to"):
        load_settings(path, environ={})
    path.write_text("[limit]\nblock_s = 1\n")
    with pytest.raises(
        ConfigurationError, match=r"own\.toml: unknown setting limit\.block_s; did you mean limits\."
    ):
        load_settings(path, environ={})
    path.write_text('[models]\nid = "m"\n')
    with pytest.raises(
        ConfigurationError, match=r"not a table; it is written \[\[models\]\] \(.*own\.toml\)"
    ):
        load_settings(path, environ={})
    path.write_text("default_price_usd_per_million = 0.02\n")
    with pytest.raises(ConfigurationError, match=r"not a number; write it in quotes \(.*own\.toml\)"):
        load_settings(path, environ={})
    path.write_text('[[models]]\nid = "m"\nprice_usd_per_million = 1\n')
    with pytest.raises(ConfigurationError, match=r"not an integer; write it in quotes \(.*own\.toml\)"):
        load_settings(path, environ={})
    path.write_text("limits.block_s = 0\n")
    with pytest.raises(
        ConfigurationError, match=r"limits\.block_s: must be an integer >= 1 \(.*own\.toml=0\)"
    ):
        load_settings(path, environ={})
    with pytest.raises(ConfigurationError, match=r"must be an integer >= 1 \(VECTOLL_LIMITS=-1\)"):
        load_settings(path, environ={"VECTOLL_LIMITS": '{"block_s": -1}'})
    with pytest.raises(ConfigurationError, match=r"data_dir: .* \(--data-dir\)"):
        load_settings(path, {"data_dir": "", "limits": {"block_s": 1}}, {})


@pytest.mark.parametrize("proxies", ["", "*", "10.0.0.0/8, ::1,127.0.0.1"])
def test_proxies_are_addresses_networks_or_everybody(proxies: str) -> None:
    environ = {"VECTOLL_FORWARDED_ALLOW_IPS": proxies}
    assert load_settings(environ=environ).forwarded_allow_ips == proxies


def test_data_dir_follows_the_desktop_convention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert default_data_dir() == "/xdg/vectoll"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_data_dir() == "/home/me/.local/share/vectoll"


def test_data_dir_may_start_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert load_settings(environ={"VECTOLL_DATA_DIR": "~/vectoll"}).data_dir == "/home/me/vectoll"


def test_user_without_a_home_is_told_to_name_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 65_033)
    with pytest.raises(ConfigurationError, match=r"data_dir: this user has no home .*: give --data-dir"):
        load_settings(environ={})
    assert load_settings(flags={"data_dir": "/d"}, environ={}).data_dir == "/d"
