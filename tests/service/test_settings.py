from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from embedder import console
from embedder.errors import UsageError
from service.settings import Settings, add_flags, from_options, is_loopback, settings_table


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("CASEBOOK_"):
            monkeypatch.delenv(name)


def build_parser() -> console.Parser:
    parser = console.Parser("serve", "")
    add_flags(parser)
    return parser


def settle(*arguments: str) -> Settings:
    return from_options(build_parser().parse_args(arguments))


def test_the_defaults() -> None:
    assert settle().model_dump() == {
        "store": Path("store"),
        "data": Path.home() / ".medmnist",
        "dataset": (),
        "model": (),
        "res": (),
        "weights": None,
        "host": "127.0.0.1",
        "port": 8000,
        "device": "auto",
        "index": "auto",
        "batch_limit": 64,
        "queue": 64,
        "deadline": 30.0,
        "max_upload_mb": 10.0,
        "max_megapixels": 50.0,
        "max_batch_mb": 128.0,
        "rate_limit": "6000/minute",
        "require_key": None,
        "trusted_proxies": "",
        "allowed_hosts": (),
        "drain": 30.0,
        "log_level": "info",
    }


def test_a_flag_wins_over_the_environment_and_that_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CASEBOOK_PORT", "9000")
    monkeypatch.setenv("CASEBOOK_QUEUE", "16")
    settings = settle("--port", "9001")
    assert (settings.port, settings.queue, settings.batch_limit) == (9001, 16, 64)


def test_a_wrong_variable_does_not_matter_where_a_flag_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CASEBOOK_PORT", "none")
    assert settle("--port", "9001").port == 9001


def test_lists_repeat_and_take_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASEBOOK_MODEL", "hog, dino")
    monkeypatch.setenv("CASEBOOK_RES", "28,224")
    settings = settle("--dataset", "a,b", "--dataset", "x/c.npz", "--dataset", "a")
    assert settings.dataset == ("a", "b", "x/c.npz")
    assert settings.model == ("hog", "dino")
    assert settings.res == (28, 224)
    assert Settings(res=(64,)).res == (64,)


def test_a_home_folder_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASEBOOK_DATA", "~/data")
    settings = settle("--store", "~/store", "--weights", "~/w.pt")
    home = Path.home()
    assert (settings.data, settings.store) == (home / "data", home / "store")
    assert settings.weights == home / "w.pt"


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("1", True), ("yes", True), ("false", False), ("0", False), ("no", False)],
)
def test_a_switch_in_the_environment(
    text: str, value: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASEBOOK_REQUIRE_KEY", text)
    assert settle().require_key is value


def test_a_switch_as_flags() -> None:
    assert settle("--require-key").require_key is True
    assert settle("--no-require-key").require_key is False


@pytest.mark.parametrize(
    ("host", "require", "required"),
    [
        ("127.0.0.1", (), False),
        ("localhost", (), False),
        ("0.0.0.0", (), True),
        ("127.0.0.1", ("--require-key",), True),
        ("0.0.0.0", ("--no-require-key",), False),
    ],
)
def test_reading_needs_a_key_where_others_can_reach_the_host(
    host: str, require: tuple[str, ...], required: bool
) -> None:
    assert settle("--host", host, *require).keys_required is required


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.3.2.1", True), ("::1", True), ("[::1]", True),
        ("localhost", True), ("LOCALHOST", True), ("0.0.0.0", False), ("::", False),
        ("192.168.0.2", False), ("localhost.example.org", False), ("127.1", False), ("", False),
    ],
)  # fmt: skip
def test_what_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_sizes_are_decimal_megabytes() -> None:
    settings = settle("--max-upload-mb", "2.5", "--max-batch-mb", "64")
    assert (settings.max_upload_bytes, settings.max_batch_bytes) == (2_500_000, 64_000_000)


def test_the_rate() -> None:
    rate = settle("--rate-limit", "90/10 seconds").rate
    assert rate is not None
    assert (rate.amount, rate.get_expiry()) == (90, 10)
    assert settle("--rate-limit", "none").rate is None


def test_no_proxy_is_trusted_where_the_list_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settle("--trusted-proxies", "").trusted_proxies == ""
    assert settle("--trusted-proxies", "10.0.0.0/8, ::1").trusted_proxies == "10.0.0.0/8,::1"
    assert settle("--trusted-proxies", "*").trusted_proxies == "*"
    monkeypatch.setenv("CASEBOOK_TRUSTED_PROXIES", "")
    assert settle().trusted_proxies == ""


def test_another_variable_that_is_empty_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CASEBOOK_STORE", "CASEBOOK_PORT", "CASEBOOK_DATASET", "CASEBOOK_REQUIRE_KEY"):
        monkeypatch.setenv(name, "")
    settings = settle()
    assert (settings.store, settings.port, settings.dataset) == (Path("store"), 8000, ())
    assert settings.require_key is None


def test_hosts_are_plain_names() -> None:
    assert settle("--host", "[::1]").host == "::1"
    assert settle("--allowed-hosts", "Example.org,[::2]").allowed_hosts == ("example.org", "::2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--port", "65536"),
         "--port: '65536' is not allowed; give a whole number from 0 to 65535"),
        (("--port", "-1"), "--port: '-1' is not allowed; give a whole number from 0 to 65535"),
        (("--port", "x"), "--port: 'x' is not allowed; give a whole number from 0 to 65535"),
        (("--device", "gpu"), "--device: 'gpu' is not allowed; give one of auto, cpu, cuda"),
        (("--batch-limit", "0"),
         "--batch-limit: '0' is not allowed; give a whole number from 1 to 1024"),
        (("--queue", "10001"),
         "--queue: '10001' is not allowed; give a whole number from 1 to 10000"),
        (("--res", "28,0"), "--res: '0' is not allowed; give whole numbers from 1 to 10000"),
        (("--deadline", "0"),
         "--deadline: '0' is not allowed; give a number above 0 and up to 3600"),
        (("--deadline", "nan"),
         "--deadline: 'nan' is not allowed; give a number above 0 and up to 3600"),
        (("--drain", "-1"), "--drain: '-1' is not allowed; give a number from 0 to 3600"),
        (("--model", "a,,b"), "--model: has an empty value; name something, or leave it out"),
        (("--model", ""), "--model: has an empty value; name something, or leave it out"),
        (("--store", ""), "--store has an empty value; give one, or leave the option out"),
        (("--store", "~nobody-here/x"), "--store: '~nobody-here/x' is in no known home folder"),
        (("--host", "a b"), "--host: 'a b' is no host name or address, without port"),
        (("--allowed-hosts", "a.org:80"),
         "--allowed-hosts: 'a.org:80' is no host name or address, without port"),
        (("--allowed-hosts", "*"), "--allowed-hosts: '*' is no host name or address, without port"),
        (("--trusted-proxies", "proxy"),
         "--trusted-proxies: 'proxy' is no address or network, as 10.0.0.0/8"),
        (("--trusted-proxies", "*,::1"),
         "--trusted-proxies: * stands alone; it believes every address"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_one_line_that_says_what_is_allowed(
    arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        settle(*arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "rate", ["0/minute", "10", "10/fortnight", "1/second;5/minute", "10/0 second", "-1/minute"]
)
def test_a_rate_that_is_none_is_refused(rate: str) -> None:
    with pytest.raises(UsageError, match=r"^--rate-limit: '.*' is not like 100/minute"):
        settle(f"--rate-limit={rate}")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CASEBOOK_PORT", "tcp://10.0.0.1:80",
         "CASEBOOK_PORT: 'tcp://10.0.0.1:80' is not allowed; give a whole number from 0 to 65535"),
        ("CASEBOOK_REQUIRE_KEY", "maybe",
         "CASEBOOK_REQUIRE_KEY: 'maybe' is not allowed; give true or false"),
        ("CASEBOOK_LOG_LEVEL", "loud",
         "CASEBOOK_LOG_LEVEL: 'loud' is not allowed; give one of debug, info, warning, error"),
        ("CASEBOOK_PROT", "80",
         "no setting is called CASEBOOK_PROT; did you mean CASEBOOK_PORT?"),
        ("CASEBOOK_XYZZY", "1",
         "no setting is called CASEBOOK_XYZZY; unset it, or see casebook serve --help"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught:
        settle()
    assert str(caught.value) == message


def test_variables_of_other_packages_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASEBOOK_DEBUG", "1")
    monkeypatch.setenv("CASEBOOK_MIRROR", "/mirror")
    assert settle() == Settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Settings(prot=1)  # type: ignore[call-arg]


def test_every_setting_has_a_flag_with_its_help() -> None:
    parser = build_parser()
    found = {action.dest: action for action in parser._actions if action.dest != "help"}
    assert set(found) == set(Settings.model_fields)
    assert found["max_upload_mb"].option_strings == ["--max-upload-mb"]
    assert found["max_upload_mb"].help == (
        "Most megabytes (10^6 bytes) of a file (default 10; CASEBOOK_MAX_UPLOAD_MB)"
    )
    assert all(
        f"CASEBOOK_{name.upper()}" in str(action.help) and "default" in str(action.help)
        for name, action in found.items()
    )
    assert parser.format_help()


def test_options_of_others_in_the_namespace_do_no_harm() -> None:
    assert from_options(argparse.Namespace(command="serve", port="81")).port == 81


def test_the_table_has_a_row_for_every_setting() -> None:
    lines = settings_table().splitlines()
    assert lines[0] == "| Flag | Variable | Default | Meaning |"
    assert len(lines) == 2 + len(Settings.model_fields)
    assert "| `--port N` | `CASEBOOK_PORT` | `8000` | Port to listen on; 0: any free one |" in lines
    assert (
        "| `--device auto\\|cpu\\|cuda` | `CASEBOOK_DEVICE` | `auto` | Where backbones run |"
    ) in lines
    assert any(line.startswith("| `--require-key`, `--no-require-key` |") for line in lines)
    assert any("| `~/.medmnist` |" in line for line in lines)
