"""Arguments win over the environment; wrong ones are refused; the key is never shown."""

from typing import Any

import pytest

from assay_client import AsyncRewardClient, RewardClient
from assay_client.settings import Settings


def resolve(base_url: str | None = None, **given: object) -> Settings:
    values: dict[str, object] = {
        "api_key": None,
        "timeout": 1.0,
        "max_concurrency": 1,
        "max_items": None,
        "model_digest": None,
        "retries": 0,
    }
    return Settings.resolve(base_url, **(values | given))  # type: ignore[arg-type]


def test_arguments_then_environment_then_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (resolve().base_urls, resolve().api_key) == (("http://127.0.0.1:8000",), None)
    monkeypatch.setenv("ASSAY_URL", "https://scores/assay/")
    monkeypatch.setenv("ASSAY_API_KEY", "from-file\n")
    assert (resolve().base_urls, resolve().api_key) == (("https://scores/assay",), "from-file")
    settings = resolve("http://other", api_key="mine")
    assert (settings.base_urls, settings.api_key) == (("http://other",), "mine")


@pytest.mark.parametrize("client", [RewardClient, AsyncRewardClient])
def test_the_key_is_not_shown(client: type[RewardClient]) -> None:
    made = client("http://h", api_key="s3cret")
    assert "http://h" in repr(made)
    assert "s3cret" not in repr(made) + str(made) + repr(vars(made)) + repr(resolve(api_key="s3cret"))
    with pytest.raises(ValueError, match="API key") as caught:
        client("http://h", api_key="s3cret\r\nX-Evil: 1")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://h", "http://", "http://h?x=1"])
def test_wrong_urls(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        resolve(url)


def test_a_password_in_the_url_is_refused_unseen() -> None:
    with pytest.raises(ValueError, match="credentials") as caught:
        resolve("http://me:hidden@h")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [{"timeout": 0}, {"timeout": float("inf")}, {"max_concurrency": 0}, {"max_items": 0}, {"retries": -1}],
)
def test_wrong_numbers(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        resolve(**given)


def test_the_key_may_lie_in_a_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASSAY_API_KEY", raising=False)
    (tmp_path / "key").write_text("mounted\n")
    monkeypatch.setenv("ASSAY_API_KEY_FILE", str(tmp_path / "key"))
    assert resolve().api_key == "mounted"
    assert resolve(api_key="mine").api_key == "mine"
    monkeypatch.setenv("ASSAY_API_KEY_FILE", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="ASSAY_API_KEY_FILE: .*none cannot be read"):
        resolve()
    for content, complaint in ((b"\n", "is empty"), ("schlüssel".encode(), "no HTTP header")):
        (tmp_path / "key").write_bytes(content)
        monkeypatch.setenv("ASSAY_API_KEY_FILE", str(tmp_path / "key"))
        with pytest.raises(ValueError, match=complaint) as caught:
            resolve()
        assert "schl" not in str(caught.value)


def test_several_servers() -> None:
    assert resolve("http://a:1, http://b:2/").base_urls == ("http://a:1", "http://b:2")
    assert resolve(["http://a:1", "dns+https://b"]).base_urls == ("http://a:1", "dns+https://b")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="twice"):
        resolve("http://a:1,http://a:1/")
    with pytest.raises(ValueError, match="must look like"):
        resolve("http://a:1,")
    with pytest.raises(ValueError, match="empty list"):
        resolve([])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="base_url .*abc"):
        resolve("dns+http://a:abc")
