"""Options under Gunicorn's own command: from variables of the environment, from gunicorn.conf.py, and their order."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("gunicorn")

from gunicorn import config
from rmeinheld.gunicorn_worker.settings import settings_of
from rmeinheld.gunicorn_worker.sources import options_of_sources, refuse_settings

from masters import Gunicorn
from rmeinheld.application import StartError
from rmeinheld.settings import OPTIONS, Option, Settings


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith(("RMEINHELD_", "GUNICORN_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "argv", ["gunicorn"])
    yield
    sys.modules.pop("__config__", None)


def configured(line: str = "", conf: str = "", **environ: str) -> Any:
    """Return a configuration as Gunicorn makes it of its command line, of gunicorn.conf.py and of `--env`."""
    sys.argv = ["gunicorn", *line.split()]
    module = ModuleType("__config__")
    exec(conf, vars(module))
    sys.modules["__config__"] = module
    cfg = config.Config()
    for name, value in vars(module).items():
        if name in cfg.settings:
            cfg.set(name, value)
    for name, value in vars(cfg.parser().parse_args(sys.argv[1:])).items():
        if value is not None and name in cfg.settings:
            cfg.set(name, value)
    cfg.set("raw_env", [f"{name}={value}" for name, value in environ.items()])
    return cfg


def settings(line: str = "", conf: str = "", **environ: str) -> Settings:
    return settings_of(configured(line, conf, **environ))


@pytest.mark.parametrize(
    ("line", "conf", "environ", "name", "value"),
    [
        ("", "", {}, "keep_alive", 2.0),
        ("", "keepalive = 3", {}, "keep_alive", 3.0),
        ("", "keep_alive = 3.5", {}, "keep_alive", 3.5),
        ("", "keepalive = 3", {"RMEINHELD_KEEP_ALIVE": "4.5"}, "keep_alive", 4.5),
        ("", "keep_alive = 3", {"RMEINHELD_KEEPALIVE": "4"}, "keep_alive", 4.0),
        ("--keep-alive 5", "keepalive = 3", {"RMEINHELD_KEEP_ALIVE": "4"}, "keep_alive", 5.0),
        ("--keep-alive 5", "keep_alive = 3", {}, "keep_alive", 5.0),
        ("", "turn_budget = 0.5", {}, "turn_budget", 0.5),
        ("", "turn_budget = '0.5'", {"RMEINHELD_TURN_BUDGET": "0.25"}, "turn_budget", 0.25),
        ("", "hold_answers = 200", {}, "hold_answers", 200),
        ("", "hold_answers = 200", {"RMEINHELD_HOLD_ANSWERS": "300"}, "hold_answers", 300),
        ("", "", {}, "patch", True),
        ("", "patch = False", {}, "patch", False),
        ("", "from rmeinheld import patch", {}, "patch", True),
        ("", "", {"RMEINHELD_PATCH": "0"}, "patch", False),
        ("--threads 3", "", {}, "threads", 3),
        ("", "", {"RMEINHELD_THREADS": "3"}, "threads", 3),
        ("", "", {"RMEINHELD_PROXY_PROTOCOL": "v2"}, "proxy_protocol", "v2"),
        ("", "env = 'dev'\npid = 7", {}, "keep_alive", 2.0),
        ("", "", {"RMEINHELD_LIMIT_REQUEST_LINE": "1M"}, "limit_request_head", 1024**2 + 100 * 8192 + 4),
    ],
)
def test_of_two_sources_the_higher_one_wins(
    line: str, conf: str, environ: dict[str, str], name: str, value: object
) -> None:
    assert getattr(settings(line, conf, **environ), name) == value


@pytest.mark.parametrize("option", [one for one in OPTIONS.values() if one.environment], ids=lambda one: one.name)
def test_a_variable_acts_or_is_refused_with_gunicorns_option(option: Option) -> None:
    text = {"bind": "127.0.0.1:1", "env": "A=b"}.get(option.name, _text(option))
    cfg = configured(**{option.environment: text})
    if option.is_of_worker:
        assert options_of_sources(cfg)[option.name] != option.default
        return
    with pytest.raises(StartError) as caught:
        options_of_sources(cfg)
    assert str(caught.value).startswith(option.environment + " has no effect ")
    if option.gunicorn:
        assert option.gunicorn in str(caught.value)
        if option.gunicorn in cfg.settings and (flags := cfg.settings[option.gunicorn].cli):
            assert any(f"use Gunicorn's own option {flag}, or" in str(caught.value) for flag in flags)
    else:
        command = f"rmeinheld {option.flag}" if option.flags else "rmeinheld"
        assert str(caught.value).endswith(f"start the service by {command}")


def _text(option: Option) -> str:
    for text in ("7", "0", "1", "off", "v1", "refuse", "debug", "poll", "required", "%(h)s", "forwarded", "A=b",
                 "192.0.2.1", "https://shop.example", "64K", "512K", "on", "none", "ip",
                 "redis://redis.example"):  # fmt: skip
        try:
            value = option.kind.parse("", text)
        except ValueError:
            continue
        if value != option.default:
            return text
    raise AssertionError(option)


@pytest.mark.parametrize(
    ("line", "conf", "environ", "sentence"),
    [
        ("", "", {"RMEINHELD_WORKERS": "2"}, "use Gunicorn's own option --workers, or the setting workers"),
        ("", "", {"RMEINHELD_BIND": ":80"}, "use Gunicorn's own option --bind, or the setting bind"),
        ("", "", {"RMEINHELD_DRAIN_DELAY": "2"}, "RMEINHELD_DRAIN_DELAY has no effect under the gunicorn command"),
        ("", "drain_delay = 2", {}, "gunicorn.conf.py: drain_delay has no effect under the gunicorn command"),
        ("", "", {"RMEINHELD_KEEP_ALIV": "2"}, "did you mean 'RMEINHELD_KEEP_ALIVE'?"),
        ("", "", {"RMEINHELD_TURN_BUDGET": "x"}, "RMEINHELD_TURN_BUDGET must be a number of seconds"),
        ("", "turn_budget = 'x'", {}, "gunicorn.conf.py: turn_budget must be a number of seconds"),
        ("", "keep_alive = 1\nkeepalive = 2", {}, "keep_alive is 1.0 and gunicorn.conf.py: keepalive is 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused(line: str, conf: str, environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(StartError) as caught:
        settings(line, conf, **environ)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("conf", "warning"),
    [("keep_alives = 1", "did you mean 'keep_alive'?"), ("worker = 1", "did you mean 'workers'?"),
     ("worker = 1\nworkers = worker", ""), ("cores = 2\nimport os", "")],
)  # fmt: skip
def test_a_near_miss_in_gunicorn_conf_py_is_a_warning(conf: str, warning: str) -> None:
    lines: list[str] = []
    options_of_sources(configured(conf=conf), lines.append)
    assert [warning in line for line in lines] == [True] * bool(warning)


@pytest.mark.parametrize(
    ("name", "value"), [("http_protocols", "h2,h1"), ("http2_cleartext", "on"), ("protocol", "uwsgi")]
)
def test_a_setting_whose_absence_a_client_could_notice_is_refused(name: str, value: str) -> None:
    cfg = configured()
    if name not in cfg.settings:
        pytest.skip(f"a setting of a later Gunicorn: {name}")
    refuse_settings(cfg)
    try:
        cfg.set(name, value)
    except Exception as error:
        pytest.skip(f"Gunicorn itself refuses it: {error}")
    with pytest.raises(StartError, match=f"^{name} is .*, which cannot be honoured: rmeinheld speaks HTTP"):
        refuse_settings(cfg)


def test_the_command_line_of_a_program_that_embeds_gunicorn_is_none_of_gunicorns() -> None:
    cfg = configured(RMEINHELD_KEEP_ALIVE="4")
    sys.argv = ["manage.py", "serve", "--nothing-that-gunicorn-knows", "--workers"]
    assert settings_of(cfg).keep_alive == 4.0


def test_the_master_refuses_before_it_starts_a_worker(tmp_path: Path) -> None:
    server = Gunicorn(tmp_path, ("--env", "RMEINHELD_WORKERS=2"))
    try:
        assert server.wait() == 1
        assert "Error: RMEINHELD_WORKERS has no effect here" in server.log()
        assert "Booting worker" not in server.log()
        assert "Traceback" not in server.log()
    finally:
        server.kill()
