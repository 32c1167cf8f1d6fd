"""Settings: one table, each documented, and none that cannot work."""

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

from service.settings import Settings, refuse_unknown_variables


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    import os

    for name in [name for name in os.environ if name.startswith("ASSAY_")]:
        monkeypatch.delenv(name)


def keys(settings: Settings) -> list[str]:
    return [key.get_secret_value() for key in settings.api_keys]


def test_every_setting_is_explained():
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_the_environment(monkeypatch):
    monkeypatch.setenv("ASSAY_PORT", "9000")
    monkeypatch.setenv("ASSAY_API_KEYS", "sesame, two ,")
    settings = Settings()
    assert settings.port == 9000
    assert keys(settings) == ["sesame", "two"]
    assert "sesame" not in repr(settings)


@pytest.mark.parametrize("given", ["", " ", ",", " , "])
def test_an_empty_list_of_keys_does_not_open_the_server(monkeypatch, given):
    monkeypatch.setenv("ASSAY_API_KEYS", given)
    with pytest.raises(ValidationError, match="holds no key"):
        Settings()
    monkeypatch.delenv("ASSAY_API_KEYS")
    assert Settings().api_keys == ()


@pytest.mark.parametrize("given", ["a b", "ключ", "a\tb", "a\x7f"])
def test_keys_that_no_header_could_carry(given):
    with pytest.raises(ValidationError, match="no header could carry it") as refused:
        Settings(api_keys=given)
    assert "a key holds" in str(refused.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"queue_items": 10, "max_items": 11}, "queue_items"),
        ({"default_timeout_ms": 2.0, "max_timeout_ms": 1.0}, "default_timeout_ms"),
        ({"deterministic": True, "score_cache_items": 1}, "deterministic"),
        ({"port": -1}, "port"),
        ({"threads": 0}, "threads"),
        ({"max_body_bytes": 10}, "max_body_bytes"),
        ({"drain_timeout_s": 0}, "drain_timeout_s"),
        ({"receive_timeout_s": float("nan")}, "receive_timeout_s"),
        ({"drain_notice_s": float("inf")}, "drain_notice_s"),
        ({"provider": "CPU"}, "provider"),
        ({"provider": "openvino", "gpu_memory_mb": 512}, "gpu_memory_mb is for the provider cuda"),
    ],
)
def test_impossible_values(given, says):
    with pytest.raises(ValidationError, match=says):
        Settings(**given)


def test_a_legal_item_must_fit_a_batch():
    settings = Settings(max_batch_tokens=511)
    settings.check_against(511)
    with pytest.raises(ValueError, match="max_batch_tokens is 511.*set max_batch_tokens to at least 512"):
        settings.check_against(512)


def test_a_legal_request_must_fit_the_queue():
    settings = Settings(queue_tokens=1024 * 100)
    settings.check_against(100)
    with pytest.raises(ValueError, match="queue_tokens is 102400, but a request of 1024 items .* may have 103424"):
        settings.check_against(101)
    with pytest.raises(ValidationError, match="max_items"):
        Settings(max_items=1)  # a comparison has two


@pytest.mark.parametrize(("max_tokens", "room"), [(512, 2**21), (4096, 1024 * 4096)])
def test_by_itself_the_queue_has_room_for_a_request_of_any_model(max_tokens, room):
    settings = Settings(max_batch_tokens=4096)
    settings.check_against(max_tokens)
    assert settings.queue_tokens_for(max_tokens) == room
    assert Settings(queue_tokens=7).queue_tokens_for(max_tokens) == 7


def test_connections_must_fit_the_open_files():
    assert Settings().connections_for(1024) == 832
    assert Settings().connections_for(2**20) == 16384
    assert Settings(max_connections=832).connections_for(1024) == 832
    with pytest.raises(ValueError, match=r"max_connections is 833, but .* 1024 files .* \(ulimit -n\)"):
        Settings(max_connections=833).connections_for(1024)
    with pytest.raises(ValueError, match="ulimit -n"):
        Settings().connections_for(192)


def test_a_misspelt_variable_is_refused():
    known = {"PATH": "/bin", "ASSAY_PORT": "8000", "ASSAY_URL": "http://h"}
    refuse_unknown_variables(known)
    with pytest.raises(SettingsError, match="ASSAY_PROT is no setting"):
        refuse_unknown_variables(known | {"ASSAY_PROT": "8000"})


def test_the_clients_key_does_not_leave_the_server_open():
    with pytest.raises(SettingsError, match="ASSAY_API_KEYS"):
        refuse_unknown_variables({"ASSAY_API_KEY": "sesame"})


@pytest.mark.parametrize("service", ["ASSAY", "ASSAY_METRICS"])
def test_what_kubernetes_tells_of_services_is_no_setting(monkeypatch, service):
    told = {
        f"{service}_SERVICE_HOST": "10.0.0.1",
        f"{service}_SERVICE_PORT": "8000",
        f"{service}_SERVICE_PORT_HTTP": "8000",
        f"{service}_PORT": "tcp://10.0.0.1:8000",
        f"{service}_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        f"{service}_PORT_8000_TCP_PROTO": "tcp",
        f"{service}_PORT_8000_TCP_PORT": "8000",
        f"{service}_PORT_8000_TCP_ADDR": "10.0.0.1",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    refuse_unknown_variables(told)
    assert Settings().port == 8000
    assert Settings(port=9000).port == 9000


@pytest.mark.parametrize("name", ["ASSAY_PORT_8000", "ASSAY_METRICS_PORT", "ASSAY_SERVICE_HOSTS", "ASSAY_PORT_TCP"])
def test_what_only_looks_like_it_is_refused(name):
    with pytest.raises(SettingsError, match=f"{name} is no setting"):
        refuse_unknown_variables({name: "8000"})


def test_a_port_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("ASSAY_PORT", "http://10.0.0.1:8000")
    with pytest.raises(ValidationError, match="port"):
        Settings()
