/*
 * The floor of WebSockets: what the kernel alone costs for a message.
 *
 * The loop of floor.c, for messages of fewer than 126 bytes that arrive whole. It answers every handshake with constant
 * bytes, checks nothing, and runs no Python. /echo sends each message back; /broadcast sends it to all who are there.
 *
 * Usage: websocket_floor PORT
 *
 * It expects what websocket_client.c sends, and is no WebSocket server.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "epoll_server.h"

#define READ_BYTES 16384
#define MAX_DESCRIPTORS 65536
#define HEAD_BYTES 6 /* of a client's short frame: two, and the mask */

enum kind { NEW, PLAIN, ECHO, BROADCAST };

static char kinds[MAX_DESCRIPTORS];
static int members[MAX_DESCRIPTORS];
static int member_count;

static const char accepted[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
static const char hello[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!";

static void put(int connection, const char *bytes, size_t length) {
    if (send(connection, bytes, length, MSG_NOSIGNAL) != (ssize_t)length && errno != EPIPE && errno != ECONNRESET)
        fail("send");
}

static void leave(int connection) {
    for (int index = 0; index < member_count; index++)
        if (members[index] == connection)
            members[index--] = members[--member_count];
    kinds[connection] = NEW;
    close(connection);
}

static void take_head(int connection, const char *head, size_t length) {
    bool is_echo = length > 9 && memcmp(head, "GET /echo", 9) == 0;
    bool is_broadcast = length > 14 && memcmp(head, "GET /broadcast", 14) == 0;
    if (!is_echo && !is_broadcast) {
        kinds[connection] = PLAIN;
        put(connection, hello, sizeof hello - 1);
        return;
    }
    kinds[connection] = is_echo ? ECHO : BROADCAST;
    if (is_broadcast)
        members[member_count++] = connection;
    put(connection, accepted, sizeof accepted - 1);
}

static void answer(int connection) {
    static unsigned char input[READ_BYTES];
    static char output[READ_BYTES];
    ssize_t received = recv(connection, input, sizeof input, 0);
    if (received < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (received <= 0) {
        leave(connection);
        return;
    }
    if (kinds[connection] == NEW || kinds[connection] == PLAIN) {
        take_head(connection, (const char *)input, (size_t)received);
        return;
    }
    size_t taken = 0, made = 0;
    while ((size_t)received - taken >= HEAD_BYTES) {
        const unsigned char *frame = input + taken, *mask = frame + 2;
        size_t length = frame[1] & 0x7f;
        if ((frame[0] & 0x0f) == 8) { /* a Close */
            leave(connection);
            return;
        }
        output[made++] = (char)frame[0];
        output[made++] = (char)length;
        for (size_t index = 0; index < length; index++)
            output[made++] = (char)(frame[HEAD_BYTES + index] ^ mask[index % 4]);
        taken += HEAD_BYTES + length;
    }
    if (kinds[connection] == ECHO) {
        put(connection, output, made);
        return;
    }
    for (int index = 0; index < member_count; index++)
        put(members[index], output, made);
}

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "usage: websocket_floor PORT\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    serve(atoi(arguments[1]), answer);
}
