/*
 * A client that holds many connections, for what wrk cannot do: leave them idle, or send all requests at one moment.
 *
 * Usage: client idle|burst PORT CONNECTIONS
 *
 *   idle   opens the connections, at most WINDOW at a time, with one request and its answer on each, and then holds
 *          them all. Prints "ready" and waits for a line on stdin. Checks that every connection is still open and silent.
 *   burst  opens all connections, prints "ready", waits for a line on stdin, sends one request on each as fast as it
 *          can, prints "sent", and waits until all answers are in.
 *
 * The last line is JSON: {"answers": N, "errors": N, "seconds": S}. `seconds` runs from the first send to the last
 * answer of a burst. An error is a connection that was refused or closed, an answer that is not 200, or one that did
 * not end within DEADLINE_SECONDS. Source addresses are 127.0.0.1, 127.0.0.2, ... so that local ports never run short.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common.h"

#define WINDOW 64
#define MAX_EVENTS 512
#define ANSWER_BYTES 1024
#define CONNECTIONS_PER_SOURCE 10000
#define DEADLINE_SECONDS 60.0
#define SPARE_DESCRIPTORS 16

static const char REQUEST[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: rmeinheld-bench\r\n\r\n";

enum state { CONNECTING, CONNECTED, WAITING, ANSWERED, FAILED };

struct connection {
    int descriptor;
    enum state state;
    size_t received;
    char answer[ANSWER_BYTES + 1];
};

struct run {
    int poller;
    int port;
    bool ask_at_once; /* idle: the request follows the connect; burst: it waits for the signal */
    struct connection *connections;
    int total;
    int opened;  /* connect() was called */
    int settled; /* reached the end of the present phase: CONNECTED, ANSWERED or FAILED */
    int errors;
    double last_answer;
};

static void settle(struct run *run, struct connection *connection, enum state state) {
    connection->state = state;
    run->settled++;
    if (state == FAILED) {
        run->errors++;
        close(connection->descriptor);
        connection->descriptor = -1;
    }
}

static void open_next(struct run *run) {
    int index = run->opened++;
    struct connection *connection = &run->connections[index];
    connection->descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->descriptor < 0)
        fail("socket");
    int on = 1; /* the port is chosen by connect(), which may share it between destinations */
    if (setsockopt(connection->descriptor, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on) < 0)
        fail("setsockopt");
    struct sockaddr_in source = {.sin_family = AF_INET};
    source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (unsigned)(index / CONNECTIONS_PER_SOURCE));
    if (bind(connection->descriptor, (struct sockaddr *)&source, sizeof source) < 0)
        fail("bind");
    struct sockaddr_in target = {.sin_family = AF_INET, .sin_port = htons((unsigned short)run->port)};
    target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connection->state = CONNECTING;
    if (connect(connection->descriptor, (struct sockaddr *)&target, sizeof target) < 0 && errno != EINPROGRESS) {
        settle(run, connection, FAILED);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u32 = (unsigned)index};
    if (epoll_ctl(run->poller, EPOLL_CTL_ADD, connection->descriptor, &event) < 0)
        fail("epoll_ctl");
}

static void ask(struct run *run, struct connection *connection) {
    connection->state = WAITING;
    if (write(connection->descriptor, REQUEST, sizeof REQUEST - 1) != (ssize_t)(sizeof REQUEST - 1))
        settle(run, connection, FAILED);
}

/* Whether the bytes so far are one whole answer: Content-Length, or chunked up to the last chunk. */
static bool is_whole(const struct connection *connection) {
    const char *blank = strstr(connection->answer, "\r\n\r\n");
    if (blank == NULL)
        return false;
    size_t head = (size_t)(blank - connection->answer) + 4;
    const char *length = strcasestr(connection->answer, "\r\ncontent-length:");
    if (length != NULL && length < blank)
        return connection->received >= head + strtoul(length + strlen("\r\ncontent-length:"), NULL, 10);
    if (connection->received < head + 5)
        return false;
    return memcmp(connection->answer + connection->received - 5, "0\r\n\r\n", 5) == 0;
}

static void receive(struct run *run, struct connection *connection) {
    while (connection->state == WAITING) {
        size_t room = ANSWER_BYTES - connection->received;
        ssize_t received = read(connection->descriptor, connection->answer + connection->received, room);
        if (received < 0 && errno == EINTR)
            continue;
        if (received < 0 && errno == EAGAIN)
            return;
        if (received <= 0) {
            settle(run, connection, FAILED);
            return;
        }
        connection->received += (size_t)received;
        connection->answer[connection->received] = '\0';
        if (is_whole(connection)) {
            bool fine = strncmp(connection->answer, "HTTP/1.1 200", 12) == 0;
            run->last_answer = now_seconds();
            settle(run, connection, fine ? ANSWERED : FAILED);
        }
    }
}

static void handle(struct run *run, struct connection *connection, unsigned events) {
    if (connection->state == CONNECTING && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(connection->descriptor, SOL_SOCKET, SO_ERROR, &error, &length);
        if (error != 0)
            settle(run, connection, FAILED);
        else if (run->ask_at_once)
            ask(run, connection);
        else
            settle(run, connection, CONNECTED);
    }
    if (connection->state == WAITING && (events & (EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP)))
        receive(run, connection);
}

/* Runs until every connection is settled, opening new ones while fewer than WINDOW are on their way. */
static void run_phase(struct run *run) {
    struct epoll_event events[MAX_EVENTS];
    double deadline = now_seconds() + DEADLINE_SECONDS;
    while (run->settled < run->total) {
        while (run->opened < run->total && run->opened - run->settled < WINDOW)
            open_next(run);
        int ready = epoll_wait(run->poller, events, MAX_EVENTS, 1000);
        if (ready < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int index = 0; index < ready; index++)
            handle(run, &run->connections[events[index].data.u32], events[index].events);
        if (now_seconds() > deadline) {
            fprintf(stderr, "%d of %d connections unfinished after %.0f s\n", run->total - run->settled, run->total,
                    DEADLINE_SECONDS);
            run->errors += run->total - run->settled;
            return;
        }
    }
}

static void say_and_wait(const char *word) {
    char line[16];
    printf("%s\n", word);
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        exit(1);
}

/* A held connection that the server closed, or on which it said more, was not idle: an error. */
static void check_still_open(struct run *run) {
    char byte;
    for (int index = 0; index < run->total; index++) {
        struct connection *connection = &run->connections[index];
        if (connection->state != ANSWERED)
            continue;
        if (recv(connection->descriptor, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN)
            run->errors++;
    }
}

/* Returns the moment before the first send. */
static double send_all(struct run *run) {
    double start = now_seconds();
    run->settled = run->errors; /* a new phase: only the failed ones have reached its end */
    for (int index = 0; index < run->total; index++) {
        if (run->connections[index].state == CONNECTED)
            ask(run, &run->connections[index]);
    }
    printf("sent\n");
    fflush(stdout);
    return start;
}

int main(int count, char **arguments) {
    bool idle = count == 4 && strcmp(arguments[1], "idle") == 0;
    if (!idle && !(count == 4 && strcmp(arguments[1], "burst") == 0)) {
        fprintf(stderr, "usage: client idle|burst PORT CONNECTIONS\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    struct run run = {.port = atoi(arguments[2]), .total = atoi(arguments[3]), .ask_at_once = idle};
    if (run.port <= 0 || run.port > 65535 || run.total <= 0) {
        fprintf(stderr, "client: not a port or not a number of connections\n");
        return 2;
    }
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        fail("getrlimit");
    if (limit.rlim_cur < (rlim_t)run.total + SPARE_DESCRIPTORS) {
        fprintf(stderr, "client: %d connections need a higher limit of open files than %lu\n", run.total,
                (unsigned long)limit.rlim_cur);
        return 1;
    }
    run.connections = calloc((size_t)run.total, sizeof *run.connections);
    run.poller = epoll_create1(EPOLL_CLOEXEC);
    if (run.connections == NULL || run.poller < 0)
        fail("setting up");

    run_phase(&run);
    say_and_wait("ready");
    double seconds = 0.0;
    if (idle) {
        check_still_open(&run);
    } else {
        double start = send_all(&run);
        run_phase(&run);
        seconds = run.last_answer > 0.0 ? run.last_answer - start : 0.0;
    }

    int answers = 0;
    for (int index = 0; index < run.total; index++)
        answers += run.connections[index].state == ANSWERED;
    printf("{\"answers\": %d, \"errors\": %d, \"seconds\": %.6f}\n", answers, run.errors, seconds);
    return 0;
}
