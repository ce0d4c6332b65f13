"""The process."""

from __future__ import annotations

from ..option_kinds import Account, Assignments, Choice, Directories, Directory, FileName, Named, Switch
from .option import option


class ProcessOptions:
    """Options of the group Process."""

    wsgi_app: str | None = option(
        None,
        Named("MODULE:APP", "MODULE:APP"),
        group="Process",
        help="The application, if the command line does not name it.",
        precedent="Gunicorn wsgi_app",
        gunicorn="wsgi_app",
        master=True,
        scope="command",
    )
    patch: bool = option(
        True,
        Switch(),
        "--patch",
        "--no-patch",
        group="Process",
        help="Patch the standard library before the application is imported (rmeinheld.patch.patch_all), so that its "
        "waits let other requests run.",
        precedent="Gunicorn's gevent worker always patches",
        plain=True,
        scope="command",
    )
    dump_signal: str = option(
        "usr2",
        Choice(("usr2", "urg", "io", "prof", "pwr", "none"), what="SIGNAL"),
        "--dump-signal",
        group="Process",
        help="Signal that writes a dump of all coroutines, with their stacks, to the error log's file or to standard "
        "error: usr2, urg, io, prof, pwr or none. It is sent to a worker: a master keeps SIGUSR2 for its upgrade.",
        precedent="none; Python's faulthandler.register has no default",
        scope="server",
    )
    chdir: str | None = option(
        None,
        Directory(),
        "--chdir",
        group="Process",
        help="Change to this directory before the application is imported.",
        precedent="Gunicorn chdir",
        gunicorn="chdir",
        scope="command",
        master=True,
    )
    pythonpath: str | None = option(
        None,
        Directories(),
        "--pythonpath",
        group="Process",
        help="Directories, separated by commas, to insert at the front of sys.path.",
        precedent="Gunicorn pythonpath",
        gunicorn="pythonpath",
        scope="command",
        master=True,
    )
    root_path: str | None = option(
        None,
        Named("a path", "PATH"),
        "--root-path",
        group="Process",
        help="Path at which the application is mounted: SCRIPT_NAME. It is removed from the path of a request if it is "
        "there.",
        precedent="Gunicorn root_path, the environment variable SCRIPT_NAME",
        gunicorn="root_path",
        scope="command",
    )
    env: tuple[str, ...] = option(
        (),
        Assignments(),
        "-e",
        "--env",
        group="Process",
        help="Environment variable to set before the application is imported. May be repeated.",
        precedent="Gunicorn raw_env, --env",
        gunicorn="raw_env",
        scope="command",
        master=True,
    )
    pid: str | None = option(
        None,
        FileName(),
        "-p",
        "--pid",
        group="Process",
        help="File that holds the process id while the server runs.",
        precedent="Gunicorn pidfile, --pid",
        gunicorn="pidfile",
        scope="command",
        master=True,
    )
    check_config: bool = option(
        False,
        Switch(),
        "--check-config",
        group="Process",
        help="Check the options, import the application, and exit without serving.",
        precedent="Gunicorn check_config",
        gunicorn="check_config",
        scope="command",
        master=True,
    )
    user: str | None = option(
        None,
        Account("a user name or number", "USER"),
        "-u",
        "--user",
        group="Process",
        help="User, by name or number, to become when sockets and logs are open. The application is imported as that "
        "user.",
        precedent="Gunicorn user",
        gunicorn="user",
        master=True,
        scope="command",
    )
    group: str | None = option(
        None,
        Account("a group name or number", "GROUP"),
        "-g",
        "--group",
        group="Process",
        help="Group, by name or number, to go with it. The default is the user's own group.",
        precedent="Gunicorn group",
        gunicorn="group",
        master=True,
        scope="command",
    )
    initgroups: bool = option(
        True,
        Switch(),
        "--initgroups",
        "--no-initgroups",
        group="Process",
        help="With --user, take on all groups of the user. Without it, only the one group.",
        precedent="Gunicorn initgroups (off)",
        gunicorn="initgroups",
        master=True,
        scope="command",
    )
    proc_name: str | None = option(
        None,
        Named("a name", "NAME"),
        "-n",
        "--name",
        "--proc-name",
        group="Process",
        help="Name of the processes in ps, if setproctitle is installed.",
        precedent="Gunicorn proc_name, --name",
        gunicorn="proc_name",
        master=True,
        scope="service",
    )
    daemon: bool = option(
        False,
        Switch(),
        "-D",
        "--daemon",
        group="Process",
        help="Run in the background.",
        precedent="Gunicorn daemon",
        gunicorn="daemon",
        master=True,
        scope="service",
    )
    config: str | None = option(
        None,
        FileName(),
        "-c",
        "--config",
        group="Process",
        help="File of settings: a TOML file, or a Python file such as gunicorn.conf.py. It is read instead of "
        "rmeinheld.toml and pyproject.toml.",
        precedent="Gunicorn config",
        gunicorn="config",
        master=True,
        scope="command",
    )
    print_config: bool = option(
        False,
        Switch(),
        "--print-config",
        group="Process",
        help="Print each setting with its value and its source, and exit.",
        precedent="Gunicorn print_config",
        gunicorn="print_config",
        master=True,
        scope="command",
    )
