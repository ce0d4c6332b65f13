"""Gunicorn's hooks: `pre_request` and `post_request` are called only if the configuration sets them."""

from __future__ import annotations

from typing import Any

__all__ = ["is_hook_set"]


def is_hook_set(cfg: Any, name: str) -> bool:
    """Is the hook `name` set? Its default is a function of Gunicorn's own."""
    hook = cfg.settings[name]
    return hook.get() is not None and hook.get() is not hook.default
