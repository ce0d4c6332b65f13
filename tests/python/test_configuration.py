"""The sources of options: command line, environment, files and WEB_CONCURRENCY; their order, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rmeinheld.application import StartError
from rmeinheld.configuration import Command, Resolved, report
from rmeinheld.configuration.names import KEYS, VARIABLES
from rmeinheld.option_kinds import Switch, Texts
from rmeinheld.settings import OPTIONS, Option

pytestmark = pytest.mark.usefixtures("_in_empty_directory")


@pytest.fixture
def _in_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("__config__", None)


def load(*arguments: str, files: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None) -> Resolved:
    """Read a command line with MODULE:APP, in the test's directory with `files`."""
    for name, text in (files or {}).items():
        Path(name).write_text(text)
    return Command([*arguments, "shop:app"], environ or {}).load()


def refusal(*arguments: str, files: Mapping[str, str], environ: Mapping[str, str]) -> str:
    with pytest.raises(StartError) as caught:
        load(*arguments, files=files, environ=environ)
    return str(caught.value)


def source_of(resolved: Resolved, name: str) -> tuple[object, str]:
    return getattr(resolved.settings, name), resolved.source(name)


# --- each source -----------------------------------------------------------------------------------------------------

OPTIONS_WITH_TEXT = [option for option in OPTIONS.values() if option.environment]

TEXTS = {
    "Account": "www-data",
    "Addresses": "127.0.0.1:8001",
    "Assignments": "COLOUR=red",
    "CertificateNeed": "required",
    "ChannelUrl": "redis://:word@redis.example/1",
    "CollectorUrl": "http://collector.example:4318",
    "Count": "7",
    "Directories": "lib",
    "Directory": "lib",
    "FieldNames": "forwarded",
    "FileName": "file",
    "LogFormat": "%(h)s",
    "Mask": "027",
    "Named": "name",
    "Networks": "192.0.2.1",
    "Origins": "https://shop.example",
    "SchemeFields": "X-PROTO=https",
    "Seconds": "7.5",
    "Session": "ip",
    "Secret": "sixteen-or-more-letters",
    "Size": "64K",
    "Text": "text",
    "Texts": "file",
}
"""A value of each kind that is no default."""


def text_of(option: Option) -> str:
    """Return a value of the option that is not its default, as text."""
    kind: Any = option.kind
    if isinstance(kind, Switch):
        return "0" if option.default else "1"
    if type(kind).__name__ == "Choice":
        return str(next(word for word in kind.words if word != option.default))
    if option.name == "stack_size":
        return "512K"
    if option.name == "websocket_max_queue_size":
        return "7"
    return TEXTS[type(kind).__name__]


# These need a second option, and --config a file.
NOT_ALONE = {"ca_certs", "cert_reqs", "ciphers", "keyfile", "ready_workers", "config"}


@pytest.mark.parametrize("option", OPTIONS_WITH_TEXT, ids=lambda option: option.name)
def test_every_option_has_the_same_value_from_each_source(option: Option, tmp_path: Path) -> None:
    more = {"RMEINHELD_CERTFILE": "file", "RMEINHELD_WORKERS": "9"} if option.name in NOT_ALONE else {}
    if option.name == "config":
        (tmp_path / "file").write_text("keep_alive = 1\n")
        assert source_of(load(environ={"RMEINHELD_CONFIG": "file"}), "keep_alive") == (1.0, "file: keep_alive")
        return
    text, name = text_of(option), option.name
    variable = load(environ={option.environment: text, **more})
    value = getattr(variable.settings, name)
    assert value != option.default
    assert variable.source(name) == option.environment
    if option.flags:
        on = text == "1" or not isinstance(option.kind, Switch)
        dashed = "--" + ("" if on else "no-") + name.replace("_", "-")
        flags = [dashed] if isinstance(option.kind, Switch) else [dashed, text]
        assert source_of(load(*flags, environ=more), name) == (value, dashed)
        by_gunicorn = load(environ={"GUNICORN_CMD_ARGS": " ".join(flags), **more})
        assert source_of(by_gunicorn, name) == (value, f"GUNICORN_CMD_ARGS: {dashed}")
    quoted = f'"{text}"' if not isinstance(option.kind, Switch) else ("true" if text == "1" else "false")
    toml = load(files={"rmeinheld.toml": f"{name} = {quoted}\n"}, environ=more)
    assert source_of(toml, name) == (value, f"rmeinheld.toml: {name}")
    (tmp_path / "rmeinheld.toml").unlink()
    project = load(files={"pyproject.toml": f"[tool.rmeinheld]\n{name} = {quoted}\n"}, environ=more)
    assert source_of(project, name) == (value, f"pyproject.toml: tool.rmeinheld.{name}")
    if name not in ("env", "pid"):
        literal = repr(text) if not isinstance(option.kind, Switch) else str(text == "1")
        file = load("-c", "conf.py", files={"conf.py": f"{name} = {literal}\n"}, environ=more)
        assert source_of(file, name) == (value, f"conf.py: {name}")


@pytest.mark.parametrize("name", sorted(set(KEYS) - set(OPTIONS)))
def test_a_second_name_of_an_option_is_the_option(name: str, tmp_path: Path) -> None:
    option = KEYS[name]
    text = text_of(option)
    assert VARIABLES["RMEINHELD_" + name.upper()] is option
    value = getattr(load(environ={"RMEINHELD_" + name.upper(): text}).settings, option.name)
    assert value != option.default
    key = name.replace("_", "-")
    flags = [f"--{key}"] if isinstance(option.kind, Switch) else [f"--{key}", text]
    assert getattr(load(*flags).settings, option.name) == value
    assert getattr(load(files={"rmeinheld.toml": f'{key} = "{text}"\n'}).settings, option.name) == value


TYPED = [
    ("keep_alive = 10", "keep_alive", 10.0),
    ("limit_request_body = 1048576", "limit_request_body", 1048576),
    ("umask = 0o027", "umask", 0o27),
    ("bind = ['127.0.0.1:1', '127.0.0.1:2']", "bind", ("127.0.0.1:1", "127.0.0.1:2")),
    ("bind = '127.0.0.1:1'", "bind", ("127.0.0.1:1",)),
    ("forwarded_allow_ips = ['192.0.2.1', '10.0.0.0/8']", "forwarded_allow_ips", ("192.0.2.1", "10.0.0.0/8")),
    ("proxy_protocol = true", "proxy_protocol", "auto"),
    ("env = {COLOUR = 'red'}", "env", ("COLOUR=red",)),
    ("secure_scheme_headers = {X-PROTO = 'https'}", "secure_scheme_headers", (("X-PROTO", "https"),)),
    ("cert_reqs = 2\ncertfile = 'c'", "cert_reqs", 2),
    ("user = 1000", "user", "1000"),
]


@pytest.mark.parametrize(("text", "name", "value"), TYPED)
def test_toml_may_use_its_own_types(text: str, name: str, value: object) -> None:
    assert getattr(load(files={"rmeinheld.toml": text}).settings, name) == value


def test_a_python_file_is_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    conf = """
import os
from rmeinheld import patch, timeout as time_limit
env = os.environ.get("ENV", "dev")
pid = 7
cores = 2
workers = cores + 1
bind = ["127.0.0.1:%d" % (8000 + i) for i in range(2)]
keepalive = os.environ.get("NOTHING", "3")
raw_env = ["COLOUR=red"]
pidfile = "file"
accesslog = None
secure_scheme_headers = {"X-PROTO": "https"}
worker_class = "rmeinheld.gunicorn_worker.Worker"
websocket_ping_interval = 20
"""
    resolved = load("--config", "conf.py", files={"conf.py": conf})
    settings = resolved.settings
    assert (settings.workers, settings.keep_alive, settings.websocket_ping_interval) == (3, 3.0, 20.0)
    assert settings.bind == ("127.0.0.1:8000", "127.0.0.1:8001")
    assert (settings.env, settings.pid, settings.patch) == (("COLOUR=red",), "file", True)
    assert capsys.readouterr().err == ""
    assert sys.modules["__config__"].cores == 2


def test_a_module_can_hold_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shop_settings_of_test.py").write_text("keepalive = 3\n")
    found = source_of(load("-c", "python:shop_settings_of_test"), "keep_alive")
    assert found == (3.0, "python:shop_settings_of_test: keepalive")


def test_words_of_a_variable_are_divided_as_in_a_shell() -> None:
    resolved = load(environ={"RMEINHELD_BIND": "127.0.0.1:1 'unix:a b'", "RMEINHELD_ENV": "A=1 'B=2 3'"})
    assert resolved.settings.bind == ("127.0.0.1:1", "unix:a b")
    assert resolved.settings.env == ("A=1", "B=2 3")


def test_the_application_may_stand_in_any_source() -> None:
    assert Command([], {"RMEINHELD_WSGI_APP": "shop"}).load().target == "shop"
    assert Command([], {"GUNICORN_CMD_ARGS": "-t 9 shop"}).load().target == "shop"
    Path("rmeinheld.toml").write_text("wsgi_app = 'shop:app'\n")
    assert Command([], {}).load().target == "shop:app"
    assert Command(["mine"], {}).load().target == "mine"


# --- the order -------------------------------------------------------------------------------------------------------

SOURCES: dict[str, tuple[list[str], dict[str, str], dict[str, str]]] = {
    "command line": (["--workers", "2"], {}, {}),
    "environment": ([], {"RMEINHELD_WORKERS": "3"}, {}),
    "file": ([], {}, {"rmeinheld.toml": "workers = 4\n"}),
    "WEB_CONCURRENCY": ([], {"WEB_CONCURRENCY": "5"}, {}),
    "default": ([], {}, {}),
}
"""Sources of one option, from the one that wins to the one that loses: arguments, environment, files."""


@pytest.mark.parametrize("loser", SOURCES)
@pytest.mark.parametrize("winner", SOURCES)
def test_of_two_sources_the_higher_one_wins(winner: str, loser: str) -> None:
    order = list(SOURCES)
    if order.index(winner) > order.index(loser):
        winner, loser = loser, winner
    arguments: list[str] = []
    environ: dict[str, str] = {}
    files: dict[str, str] = {}
    for name in {winner, loser}:
        more = SOURCES[name]
        arguments += more[0]
        environ |= more[1]
        files |= more[2]
    expected = {"command line": 2, "environment": 3, "file": 4, "WEB_CONCURRENCY": 5, "default": 1}
    assert load(*arguments, files=files, environ=environ).settings.workers == expected[winner]


def test_only_one_file_is_read() -> None:
    files = {"rmeinheld.toml": "keep_alive = 1\nbacklog = 5\n", "other.toml": "keep_alive = 2\n"}
    resolved = load("--config", "other.toml", files=files)
    assert (resolved.settings.keep_alive, resolved.settings.backlog) == (2.0, 2048)


def test_a_gunicorn_conf_py_that_is_not_named_is_not_read() -> None:
    resolved = load(files={"gunicorn.conf.py": "workers = 4\nraise SystemExit\n"})
    assert (resolved.settings.workers, resolved.reasons) == (1, ())


def test_a_pyproject_of_other_programs_is_not_read() -> None:
    assert load(files={"pyproject.toml": "[tool.other]\nworkers = 3\n"}).settings.workers == 1
    assert load(files={"pyproject.toml": "is = broken = toml\n"}).settings.workers == 1


def test_a_reload_reads_the_file_again_from_the_first_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rmeinheld.toml").write_text("keep_alive = 1\n")
    command = Command(["shop"], {})
    assert command.load().settings.keep_alive == 1.0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "rmeinheld.toml").write_text("keep_alive = 2\n")
    assert command.load().settings.keep_alive == 2.0


# --- one process, or the arbiter -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "environ", "files", "reasons"),
    [
        ([], {}, {}, ()),
        (["-w", "1", "--timeout", "30", "--replace-first", "--max-requests", "0", "--no-preload"], {}, {}, ()),
        ([], {"WEB_CONCURRENCY": "1"}, {}, ()),
        ([], {"RMEINHELD_KEEP_ALIVE": "1", "RMEINHELD_PATCH": "0"}, {"rmeinheld.toml": "backlog = 5"}, ()),
        (["-c", "c.py"], {}, {"c.py": "keepalive = 3\ndirty_apps = []\nworker_class = 'gunicorn_worker'"}, ()),
        (["-w2"], {}, {}, ("workers = 2 (--workers)",)),
        ([], {"WEB_CONCURRENCY": "4"}, {}, ("workers = 4 (WEB_CONCURRENCY)",)),
        (["--reload"], {}, {}, ("reload = True (--reload)",)),
        ([], {}, {"rmeinheld.toml": "max_requests = 9"}, ("max_requests = 9 (rmeinheld.toml: max_requests)",)),
        (["-c", "c.py"], {}, {"c.py": "def pre_fork(server, worker): ..."}, ("pre_fork (c.py: pre_fork)",)),
    ],
)
def test_the_values_decide_whether_the_arbiter_starts(
    arguments: list[str], environ: dict[str, str], files: dict[str, str], reasons: tuple[str, ...]
) -> None:
    assert load(*arguments, files=files, environ=environ).reasons == reasons


def test_workers_change_no_default() -> None:
    pytest.importorskip("gunicorn")
    alone, service = load(), load("-w", "2")
    changed = {name for name, value in service.options.items() if value != alone.options[name]}
    assert changed == {"workers", "multiprocess"}
    # Gunicorn's own code sees our defaults, too.
    settings = service.gunicorn
    assert (settings["workers"], settings["timeout"], settings["graceful_timeout"]) == (2, 30, 30)
    assert (settings["backlog"], settings["loglevel"], settings["bind"]) == (2048, "info", ["127.0.0.1:8000"])


def test_settings_of_gunicorn_have_gunicorns_names_and_forms() -> None:
    config = pytest.importorskip("gunicorn.config")
    conf = "def post_fork(server, worker): ...\nlogconfig_dict = {'version': 1}\n"
    flags = ["--graceful-timeout", "2.5", "--pid", "p", "-e", "A=b", "-m", "027", "--bind", "8001", "-c", "c.py"]
    resolved = load("-w2", *flags, files={"c.py": conf})
    settings = resolved.gunicorn
    expected = {"graceful_timeout": 3, "pidfile": "p", "raw_env": ["A=b"], "umask": 0o27, "bind": ["127.0.0.1:8001"]}
    assert {name: settings[name] for name in expected} == expected
    assert settings["logconfig_dict"] == {"version": 1}
    assert settings["post_fork"].__name__ == "post_fork"
    assert set(settings) <= set(config.make_settings())
    assert settings.get("control_socket_disable", True) is True


# --- refusals --------------------------------------------------------------------------------------------------------

SAME = "but they are the same option; give only one value"

CONFLICTS: list[tuple[list[str], dict[str, str], dict[str, str], str]] = [
    (["--keep-alive", "1", "--keepalive", "2"], {}, {}, f"--keep-alive is 1.0 and --keepalive is 2.0, {SAME}"),
    (["--workers", "1", "-w", "2"], {}, {}, f"--workers is 1 and --workers is 2, {SAME}"),
    (["--patch", "--no-patch"], {}, {}, f"--patch is True and --no-patch is False, {SAME}"),
    (
        [],
        {"RMEINHELD_LOG_LEVEL": "debug", "RMEINHELD_LOGLEVEL": "info"},
        {},
        f"RMEINHELD_LOG_LEVEL is 'debug' and RMEINHELD_LOGLEVEL is 'info', {SAME}",
    ),
    (
        [],
        {"RMEINHELD_WORKERS": "2", "GUNICORN_CMD_ARGS": "--workers 3"},
        {},
        f"RMEINHELD_WORKERS is 2 and GUNICORN_CMD_ARGS: --workers is 3, {SAME}",
    ),
    (
        [],
        {},
        {"rmeinheld.toml": "keep_alive = 1\nkeepalive = 2"},
        f"rmeinheld.toml: keep_alive is 1.0 and rmeinheld.toml: keepalive is 2.0, {SAME}",
    ),
    (
        ["-c", "c.py"],
        {},
        {"c.py": "keep_alive = 1\nkeepalive = 2"},
        f"c.py: keep_alive is 1.0 and c.py: keepalive is 2.0, {SAME}",
    ),
    (
        [],
        {},
        {"rmeinheld.toml": "", "pyproject.toml": "[tool.rmeinheld]"},
        "both rmeinheld.toml and [tool.rmeinheld] of pyproject.toml have settings; keep one place",
    ),
]

NEAR_MISSES: list[tuple[list[str], dict[str, str], dict[str, str], str]] = [
    (["--worker", "2"], {}, {}, "unknown argument '--worker'; did you mean '--workers'?"),
    ([], {"RMEINHELD_WORKER": "2"}, {}, "'RMEINHELD_WORKER', which is no option of rmeinheld; did you mean "
     "'RMEINHELD_WORKERS'?"),
    ([], {"RMEINHELD_NO_PATCH": "1"}, {}, "did you mean 'RMEINHELD_PATCH'?"),
    ([], {"RMEINHELD_PORT": "8000"}, {}, "did you mean 'RMEINHELD_BIND'?"),
    ([], {"RMEINHELD_XYZZY": ""}, {}, "'RMEINHELD_XYZZY', which is no option of rmeinheld (rmeinheld --print-config"),
    ([], {"RMEINHELD_ACCESS_LOGGER": "x"}, {}, "did you mean 'RMEINHELD_ACCESS_LOG'?"),
    ([], {}, {"rmeinheld.toml": "worker = 2"}, "rmeinheld.toml has the unknown key 'worker'; did you mean 'workers'?"),
    ([], {}, {"rmeinheld.toml": "no_patch = true"}, "unknown key 'no_patch'; did you mean 'patch'?"),
    ([], {}, {"rmeinheld.toml": "post_fork = 'x'"}, "unknown key 'post_fork'; a hook can stand in a Python file only"),
    (
        [],
        {},
        {"pyproject.toml": "[tool.rmeinheld]\nkeepalives = 2"},
        "pyproject.toml: tool.rmeinheld has the unknown key 'keepalives'; did you mean 'keepalive'?",
    ),
]  # fmt: skip

BAD_VALUES: list[tuple[list[str], dict[str, str], dict[str, str], str]] = [
    ([], {"RMEINHELD_WORKERS": "many"}, {}, "RMEINHELD_WORKERS must be an integer from 1 to 1024, not 'many'"),
    ([], {"WEB_CONCURRENCY": "0"}, {}, "WEB_CONCURRENCY must be an integer from 1 to 1024, not 0"),
    ([], {"RMEINHELD_PATCH": "perhaps"}, {}, "RMEINHELD_PATCH must be 1 or 0, not 'perhaps'"),
    ([], {"RMEINHELD_BIND": "'"}, {}, 'RMEINHELD_BIND must be words as in a shell, not "\'"'),
    ([], {"GUNICORN_CMD_ARGS": "--backlog 0"}, {}, "GUNICORN_CMD_ARGS: --backlog must be an integer from 1"),
    ([], {"GUNICORN_CMD_ARGS": "--backlogs 0"}, {}, "GUNICORN_CMD_ARGS: unknown argument '--backlogs'"),
    ([], {}, {"rmeinheld.toml": "backlog = 0"}, "rmeinheld.toml: backlog must be an integer from 1 to 65535, not 0"),
    ([], {}, {"rmeinheld.toml": "backlog = true"}, "rmeinheld.toml: backlog must be an integer from 1 to 65535, not"),
    ([], {}, {"rmeinheld.toml": "bind = [1]"}, "rmeinheld.toml: bind must be an address or a sequence of addresses"),
    ([], {}, {"rmeinheld.toml": "x = "}, "rmeinheld.toml is no TOML file: "),
    ([], {}, {"rmeinheld.toml": "config = 'x'"}, "rmeinheld.toml: config: a file of settings cannot name another one"),
    ([], {}, {"rmeinheld.toml": "ssl_context = 'x'"}, "rmeinheld.toml: ssl_context is a function; it can stand in"),
    (["-c", "c.toml"], {}, {}, "c.toml': No such file or directory"),
    (["-c", "c.py"], {}, {}, "there is no file '"),
    (["-c", "c.py"], {}, {"c.py": "backlog = 'x'"}, "c.py: backlog must be an integer from 1 to 65535, not 'x'"),
    (["-c", "c.py"], {}, {"c.py": "1 / 0"}, "c.py failed: ZeroDivisionError: division by zero"),
    (["-c", "c.py"], {}, {"c.py": "raise SystemExit(3)"}, "c.py failed: SystemExit: 3"),
    (["-c", "python:no.such"], {}, {}, "python:no.such failed: ModuleNotFoundError: "),
    (["-k", "gthread"], {}, {}, "-k is 'gthread', which cannot be honoured: rmeinheld runs its own worker only"),
    (["-c", "c.py"], {}, {"c.py": "worker_class = 'gevent'"}, "c.py: worker_class is 'gevent', which cannot be"),
    (["-c", "c.py"], {}, {"c.py": "http_protocols = 'h2,h1'"}, "c.py: http_protocols is 'h2,h1', which cannot be"),
    (["--http2-cleartext", "on"], {}, {}, "--http2-cleartext is 'on', which cannot be honoured: rmeinheld speaks"),
    (["--keyfile", "k"], {}, {}, "keyfile needs certfile: without it the server does not speak TLS (keyfile is from"),
    ([], {"RMEINHELD_CERT_REQS": "required"}, {}, "cert_reqs needs certfile: without it the server does not speak TLS"),
    (
        ["--ready-workers", "3", "-w2"],
        {},
        {},
        "ready_workers must be at most workers (2), not 3 (ready_workers is",
    ),
    (["-e", "RMEINHELD_PATCH=0"], {}, {}, "--env sets 'RMEINHELD_PATCH', which is read before; write the option"),
    (["--trusted-proxy-headers", "forwarded,x-forwarded-for"], {}, {}, "(trusted_proxy_headers is from --trusted-"),
]


@pytest.mark.parametrize(("arguments", "environ", "files", "sentence"), [*CONFLICTS, *NEAR_MISSES, *BAD_VALUES])
def test_a_refusal_names_the_setting_the_value_and_the_source(
    arguments: list[str], environ: dict[str, str], files: dict[str, str], sentence: str
) -> None:
    assert sentence in refusal(*arguments, files=files, environ=environ)


@pytest.mark.parametrize(
    "environ",
    [
        {"RMEINHELD_PORT": "tcp://10.0.0.1:80", "RMEINHELD_PORT_80_TCP_ADDR": "10.0.0.1"},
        {"RMEINHELD_SERVICE_HOST": "10.0.0.1", "RMEINHELD_SERVICE_PORT": "80"},
        {"RMEINHELD_WORKERS": "", "WEB_CONCURRENCY": "", "RMEINHELD_PATCH": ""},
        {"RMEINHELD_WORKERS": "1", "GUNICORN_CMD_ARGS": "-w 1"},
    ],
)
def test_variables_that_mean_nothing_are_no_error(environ: dict[str, str]) -> None:
    settings = load(environ=environ).settings
    assert (settings.workers, settings.patch) == (1, True)


@pytest.mark.parametrize(
    ("conf", "warning"),
    [
        ("worker = 2", "c.py has the global 'worker', which is no setting; did you mean 'workers'?"),
        ("keepalives = 2", "c.py has the global 'keepalives', which is no setting; did you mean 'keepalive'?"),
        ("def post_forks(server, worker): ...", "'post_forks', which is no setting; did you mean 'post_fork'?"),
        ("worker = 2\nworkers = worker - 1", ""),
        ("_workers = 1\nmax_workers = 2\nhost = 'a'\nport = 8000\nimport os\ndef helper(): ...", ""),
    ],
)
def test_a_near_miss_in_a_python_file_is_a_warning(conf: str, warning: str, capsys: pytest.CaptureFixture[str]) -> None:
    load("-c", "c.py", files={"c.py": conf})
    said = capsys.readouterr().err
    assert warning in said if warning else said == ""


def test_a_setting_that_an_older_gunicorn_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    config = pytest.importorskip("gunicorn.config")
    make_settings = config.make_settings
    monkeypatch.setattr(
        config,
        "make_settings",
        lambda *_: {name: one for name, one in make_settings().items() if name != "control_socket"},
    )
    resolved = load("-w2", "--control-socket", "path")
    with pytest.raises(StartError, match=r"^--control-socket needs a newer Gunicorn; this is "):
        _ = resolved.gunicorn


def test_what_gunicorn_refuses_names_the_source() -> None:
    pytest.importorskip("gunicorn")
    resolved = load("-w2", "--chdir", "missing")
    with pytest.raises(StartError, match=r"^--chdir: Gunicorn refuses '.*missing'"):
        _ = resolved.gunicorn


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_has_each_setting_with_its_value_and_its_source() -> None:
    resolved = load(
        "-w2", "--umask", "27", "-c", "c.py", files={"c.py": "bind = ['a:1', 'b:2']\ndef on_exit(server): ..."},
        environ={"RMEINHELD_KEEP_ALIVE": "2.5"},
    )  # fmt: skip
    lines = {line.split()[0]: line.split(None, 2)[1:] for line in report(resolved).splitlines() if line}
    assert set(OPTIONS) - set(lines) == {option.name for option in OPTIONS.values() if option.scope == "run"}
    assert lines["setting"] == ["value", "source"]
    assert lines["workers"] == ["2", "--workers"]
    assert lines["keep_alive"] == ["2.5", "RMEINHELD_KEEP_ALIVE"]
    assert lines["bind"] == ["a:1,b:2", "c.py: bind"]
    assert lines["umask"] == ["027", "--umask"]
    assert lines["on_exit"] == ["on_exit", "c.py: on_exit"]
    assert lines["max_requests"] == ["0", "default"]
    assert lines["certfile"] == ["-", "default"]
    assert lines["patch"] == ["on", "default"]
    assert report(resolved).endswith(
        "Gunicorn's arbiter starts 2 workers, because of workers = 2 (--workers); on_exit (c.py: on_exit)."
    )
    assert report(load()).endswith("\nOne process serves, without Gunicorn.")


def test_a_repeated_flag_adds_a_value() -> None:
    assert [option.name for option in OPTIONS.values() if isinstance(option.kind, Texts) and option.flags] == [
        "bind", "reload_extra_files", "env",
    ]  # fmt: skip
    resolved = load("-b", "a:1", "--bind", "b:2", "--reload-extra-file", "x", "--reload-extra-files", "y")
    assert (resolved.settings.bind, resolved.settings.reload_extra_files) == (("a:1", "b:2"), ("x", "y"))
