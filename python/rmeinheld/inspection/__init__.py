"""The client's end of the inspect socket: the commands `rmeinheld top`, `rmeinheld ctl` and `rmeinheld dump`.

| module | contents |
|---|---|
| `client` | questions to a server, and its answers |
| `command` | the command line |
| `tables` | answers as text |
| `model` | the state of `top`: rates, selection, what a key does; without a screen |
| `view` | the state of `top` as lines of text |
| `terminal` | the lines on a terminal, by curses |
"""

from __future__ import annotations
