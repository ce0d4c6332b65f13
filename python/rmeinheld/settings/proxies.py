"""Trusted proxies, and the fields in which they describe their clients."""

from __future__ import annotations

from ..option_kinds import Choice, FieldNames, Networks, SchemeFields, Switch
from .option import option


class ProxyOptions:
    """Options of the group Behind a proxy."""

    forwarded_allow_ips: tuple[str, ...] = option(
        (),
        Networks(),
        "--forwarded-allow-ips",
        group="Behind a proxy",
        help="Addresses and networks of the proxies that are trusted to speak for other clients, separated by commas; "
        "'*' is all peers. If there is one, peers on Unix sockets are trusted, too. By default no peer is trusted.",
        precedent="Gunicorn forwarded_allow_ips (127.0.0.1,::1)",
        gunicorn="forwarded_allow_ips",
    )
    trusted_proxy_headers: tuple[str, ...] = option(
        ("x-forwarded-for",),
        FieldNames(known=("x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "forwarded")),
        "--trusted-proxy-headers",
        group="Behind a proxy",
        help="Fields that those proxies set, separated by commas; they must remove all others. x-forwarded-for sets "
        "REMOTE_ADDR, x-forwarded-host and x-forwarded-port set the host. forwarded (RFC 7239) sets these and the "
        "scheme.",
        precedent="Waitress trusted_proxy_headers",
    )
    clear_untrusted_proxy_headers: bool = option(
        True,
        Switch(),
        "--no-clear-untrusted-proxy-headers",
        group="Behind a proxy",
        help="Leave the fields of those proxies in the environ when untrusted peers send them. By default they are "
        "removed if there is a trusted proxy.",
        precedent="Waitress clear_untrusted_proxy_headers; Gunicorn leaves them",
    )
    secure_scheme_headers: tuple[tuple[str, str], ...] = option(
        (("X-FORWARDED-PROTOCOL", "ssl"), ("X-FORWARDED-PROTO", "https"), ("X-FORWARDED-SSL", "on")),
        SchemeFields(),
        "--secure-scheme-headers",
        group="Behind a proxy",
        help="Fields of those proxies, each with the value that makes wsgi.url_scheme https, as a dictionary, or "
        "NAME=VALUE separated by commas.",
        precedent="Gunicorn secure_scheme_headers",
        gunicorn="secure_scheme_headers",
    )
    forwarder_headers: tuple[str, ...] = option(
        ("SCRIPT_NAME", "PATH_INFO"),
        FieldNames(),
        "--forwarder-headers",
        group="Behind a proxy",
        help="Fields with an underscore in their name that those proxies may send, separated by commas; '*' is all. "
        "SCRIPT_NAME is removed from the path.",
        precedent="Gunicorn forwarder_headers",
        gunicorn="forwarder_headers",
    )
    header_map: str = option(
        "drop",
        Choice(("drop", "refuse", "dangerous"), what="HOW"),
        "--header-map",
        group="Behind a proxy",
        help="Treatment of other fields with an underscore in their name, which an application cannot tell from "
        "fields with a dash: drop them, refuse the request, or (dangerous) pass them on.",
        precedent="Gunicorn header_map",
        gunicorn="header_map",
    )
    proxy_protocol: str = option(
        "off",
        Choice(("off", "v1", "v2", "auto"), what="MODE", switch=("auto", "off")),
        "--proxy-protocol",
        group="Behind a proxy",
        help="Version of the PROXY protocol in which a connection may name its client: off, v1, v2 or auto (both). "
        "Without a value: auto.",
        precedent="Gunicorn proxy_protocol",
        gunicorn="proxy_protocol",
    )
    proxy_allow_ips: tuple[str, ...] = option(
        ("127.0.0.1", "::1"),
        Networks(),
        "--proxy-allow-ips",
        "--proxy-allow-from",
        group="Behind a proxy",
        help="Addresses and networks that may use it, separated by commas; '*' is all peers. Others get 403.",
        precedent="Gunicorn proxy_allow_ips, --proxy-allow-from",
        gunicorn="proxy_allow_ips",
    )
