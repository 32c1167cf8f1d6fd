"""Both commands read flags and file, and refuse what cannot be shared out."""

from pathlib import Path

import pytest

from training.feedback.config import GrpoConfig, PpoConfig
from training.settings import ConfigurationError, load_configuration


def test_flags_and_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('updates = 7\n[reward]\nurl = "http://a:1"\n[ppo]\nclip = 0.3\n')
    config = load_configuration("ppo", ["--config", str(path), "--ppo.clip", "0.1", "--policy.bf16"], PpoConfig)
    assert (config.updates, config.reward.url, config.ppo.clip, config.policy.bf16) == (7, "http://a:1", 0.1, True)


@pytest.mark.parametrize(
    ("kind", "flags", "complaint"),
    [
        (PpoConfig, ["--responses", "9"], "cannot be shared equally by 2 workers"),
        (GrpoConfig, ["--responses", "12"], "not whole groups of grpo.responses_per_prompt 8"),
        (PpoConfig, ["--ppo.discount", "0"], "ppo.discount"),
        (GrpoConfig, ["--reward.scale", "probability"], "reward.scale"),
    ],
)
def test_what_cannot_be_is_refused_by_name(kind, flags, complaint) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        load_configuration("ppo", flags, kind)
