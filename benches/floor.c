/*
 * The floor: what the kernel alone costs for one HTTP answer.
 *
 * An edge-triggered epoll loop on one thread that answers every read with the same bytes: epoll_wait, read, write, and
 * nothing else. It parses no request and runs no Python, so no server that does either can be expected to beat it. The
 * answer has the head that a WSGI server sends (Server, Date, Content-Type, Content-Length) for the application
 * `apps:hello`.
 *
 * Usage: floor PORT
 *
 * It expects whole requests that are not pipelined, which is what the load generator sends. It is no web server.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_EVENTS 512
#define READ_BYTES 16384
#define BACKLOG 4096

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int listen_on(int port) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0)
        fail("socket");
    int on = 1;
    if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        fail("setsockopt");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0)
        fail("bind");
    if (listen(listener, BACKLOG) < 0)
        fail("listen");
    return listener;
}

static void accept_all(int poller, int listener) {
    for (;;) {
        int connection = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (connection < 0) {
            if (errno == EAGAIN || errno == ECONNABORTED)
                return;
            if (errno == EINTR)
                continue;
            fail("accept4");
        }
        int on = 1;
        if (setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
            fail("setsockopt");
        struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.fd = connection};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, connection, &event) < 0)
            fail("epoll_ctl");
    }
}

/* Answers one readable connection. A read shorter than the buffer has emptied the socket: no second read. */
static void answer(int connection, const char *response, size_t length) {
    static char request[READ_BYTES];
    ssize_t received = read(connection, request, sizeof request);
    if (received > 0) {
        if (write(connection, response, length) == (ssize_t)length)
            return;
    } else if (received < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    close(connection);
}

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "usage: floor PORT\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);

    char date[64];
    time_t now = time(NULL);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&now));
    char response[512];
    int length = snprintf(response, sizeof response,
                          "HTTP/1.1 200 OK\r\nServer: floor/0.1.0\r\nDate: %s\r\nContent-Type: text/plain\r\n"
                          "Content-Length: 13\r\n\r\nHello, world!",
                          date);

    int listener = listen_on(atoi(arguments[1]));
    int poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        fail("epoll_create1");
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.fd = listener};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event) < 0)
        fail("epoll_ctl");

    struct epoll_event events[MAX_EVENTS];
    for (;;) {
        int ready = epoll_wait(poller, events, MAX_EVENTS, -1);
        if (ready < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int index = 0; index < ready; index++) {
            if (events[index].data.fd == listener)
                accept_all(poller, listener);
            else
                answer(events[index].data.fd, response, (size_t)length);
        }
    }
}
