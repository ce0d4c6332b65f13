"""Channels between machines, over Redis: a transport whose URL begins with `redis://`, `rediss://` or `unix://`.

`frames` has the signed form of a message, and `numbers` finds gaps, both without input or output. `link` makes
connections of redis-py. Each process has two: `sender` sends commands on one, and `listener` receives on the other.
`transport` joins them, and knows which other processes live.
"""
