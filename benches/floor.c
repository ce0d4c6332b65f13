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
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "epoll_server.h"

#define READ_BYTES 16384

static char response[512];
static size_t response_length;

/* Answers one readable connection. A read shorter than the buffer has emptied the socket: no second read. */
static void answer(int connection) {
    static char request[READ_BYTES];
    ssize_t received = read(connection, request, sizeof request);
    if (received > 0) {
        if (write(connection, response, response_length) == (ssize_t)response_length)
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
    response_length = (size_t)snprintf(response, sizeof response,
                          "HTTP/1.1 200 OK\r\nServer: floor/0.1.0\r\nDate: %s\r\nContent-Type: text/plain\r\n"
                          "Content-Length: 13\r\n\r\nHello, world!",
                          date);

    serve(atoi(arguments[1]), answer);
}
