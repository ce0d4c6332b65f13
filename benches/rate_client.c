/*
 * A client that sends requests in rotation, at a constant rate or as fast as they are answered.
 *
 * Usage: rate_client PORT CONNECTIONS SECONDS RATE PER_CONNECTION FILE...
 *
 *   RATE            requests per second of all connections together; 0: each connection sends when it has its answer
 *   PER_CONNECTION  answers after which a connection is closed and another one opened; 0: never
 *   FILE            the bytes of a request; a connection sends those of all files, one after the other
 *
 * At a constant rate each request is due at a fixed time. Its latency counts from then, even if the connection still
 * waited for an earlier answer. A pause of the server therefore delays all requests that are due during the pause.
 *
 * Requests that are due after SECONDS are not sent, and the answers of those on their way are waited for. The requests
 * that count are then all the work that the server has done, also if it works on many at a time.
 *
 * The output is JSON: {"requests": N, "errors": N, "unanswered": N, "seconds": S, "p50_ms": L, "p99_ms": L, "p999_ms": L}.
 * An error is a connection that was refused or closed, and an answer other than 200. The wait for the last answers ends
 * after 3 seconds without one. Requests that are unanswered then do not count: those of a server that serves one
 * connection and leaves the others waiting. S is the time to the last answer. Source addresses are 127.0.0.1 to
 * 127.0.0.8, so that local ports do not run short.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common.h"

#define MAX_EVENTS 512
#define HEAD_BYTES 4096
#define READ_BYTES 65536
#define SOURCES 8
#define PATIENCE_SECONDS 20.0 /* for the first answer */
#define LAST_PATIENCE_SECONDS 3.0
#define LAST_CHUNK "0\r\n\r\n"
#define LAST_CHUNK_BYTES 5

enum state { RESTING, SENDING, RECEIVING };

struct request {
    char *bytes;
    size_t size;
};

struct connection {
    int descriptor;
    enum state state;
    int answers;   /* on this connection */
    long sent;     /* requests since the beginning */
    double due;    /* when the present request should have been sent */
    size_t offset; /* bytes of the present request that are sent */
    char head[HEAD_BYTES + 1];
    size_t head_size;
    bool has_head, is_chunked;
    size_t rest;                 /* bytes of the body that are missing */
    char tail[LAST_CHUNK_BYTES]; /* the last bytes of a chunked body */
};

static struct {
    int poller, port, total, per_connection, files, opened;
    double rate, start, end, last_answer;
    struct request *requests;
    struct connection *connections;
    uint32_t *latencies_us;
    size_t count, room;
    long errors, on_their_way;
} run;

static struct request read_file(const char *name) {
    int file = open(name, O_RDONLY | O_CLOEXEC);
    struct stat facts;
    if (file < 0 || fstat(file, &facts) < 0)
        fail(name);
    struct request request = {malloc((size_t)facts.st_size), (size_t)facts.st_size};
    if (request.bytes == NULL || read(file, request.bytes, request.size) != (ssize_t)request.size)
        fail(name);
    close(file);
    return request;
}

static void open_connection(struct connection *connection) {
    int on = 1;
    int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in source = {.sin_family = AF_INET}, target = {.sin_family = AF_INET};
    source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (unsigned)(run.opened++ % SOURCES));
    target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    target.sin_port = htons((unsigned short)run.port);
    /* Blocking, since the handshake over loopback does not wait for the server. */
    if (descriptor < 0 || setsockopt(descriptor, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on) < 0 ||
        bind(descriptor, (struct sockaddr *)&source, sizeof source) < 0 ||
        connect(descriptor, (struct sockaddr *)&target, sizeof target) < 0 ||
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
        fcntl(descriptor, F_SETFL, O_NONBLOCK) < 0)
        fail("connect");
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = connection};
    if (epoll_ctl(run.poller, EPOLL_CTL_ADD, descriptor, &event) < 0)
        fail("epoll_ctl");
    connection->descriptor = descriptor;
    connection->answers = 0;
}

static void rest(struct connection *connection) {
    run.on_their_way -= connection->state != RESTING;
    connection->state = RESTING;
}

static void renew(struct connection *connection, bool failed) {
    run.errors += failed;
    rest(connection);
    close(connection->descriptor);
    open_connection(connection);
}

static void write_request(struct connection *connection) {
    const struct request *request = &run.requests[connection->sent % run.files];
    while (connection->offset < request->size) {
        ssize_t written =
            write(connection->descriptor, request->bytes + connection->offset, request->size - connection->offset);
        if (written < 0 && errno == EAGAIN)
            return;
        if (written < 0) {
            renew(connection, true);
            return;
        }
        connection->offset += (size_t)written;
    }
    connection->state = RECEIVING;
}

/* When the connection's next request is due: the first ones are spread evenly. */
static double next_due(const struct connection *connection) {
    long index = connection - run.connections;
    return run.start + (double)(index + connection->sent * run.total) / run.rate;
}

/* Sends the next request if it is due before the end. */
static void begin(struct connection *connection, double now) {
    double due = run.rate > 0 ? next_due(connection) : now;
    if (connection->state != RESTING || due > now || due >= run.end)
        return;
    connection->due = due;
    connection->state = SENDING;
    run.on_their_way++;
    connection->offset = connection->head_size = 0;
    connection->has_head = false;
    write_request(connection);
}

/* Reads what the head says of the body. Returns whether the answer is one. */
static bool read_head(struct connection *connection) {
    if (strncmp(connection->head, "HTTP/1.1 200", 12) != 0)
        return false;
    const char *length = strcasestr(connection->head, "\r\ncontent-length:");
    connection->is_chunked = length == NULL;
    connection->rest = length == NULL ? 0 : strtoul(length + strlen("\r\ncontent-length:"), NULL, 10);
    memset(connection->tail, 0, sizeof connection->tail);
    connection->has_head = true;
    return true;
}

/* Takes bytes of the body. Returns whether the answer is whole. */
static bool take_body(struct connection *connection, const char *bytes, size_t size) {
    if (!connection->is_chunked) {
        connection->rest -= size < connection->rest ? size : connection->rest;
        return connection->rest == 0;
    }
    for (size_t index = size > LAST_CHUNK_BYTES ? size - LAST_CHUNK_BYTES : 0; index < size; index++) {
        memmove(connection->tail, connection->tail + 1, LAST_CHUNK_BYTES - 1);
        connection->tail[LAST_CHUNK_BYTES - 1] = bytes[index];
    }
    return memcmp(connection->tail, LAST_CHUNK, LAST_CHUNK_BYTES) == 0;
}

static void record(double seconds) {
    if (run.count == run.room) {
        run.room = run.room ? 2 * run.room : 1 << 16;
        run.latencies_us = realloc(run.latencies_us, run.room * sizeof *run.latencies_us);
        if (run.latencies_us == NULL)
            fail("realloc");
    }
    run.latencies_us[run.count++] = (uint32_t)(seconds * 1e6);
}

static void finish(struct connection *connection) {
    double now = now_seconds();
    record(now - connection->due);
    run.last_answer = now;
    rest(connection);
    connection->sent++;
    if (run.per_connection > 0 && ++connection->answers == run.per_connection)
        renew(connection, false);
    begin(connection, now);
}

static void receive(struct connection *connection) {
    static char buffer[READ_BYTES];
    for (;;) {
        ssize_t received = read(connection->descriptor, buffer, sizeof buffer);
        if (received < 0 && errno == EAGAIN)
            return;
        /* Also an answer before the whole request was sent. */
        if (received <= 0 || connection->state != RECEIVING) {
            renew(connection, true);
            return;
        }
        const char *body = buffer;
        size_t size = (size_t)received;
        if (!connection->has_head) {
            size_t before = connection->head_size;
            size_t taken = size < HEAD_BYTES - before ? size : HEAD_BYTES - before;
            memcpy(connection->head + before, buffer, taken);
            connection->head_size += taken;
            connection->head[connection->head_size] = '\0';
            char *end = strstr(connection->head, "\r\n\r\n");
            if (end == NULL && connection->head_size < HEAD_BYTES)
                continue;
            if (end == NULL || (end[2] = '\0', !read_head(connection))) {
                renew(connection, true);
                return;
            }
            size_t used = (size_t)(end - connection->head) + 4 - before;
            body += used;
            size -= used;
        }
        if (take_body(connection, body, size)) {
            finish(connection);
            return;
        }
    }
}

static void handle(struct connection *connection, unsigned events) {
    if (connection->state == SENDING && (events & EPOLLOUT))
        write_request(connection);
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP))
        receive(connection);
}

static int compare(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static double percentile_ms(double share) {
    return run.count == 0 ? 0 : run.latencies_us[(size_t)(share * (double)(run.count - 1))] / 1e3;
}

/* Until when to wait for what comes. */
static double patient_until(void) {
    if (run.count == 0)
        return run.end + PATIENCE_SECONDS;
    if (run.on_their_way == 0)
        return run.end;
    double last = run.last_answer + LAST_PATIENCE_SECONDS;
    return last < run.end ? run.end : last;
}

int main(int count, char **arguments) {
    if (count < 7) {
        fprintf(stderr, "usage: rate_client PORT CONNECTIONS SECONDS RATE PER_CONNECTION FILE...\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    run.port = atoi(arguments[1]);
    run.total = atoi(arguments[2]);
    run.rate = atof(arguments[4]);
    run.per_connection = atoi(arguments[5]);
    run.files = count - 6;
    run.requests = calloc((size_t)run.files, sizeof *run.requests);
    run.connections = calloc((size_t)run.total, sizeof *run.connections);
    run.poller = epoll_create1(EPOLL_CLOEXEC);
    if (run.requests == NULL || run.connections == NULL || run.poller < 0)
        fail("setting up");
    for (int index = 0; index < run.files; index++)
        run.requests[index] = read_file(arguments[6 + index]);
    for (int index = 0; index < run.total; index++)
        open_connection(&run.connections[index]);

    struct epoll_event events[MAX_EVENTS];
    run.start = now_seconds();
    double now = run.start;
    run.end = run.start + atof(arguments[3]);
    int next = 0; /* the connection whose request is due first */
    if (run.rate == 0)
        for (int index = 0; index < run.total; index++)
            begin(&run.connections[index], now);
    run.last_answer = run.start;
    double until;
    while (now < (until = patient_until())) {
        if (run.rate > 0 && now < run.end) {
            /* A connection that still waits sends the request when its answer comes. */
            static long turn;
            for (;; next = (next + 1) % run.total, turn++) {
                double due = run.start + (double)turn / run.rate;
                if (due > now) {
                    until = due < until ? due : until;
                    break;
                }
                begin(&run.connections[next], now);
            }
        }
        double left = until - now;
        struct timespec timeout = {(time_t)left, (long)((left - (double)(time_t)left) * 1e9)};
        int ready = epoll_pwait2(run.poller, events, MAX_EVENTS, &timeout, NULL);
        if (ready < 0 && errno != EINTR)
            fail("epoll_pwait2");
        for (int index = 0; index < ready; index++)
            handle(events[index].data.ptr, events[index].events);
        now = now_seconds();
    }
    qsort(run.latencies_us, run.count, sizeof *run.latencies_us, compare);
    double seconds = (run.last_answer > run.end ? run.last_answer : run.end) - run.start;
    printf("{\"requests\": %zu, \"errors\": %ld, \"unanswered\": %ld, \"seconds\": %.3f, \"p50_ms\": %.3f, "
           "\"p99_ms\": %.3f, \"p999_ms\": %.3f}\n",
           run.count, run.errors, run.on_their_way, seconds, percentile_ms(0.5), percentile_ms(0.99),
           percentile_ms(0.999));
    return 0;
}
