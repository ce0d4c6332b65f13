/*
 * A client of many WebSockets, for benchmarks: messages to and fro, one message to all, or nothing at all.
 *
 * Usage: websocket_client echo PORT CONNECTIONS SECONDS
 *        websocket_client broadcast PORT CONNECTIONS ROUNDS
 *        websocket_client idle PORT CONNECTIONS
 *
 *   echo       each connection sends 64 bytes of text, and again as soon as they have come back.
 *   broadcast  the first connection sends 64 bytes of text, and again as soon as every connection has received them.
 *   idle       each connection has one message to and fro; then all are held.
 *
 * With all connections open it prints "ready" and waits for a line on stdin; then it runs, and prints JSON:
 * {"messages": N, "errors": N, "seconds": S, "slowest": S}. `messages` counts those that were received; `slowest` is the
 * median time from the sending of a message to its last receiver. After idle it checks that every
 * connection is still open and silent. The server is asked for /echo or /broadcast.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "common.h"

#define PAYLOAD_BYTES 64
#define FRAME_BYTES (2 + PAYLOAD_BYTES) /* of the server's, which has no mask */
#define MAX_EVENTS 512
#define BUFFER_BYTES 65536
#define DEADLINE_SECONDS 60.0
#define MAX_ROUNDS 100000

static unsigned char message[6 + PAYLOAD_BYTES];

struct connection {
    int descriptor;
    size_t received; /* of the present frame */
    long messages;
};

static struct connection *connections;
static int total, poller, errors;

static void make_message(void) {
    static const unsigned char mask[4] = {0x12, 0x34, 0x56, 0x78};
    message[0] = 0x81;
    message[1] = 0x80 | PAYLOAD_BYTES;
    memcpy(message + 2, mask, 4);
    for (int index = 0; index < PAYLOAD_BYTES; index++)
        message[6 + index] = (unsigned char)('a' + index % 26) ^ mask[index % 4];
}

static void send_message(struct connection *connection) {
    if (send(connection->descriptor, message, sizeof message, MSG_NOSIGNAL) != (ssize_t)sizeof message)
        errors++;
}

/* Opens a WebSocket, blocking. Reads the answer to the handshake exactly to its end. */
static void open_connection(struct connection *connection, int port, const char *path) {
    char request[512], answer[4096];
    connection->descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->descriptor < 0)
        fail("socket");
    struct timeval patience = {.tv_sec = 30};
    setsockopt(connection->descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    struct sockaddr_in target = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(connection->descriptor, (struct sockaddr *)&target, sizeof target) < 0)
        fail("connect");
    int on = 1;
    setsockopt(connection->descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                          path, port);
    if (write(connection->descriptor, request, (size_t)length) != length)
        fail("write");
    size_t received = 0;
    while (received < 4 || memcmp(answer + received - 4, "\r\n\r\n", 4) != 0) {
        if (received == sizeof answer || read(connection->descriptor, answer + received, 1) != 1)
            fail("handshake");
        received++;
    }
    if (memcmp(answer, "HTTP/1.1 101", 12) != 0) {
        fprintf(stderr, "not accepted: %.*s\n", 60, answer);
        exit(1);
    }
}

/* Takes what has arrived; returns how many messages that completes. */
static int receive(struct connection *connection) {
    static unsigned char buffer[BUFFER_BYTES];
    ssize_t count = recv(connection->descriptor, buffer, sizeof buffer, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (count <= 0) {
        errors++;
        epoll_ctl(poller, EPOLL_CTL_DEL, connection->descriptor, NULL);
        return 0;
    }
    connection->received += (size_t)count;
    int messages = (int)(connection->received / FRAME_BYTES);
    connection->received %= FRAME_BYTES;
    connection->messages += messages;
    return messages;
}

static void say_and_wait(const char *word) {
    char line[16];
    printf("%s\n", word);
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        exit(1);
}

static void report(long messages, double seconds, double slowest) {
    printf("{\"messages\": %ld, \"errors\": %d, \"seconds\": %.6f, \"slowest\": %.6f}\n", messages, errors, seconds, slowest);
}

static void echo(double seconds) {
    struct epoll_event events[MAX_EVENTS];
    double start = now_seconds();
    for (int index = 0; index < total; index++)
        send_message(&connections[index]);
    while (now_seconds() < start + seconds && errors == 0) {
        int ready = epoll_wait(poller, events, MAX_EVENTS, 100);
        for (int index = 0; index < ready; index++) {
            struct connection *connection = &connections[events[index].data.u32];
            for (int count = receive(connection); count > 0; count--)
                send_message(connection);
        }
    }
    double end = now_seconds();
    long messages = 0;
    for (int index = 0; index < total; index++)
        messages += connections[index].messages;
    report(messages, end - start, 0);
}

static int compare(const void *one, const void *other) {
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

static void broadcast(int rounds) {
    static double times[MAX_ROUNDS];
    struct epoll_event events[MAX_EVENTS];
    double start = now_seconds();
    int done = 0;
    for (; done < rounds && errors == 0; done++) {
        double sent = now_seconds();
        int missing = total;
        send_message(&connections[0]);
        while (missing > 0 && errors == 0) {
            int ready = epoll_wait(poller, events, MAX_EVENTS, 100);
            for (int index = 0; index < ready; index++)
                missing -= receive(&connections[events[index].data.u32]);
            if (now_seconds() > sent + DEADLINE_SECONDS)
                errors++;
        }
        times[done] = now_seconds() - sent;
    }
    qsort(times, (size_t)done, sizeof times[0], compare);
    report((long)done * total, now_seconds() - start, times[done / 2]);
}

static void check_silence(void) {
    char byte;
    for (int index = 0; index < total; index++)
        if (recv(connections[index].descriptor, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN)
            errors++;
}

int main(int count, char **arguments) {
    if (count < 4) {
        fprintf(stderr, "usage: websocket_client echo|broadcast|idle PORT CONNECTIONS [SECONDS|ROUNDS]\n");
        return 2;
    }
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    const char *mode = arguments[1];
    int port = atoi(arguments[2]);
    total = atoi(arguments[3]);
    double amount = count > 4 ? atof(arguments[4]) : 0;
    make_message();
    connections = calloc((size_t)total, sizeof *connections);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (connections == NULL || poller < 0)
        fail("start");
    bool is_broadcast = strcmp(mode, "broadcast") == 0;
    for (int index = 0; index < total; index++) {
        open_connection(&connections[index], port, is_broadcast ? "/broadcast" : "/echo");
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (unsigned)index};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, connections[index].descriptor, &event) < 0)
            fail("epoll_ctl");
    }
    if (strcmp(mode, "idle") == 0) {
        unsigned char frame[FRAME_BYTES];
        for (int index = 0; index < total; index++) {
            send_message(&connections[index]);
            if (recv(connections[index].descriptor, frame, sizeof frame, MSG_WAITALL) != (ssize_t)sizeof frame)
                errors++;
        }
        say_and_wait("ready");
        check_silence();
        report(total, 0, 0);
    } else {
        say_and_wait("ready");
        if (is_broadcast)
            broadcast((int)amount < MAX_ROUNDS ? (int)amount : MAX_ROUNDS);
        else
            echo(amount);
    }
    return errors == 0 ? 0 : 1;
}
