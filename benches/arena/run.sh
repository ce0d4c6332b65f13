# HTTP on port 8080, and HTTPS on port 8081 where the benchmark has mounted a certificate. A worker for each core.
export WEB_CONCURRENCY="${WEB_CONCURRENCY:-$(nproc)}"
certificate=${TLS_CERT:-/certs/server.crt} key=${TLS_KEY:-/certs/server.key}
if [ -r "$certificate" ]; then
    rmeinheld --config rmeinheld.toml --bind 0.0.0.0:8081 --certfile "$certificate" --keyfile "$key" &
fi
exec rmeinheld --config rmeinheld.toml --bind 0.0.0.0:8080
