/*
 * A client of many WebSockets that reads whatever comes and answers pings, for benches/chat.py.
 *
 * Usage: chat_client PORT CONNECTIONS SOURCE PATH SECONDS
 *
 *   SOURCE   the last number of the address 127.0.0.x from which it connects. One address has some 28,000 ports.
 *   PATH     of the handshakes; # stands for the number of the connection, @ for that of its group of 50.
 *   SECONDS  until it gives up and ends.
 *
 * It prints a line of JSON once all connections are open and have been silent for 200 ms, and then for each line on
 * stdin. It ends with the end of stdin.
 * {"open": N, "lost": N, "frames": N, "bytes": N, "pings": N, "seconds": S}
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common.h"

#define AT_ONCE 64 /* handshakes under way */
#define MAX_EVENTS 512
#define HEAD_BYTES 4 /* the end of the answer to a handshake: two line ends */
#define CONTROL_BYTES 125
#define QUIET_SECONDS 0.2
#define GROUP 50

enum state { CLOSED, OPENING, OPEN };

struct connection {
    int descriptor;
    enum state state;
    unsigned char head[10]; /* of the present frame; the last bytes of the answer while it is opening */
    unsigned char control[CONTROL_BYTES];
    unsigned have; /* bytes of the head */
    unsigned kept; /* bytes of the payload of a control frame */
    uint64_t rest; /* bytes of the payload that are still to come */
};

static struct connection *connections;
static int total, port, source, poller, opened, opening, lost;
static const char *path;
static long frames, bytes, pings;
static double begun, last_event;

static void begin(int number) {
    struct connection *connection = &connections[number];
    int on = 1, descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor < 0)
        fail("socket");
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(descriptor, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(0x7f000000 | (unsigned)source);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons((unsigned short)port);
    if (bind(descriptor, (struct sockaddr *)&from, sizeof from) < 0)
        fail("bind");
    if (connect(descriptor, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        fail("connect");
    connection->descriptor = descriptor;
    connection->state = OPENING;
    opening++;
    struct epoll_event event = {.events = EPOLLOUT, .data.u32 = (unsigned)number};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, descriptor, &event) < 0)
        fail("epoll_ctl");
}

static void lose(struct connection *connection) {
    if (connection->state == OPENING)
        opening--;
    else
        opened--;
    lost++;
    connection->state = CLOSED;
    close(connection->descriptor);
}

static void shake_hands(int number) {
    struct connection *connection = &connections[number];
    char request[1024], target[256];
    size_t used = 0;
    for (const char *letter = path; *letter != 0 && used < sizeof target - 32; letter++)
        if (*letter == '#' || *letter == '@')
            used += (size_t)sprintf(target + used, "%d_%d", source, *letter == '#' ? number : number / GROUP);
        else
            target[used++] = *letter;
    target[used] = 0;
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                          target, port);
    if (send(connection->descriptor, request, (size_t)length, MSG_NOSIGNAL) != length) {
        lose(connection);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (unsigned)number};
    epoll_ctl(poller, EPOLL_CTL_MOD, connection->descriptor, &event);
}

static void answer_ping(struct connection *connection) {
    unsigned char pong[6 + CONTROL_BYTES] = {0x8a, (unsigned char)(0x80 | connection->kept)}; /* a mask of zeros */
    memcpy(pong + 6, connection->control, connection->kept);
    if (send(connection->descriptor, pong, 6 + connection->kept, MSG_NOSIGNAL) < 0)
        lose(connection);
    pings++;
}

static unsigned head_length(const struct connection *connection) {
    if (connection->have < 2)
        return 2;
    unsigned size = connection->head[1] & 0x7f;
    return size == 126 ? 4 : size == 127 ? 10 : 2;
}

/* Takes bytes of frames. */
static void take(struct connection *connection, const unsigned char *data, size_t count) {
    while (count > 0 || (connection->have >= 2 && connection->have == head_length(connection) && connection->rest == 0)) {
        if (connection->have < 2 || connection->have < head_length(connection)) {
            connection->head[connection->have++] = *data++;
            count--;
            if (connection->have < 2 || connection->have < head_length(connection))
                continue;
            unsigned length = head_length(connection);
            connection->rest = length == 2 ? connection->head[1] & 0x7f : 0;
            for (unsigned index = 2; index < length; index++)
                connection->rest = connection->rest << 8 | connection->head[index];
            connection->kept = 0;
        }
        size_t part = count < connection->rest ? count : (size_t)connection->rest;
        if (connection->head[0] & 0x08) {
            memcpy(connection->control + connection->kept, data, part);
            connection->kept += (unsigned)part;
        }
        data += part;
        count -= part;
        connection->rest -= part;
        if (connection->rest > 0)
            return;
        connection->have = 0;
        if ((connection->head[0] & 0x0f) == 0x9)
            answer_ping(connection);
        else if ((connection->head[0] & 0x0f) == 0x8)
            lose(connection);
        else
            frames++;
        if (connection->state == CLOSED)
            return;
    }
}

static void receive(int number) {
    static unsigned char buffer[65536];
    struct connection *connection = &connections[number];
    ssize_t count = recv(connection->descriptor, buffer, sizeof buffer, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0) {
        lose(connection);
        return;
    }
    bytes += count;
    last_event = now_seconds();
    size_t index = 0;
    for (; connection->state == OPENING && index < (size_t)count; index++) {
        if (connection->have == 0 && connection->rest < 12) {
            static const char wanted[] = "HTTP/1.1 101";
            if (buffer[index] != (unsigned char)wanted[connection->rest++]) {
                lose(connection);
                return;
            }
            continue;
        }
        memmove(connection->head, connection->head + 1, HEAD_BYTES - 1);
        connection->head[HEAD_BYTES - 1] = buffer[index];
        connection->have = 1;
        if (memcmp(connection->head, "\r\n\r\n", HEAD_BYTES) == 0) {
            connection->state = OPEN;
            connection->have = 0;
            connection->rest = 0;
            opening--;
            opened++;
        }
    }
    if (connection->state == OPEN)
        take(connection, buffer + index, (size_t)count - index);
}

static void report(void) {
    printf("{\"open\": %d, \"lost\": %d, \"frames\": %ld, \"bytes\": %ld, \"pings\": %ld, \"seconds\": %.3f}\n", opened,
           lost, frames, bytes, pings, now_seconds() - begun);
    fflush(stdout);
}

int main(int count, char **arguments) {
    if (count < 6) {
        fprintf(stderr, "usage: chat_client PORT CONNECTIONS SOURCE PATH SECONDS\n");
        return 2;
    }
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    port = atoi(arguments[1]);
    total = atoi(arguments[2]);
    source = atoi(arguments[3]);
    path = arguments[4];
    double seconds = atof(arguments[5]);
    connections = calloc((size_t)total, sizeof *connections);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (connections == NULL || poller < 0)
        fail("start");
    begun = last_event = now_seconds();
    bool is_ready = false;
    int next = 0;
    while (now_seconds() < begun + seconds) {
        while (next < total && opening < AT_ONCE)
            begin(next++);
        struct epoll_event events[MAX_EVENTS];
        int ready = epoll_wait(poller, events, MAX_EVENTS, 50);
        for (int index = 0; index < ready; index++) {
            int number = (int)events[index].data.u32;
            if (connections[number].state == CLOSED)
                continue;
            if (events[index].events & EPOLLOUT)
                shake_hands(number);
            else
                receive(number);
        }
        if (!is_ready && next == total && opening == 0 && now_seconds() > last_event + QUIET_SECONDS) {
            is_ready = true;
            report();
        }
        struct pollfd input = {.fd = 0, .events = POLLIN};
        if (is_ready && poll(&input, 1, 0) > 0) {
            char line[16];
            if (read(0, line, sizeof line) <= 0)
                return 0;
            report();
        }
    }
    fprintf(stderr, "given up after %.0f s: %d of %d open, %d lost\n", seconds, opened, total, lost);
    return 1;
}
