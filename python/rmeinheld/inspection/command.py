"""The commands `rmeinheld top`, `rmeinheld ctl` and `rmeinheld dump`, which look into a running server."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

from ..application import StartError
from .client import VERSION, Answer, Asker, Client, InspectError
from .model import Top, measures
from .tables import REQUEST_COLUMNS, clean, outcome_of_kill, request_row, table, worker_table

__all__ = ["main", "parser_of"]

LEVELS: Final = ("debug", "info", "warning", "error", "critical")

IDS: Final = """\
An ID, as 0-1-42, has the worker's slot, the generation of the slot, and the number of the work in that worker.
No other request of the service ever has the same ID. "ctl requests" and "top" show IDs."""

CTL: Final = f"""\
questions and orders:
  workers           all workers: state, age, requests, connections, the running turn of the loop, memory;
                    with --sticky, its place, and connections that went out, came in, or could not go
  requests          the requests in progress, the oldest first; with --all, all coroutines
  stack ID          the Python stack of one request or coroutine
  kill ID           end one request where it is: the client gets 504, or a reset if the response has begun.
                    A request that has just ended stays as it is, and no other request is touched
  reload            load the service anew, as SIGHUP to the master does. A single process cannot
  log-level LEVEL   set the level of the error log of all workers: {", ".join(LEVELS)}.
                    Workers that start later have the configured level

{IDS}

exit status:
  0   done
  1   no server answers, or it refuses; one line on standard error says why

examples:
  rmeinheld ctl --inspect-socket /run/shop/inspect.sock requests
  rmeinheld ctl kill 2-1-8841
  rmeinheld ctl workers --json
"""

TOP: Final = f"""\
keys:
  Up, Down, Page Up, Page Down   choose a request
  Enter                          its Python stack
  k                              end it, after a confirmation: the client gets 504
  a                              all coroutines instead of the requests alone
  q                              leave

{IDS}
"""

SOCKET: Final = """\
The socket is that of --inspect-socket, or of the environment variable RMEINHELD_INSPECT_SOCKET, or of
rmeinheld.toml or pyproject.toml in the current directory."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise StartError(f"{message} ({self.prog} --help explains it)")


def main(words: Sequence[str]) -> int:
    """Run the command `words[0]` with the other words as its arguments, and return the exit status.

    Raises StartError for a fault of the arguments, or if no server answers.
    """
    arguments = parser_of(words[0]).parse_args(words[1:])
    asker = Client(_path(arguments.inspect_socket))
    try:
        print_lines: Callable[[Asker, argparse.Namespace], None] = arguments.action
        print_lines(asker, arguments)
        sys.stdout.flush()
    except InspectError as error:
        raise StartError(clean(error)) from None
    except BrokenPipeError:
        # A reader such as head(1) has read enough. The interpreter would write the rest again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    return 0


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser of the arguments behind a command's name."""
    makers = {"top": _top_parser, "ctl": _ctl_parser, "dump": _dump_parser}
    return makers[name]()


def _make(name: str, description: str, epilog: str, usage: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"rmeinheld {name}",
        usage=usage,
        description=f"{description} {SOCKET}",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_socket(parser, None)
    return parser


def _add_socket(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument("--inspect-socket", metavar="FILE", default=default, help="The socket of the server.")


def _top_parser() -> argparse.ArgumentParser:
    parser = _make("top", "Show all workers and requests of a server.", TOP, "rmeinheld top [OPTIONS]")
    parser.add_argument(
        "--interval", type=_interval, default=1.0, metavar="SECONDS", help="Time between two looks. [1]"
    )
    parser.add_argument("--once", action="store_true", help="Print one look and leave.")
    parser.add_argument("--json", action="store_true", help="With --once: print JSON.")
    parser.add_argument("--all", action="store_true", help="Show all coroutines, not the requests alone.")
    parser.set_defaults(action=_top)
    return parser


def _ctl_parser() -> argparse.ArgumentParser:
    usage = "rmeinheld ctl [OPTIONS] workers|requests|stack ID|kill ID|reload|log-level LEVEL"
    parser = _make("ctl", "Ask a running server, or give it an order.", CTL, usage)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", help="see below")
    shared = argparse.ArgumentParser(add_help=False)
    _add_socket(shared, argparse.SUPPRESS)
    shared.add_argument("--json", action="store_true", help="Print the answer of the server, as JSON.")

    def add(name: str, action: Callable[[Asker, argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=[shared], description=text, help=text)
        command.set_defaults(action=action)
        return command

    add("workers", _workers, "List all workers.")
    add("requests", _requests, "List the requests in progress.").add_argument("--all", action="store_true")
    for name, action, text in (("stack", _stack, "Show a Python stack."), ("kill", _kill, "End one request.")):
        command = add(name, action, text)
        command.add_argument("id", metavar="ID")
        if name == "stack":
            command.add_argument("--locals", action="store_true", help="Show local variables, too.")
    add("reload", _reload, "Load the service anew.")
    add("log-level", _log_level, "Set the level of the error log.").add_argument(
        "level", metavar="LEVEL", choices=LEVELS
    )
    return parser


def _dump_parser() -> argparse.ArgumentParser:
    parser = _make("dump", "Print the coroutines of all workers with their stacks.", IDS, "rmeinheld dump [OPTIONS]")
    parser.add_argument("--locals", action="store_true", help="Show local variables, too.")
    parser.add_argument("--json", action="store_true", help="Print the answer of the server, as JSON.")
    parser.set_defaults(action=_dump)
    return parser


def _interval(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"the interval is from 0.1 to 3600 seconds, not {text}")
    return seconds


def _path(given: str | None) -> str:
    if given:
        return given
    from ..configuration import Command

    path = Command(["--print-config"]).load().settings.inspect_socket
    if path is None:
        raise StartError("where does the server listen? Name its socket by --inspect-socket")
    return path


# --- the commands ----------------------------------------------------------------------------------------------------


def _print(answer: Answer, arguments: argparse.Namespace, lines: Callable[[], Sequence[str]]) -> None:
    if arguments.json:
        print(json.dumps(answer, indent=2))
    else:
        print("\n".join(lines()))


def _top(asker: Asker, arguments: argparse.Namespace) -> None:
    top = Top(asker)
    top.shows_all = arguments.all
    if arguments.once:
        _print_once(top, asker, arguments)
        return
    if arguments.json:
        raise StartError("--json needs --once")
    try:
        import curses  # noqa: F401
    except ImportError:
        raise StartError("this Python has no curses; rmeinheld top --once prints one look") from None
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise StartError("top needs a terminal; rmeinheld top --once prints one look")
    # A wrong path is an error before the screen is cleared.
    asker.ask("workers")
    from .terminal import run

    run(top, arguments.interval)


def _print_once(top: Top, asker: Asker, arguments: argparse.Namespace) -> None:
    before = asker.ask("workers")
    begun = time.monotonic()
    # A rate needs two looks.
    time.sleep(min(arguments.interval, 1.0))
    state, listed = asker.ask("workers"), asker.ask("requests", all=top.shows_all)
    earlier = begun, before.get("service", {})
    derived = measures(state.get("service", {}), state.get("workers", ()), earlier, time.monotonic())
    if arguments.json:
        kept = {"service": state["service"], "workers": state["workers"], "measures": derived}
        print(json.dumps({**kept, "requests": listed["requests"], "unanswered": listed["unanswered"]}, indent=2))
        return
    top.workers, top.service, top.measures = state["workers"], state["service"], derived
    from .view import summary

    print("\n".join([*summary(top), "", *_worker_lines(state), "", *_request_lines(listed)]))


def _worker_lines(answer: Mapping[str, Any]) -> list[str]:
    return worker_table(answer["workers"])


def _request_lines(answer: Mapping[str, Any]) -> list[str]:
    missing = [
        f"no answer from worker {one.get('slot')}-{one.get('generation')}: {clean(one.get('error'))}"
        for one in answer.get("unanswered", ())
    ]
    return [*table(REQUEST_COLUMNS, map(request_row, answer["requests"])), *missing]


def _workers(asker: Asker, arguments: argparse.Namespace) -> None:
    answer = asker.ask("workers")
    _print(answer, arguments, lambda: _worker_lines(answer))


def _requests(asker: Asker, arguments: argparse.Namespace) -> None:
    answer = asker.ask("requests", all=arguments.all)
    _print(answer, arguments, lambda: _request_lines(answer))


def _stack(asker: Asker, arguments: argparse.Namespace) -> None:
    answer = asker.ask("stack", id=arguments.id, locals=arguments.locals)
    _print(answer, arguments, lambda: [clean(line) for line in str(answer.get("stack", "")).splitlines()])


def _kill(asker: Asker, arguments: argparse.Namespace) -> None:
    answer = asker.ask("kill", id=arguments.id)
    _print(answer, arguments, lambda: [clean(outcome_of_kill(arguments.id, answer))])


def _reload(asker: Asker, arguments: argparse.Namespace) -> None:
    try:
        answer = asker.ask("reload")
    except InspectError as error:
        # A worker with a user of its own may not signal the master. This process may.
        master = error.answer.get("master")
        if not isinstance(master, int) or master <= 1:
            raise
        try:
            os.kill(master, signal.SIGHUP)
        except OSError:
            raise error from None
        answer = {"rmeinheld": VERSION, "ok": True, "master": master}
    _print(answer, arguments, lambda: [f"the master (process {answer.get('master')}) loads the service anew"])


def _log_level(asker: Asker, arguments: argparse.Namespace) -> None:
    answer = asker.ask("log-level", level=arguments.level)
    number = len(answer.get("workers", ()))
    _print(answer, arguments, lambda: [f"the error log has the level {arguments.level} in {number} workers"])


def _dump(asker: Asker, arguments: argparse.Namespace) -> None:
    try:
        answer = asker.ask("dump", locals=arguments.locals)
    except InspectError as error:
        # Some workers may have answered.
        if not error.answer.get("workers"):
            raise
        answer = error.answer
    _print(answer, arguments, lambda: [line for worker in answer["workers"] for line in _dump_lines(worker)])


def _dump_lines(worker: Mapping[str, Any]) -> list[str]:
    title = f"=== worker {worker.get('slot')}-{worker.get('generation')} (process {worker.get('pid')})"
    if worker.get("ok"):
        return [title, *(clean(line) for line in str(worker.get("dump", "")).splitlines()), ""]
    known = table(REQUEST_COLUMNS, map(request_row, worker["requests"])) if worker.get("requests") else []
    return [title, f"no stacks: {clean(worker.get('error'))}", *known, ""]
