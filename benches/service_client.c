/*
 * A client that sends a mix of requests at a steady rate, checks every answer, and says how a failed request failed.
 *
 * Usage: service_client PORT [NAME=NUMBER...]
 *
 *   kept, kept_rate  connections that ask for /short, and their requests per second together (0: without a pause)
 *   idle             connections that ask for /short and rest for 0.3 to 3 s in between
 *   cold_rate        requests per second for /short, each on a connection of its own
 *   long, longest    connections that ask for /long, which takes a third of `longest` to `longest` seconds (default 3)
 *   streams, lines   connections that ask for /stream, which sends `lines` lines (default 20), one every 50 ms
 *   uploads          connections that send 100 kB in 10 pieces to /upload, every second one chunked
 *   websockets       WebSockets that send a message every 100 ms and expect the same one back
 *   leak_rate        requests per second for /leak, each on a connection of its own
 *   plain            1: no upload is chunked, for a server that cannot read one
 *
 * A failure is printed at once, as a line of JSON with "event": "failure". The line "report" on stdin asks for the counts
 * so far, for the waits since the last report, and for the answers of each worker since it was last asked. The line
 * "workers" asks for the latter alone. After the line "stop" no request begins, and the rest is awaited.
 *
 * How a request failed ("class"):
 *
 *   new        the first request on a connection had no whole answer, or there was no connection
 *   lost       a later request had no answer, although it had been sent when the connection was still open
 *   broken     an answer began and did not end
 *   wrong      the answer has another status or other contents
 *   websocket  a WebSocket ended without a closing frame, or with a code other than 1000, 1001 and 1012
 *   timeout    the answer took longer than PATIENCE_SECONDS
 *
 * Two more counts are no failures: "closed_idle" and "crossed". In the first case the client had seen the end of the
 * connection and sent nothing. In the second the end had arrived by the time that send() returned. Both requests are sent
 * anew on another connection. Over loopback, send() hands the bytes to the other end's kernel before it returns. A request
 * had therefore reached the server's kernel first if the connection had not ended at that time.
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
#include <unistd.h>

#include "common.h"

#define MAX_EVENTS 256
#define HEAD_BYTES 4096
#define SOURCES 8 /* 127.0.0.1 to 127.0.0.8, so that local ports never run short */
#define COLD_PER_CLIENT 10.0
#define PATIENCE_SECONDS 60.0
#define CLOSE_SECONDS 5.0
#define PIECES 10
#define PIECE_BYTES 10000
#define PIECE_SECONDS 0.03
#define MESSAGE_SECONDS 0.1
#define BUCKETS 100000
#define BUCKET_SECONDS 0.0001
#define MAX_WORKERS 65536

enum kind { KEPT, IDLE, COLD, LONG, STREAM, UPLOAD, WEBSOCKET, LEAK, KINDS };
enum state { RESTING, CONNECTING, SENDING, WAITING, OPEN, CLOSING };
enum body { BY_LENGTH, CHUNKED, BY_END };
enum class { NEW, LOST, BROKEN, WRONG, ENDED, TIMEOUT, CLASSES };

static const char *const KIND_NAMES[KINDS] = {"kept", "idle", "cold", "long", "stream", "upload", "websocket", "leak"};
static const char *const CLASS_NAMES[CLASSES] = {"new", "lost", "broken", "wrong", "websocket", "timeout"};

struct client {
    enum kind kind;
    enum state state;
    int descriptor;
    bool is_used;    /* an answer has come on this connection */
    bool is_chunked; /* the upload */
    bool has_head, closes, has_sent;
    int worker; /* from X-Worker, 0 as long as it is unknown */
    char source[32];
    unsigned number;
    double next_at, scheduled_at, deadline, step_at;
    double period;
    char *out;
    size_t out_bytes, out_sent;
    int pieces;
    char head[HEAD_BYTES + 1];
    size_t head_bytes;
    enum body body;
    long remaining;      /* bytes of the body or chunk; or -1 before a size line, -2 before the line end of a chunk. */
    bool is_last;        /* The last chunk has begun. */
    char line[130];      /* a size line, or a frame so far */
    size_t line_bytes;
    char text[64];       /* how the body begins */
    size_t body_bytes;
    uint32_t body_crc;
    int messages;
    bool awaits_echo;
};

static struct client *clients;
static int total, poller, port, lines;
static bool is_stopping, is_plain;
static unsigned numbers;
static uint64_t seed = 88172645463325252u;
static long answers[KINDS], failures[CLASSES], closed_idle, crossed, told_to_close, connects, closes[3], messages;
static unsigned waits[BUCKETS];
static double longest, longest_lag, longest_request;
static int worker_ids[MAX_WORKERS], worker_count;
static long worker_answers[MAX_WORKERS];
static uint32_t crc_table[256];

static void begin(struct client *client, double now);
static void receive_frames(struct client *client, const char *bytes, size_t count, double now);

static double random_between(double from, double to) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return from + (to - from) * (double)(seed >> 11) / 9007199254740992.0;
}

static uint32_t crc(uint32_t sum, const char *bytes, size_t count) {
    sum = ~sum;
    for (size_t index = 0; index < count; index++)
        sum = crc_table[(sum ^ (unsigned char)bytes[index]) & 0xff] ^ (sum >> 8);
    return ~sum;
}

static void make_crc_table(void) {
    for (uint32_t index = 0; index < 256; index++) {
        uint32_t sum = index;
        for (int bit = 0; bit < 8; bit++)
            sum = sum & 1 ? 0xedb88320u ^ (sum >> 1) : sum >> 1;
        crc_table[index] = sum;
    }
}

/* --- counting ---------------------------------------------------------------------------------------------------- */

static void count_wait(double seconds) {
    long bucket = (long)(seconds / BUCKET_SECONDS);
    waits[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    if (seconds > longest)
        longest = seconds;
}

static void count_worker(int worker) {
    int index = worker_count;
    while (index > 0 && worker_ids[index - 1] != worker)
        index--;
    if (index == 0) {
        if (worker_count == MAX_WORKERS)
            return;
        index = ++worker_count;
        worker_ids[index - 1] = worker;
    }
    worker_answers[index - 1]++;
}

static double quantile(double part) {
    unsigned long count = 0, seen = 0;
    for (int bucket = 0; bucket < BUCKETS; bucket++)
        count += waits[bucket];
    for (int bucket = 0; bucket < BUCKETS; bucket++)
        if ((seen += waits[bucket]) > part * (double)count)
            return (bucket + 1) * BUCKET_SECONDS;
    return 0;
}

static void print_workers(void) {
    printf("\"workers\": {");
    for (int index = 0; index < worker_count; index++)
        printf("%s\"%d\": %ld", index ? ", " : "", worker_ids[index], worker_answers[index]);
    printf("}}\n");
    fflush(stdout);
    worker_count = 0;
    memset(worker_answers, 0, sizeof worker_answers);
}

static void report_workers(void) {
    printf("{\"event\": \"workers\", ");
    print_workers();
}

static void report(void) {
    printf("{\"event\": \"report\", \"answers\": {");
    for (int kind = 0; kind < KINDS; kind++)
        printf("%s\"%s\": %ld", kind ? ", " : "", KIND_NAMES[kind], answers[kind]);
    printf("}, \"failures\": {");
    for (int class = 0; class < CLASSES; class++)
        printf("%s\"%s\": %ld", class ? ", " : "", CLASS_NAMES[class], failures[class]);
    printf("}, \"connects\": %ld, \"closed_idle\": %ld, \"crossed\": %ld, \"told_to_close\": %ld, ", connects, closed_idle,
           crossed, told_to_close);
    printf("\"messages\": %ld, \"closes\": {\"1000\": %ld, \"1001\": %ld, \"1012\": %ld}, ", messages, closes[0], closes[1],
           closes[2]);
    printf("\"waits_ms\": {\"p50\": %.2f, \"p99\": %.2f, \"p999\": %.2f, \"longest\": %.2f}, \"client_lag_ms\": %.2f, ",
           quantile(0.5) * 1e3, quantile(0.99) * 1e3, quantile(0.999) * 1e3, longest * 1e3, longest_lag * 1e3);
    print_workers();
    memset(waits, 0, sizeof waits);
    longest = longest_lag = 0;
}

/* --- the end of a request ---------------------------------------------------------------------------------------- */

static void disconnect(struct client *client) {
    if (client->descriptor >= 0)
        close(client->descriptor);
    client->descriptor = -1;
    client->is_used = false;
    client->worker = 0;
}

static void rest(struct client *client, double now) {
    client->state = RESTING;
    if (client->kind == IDLE)
        client->next_at = now + random_between(0.3, 3.0);
    else if (client->period > 0)
        client->next_at = client->scheduled_at + client->period > now ? client->scheduled_at + client->period : now;
    else
        client->next_at = now;
}

static void fail_request(struct client *client, enum class class, const char *what, double now) {
    failures[class]++;
    printf("{\"event\": \"failure\", \"class\": \"%s\", \"kind\": \"%s\", \"source\": \"%s\", \"worker\": %d, \"number\": %u, "
           "\"at\": %.6f, \"after\": %.6f, \"what\": \"%s\"}\n",
           CLASS_NAMES[class], KIND_NAMES[client->kind], client->source, client->worker, client->number, now,
           now - client->scheduled_at, what);
    fflush(stdout);
    disconnect(client);
    rest(client, now);
    if (client->next_at < now + 0.01)
        client->next_at = now + 0.01; /* a service that is gone is not flooded */
}

/* The connection ended, or failed, while an answer was awaited. */
static void lose(struct client *client, const char *what, double now) {
    if (client->state == OPEN || client->state == CLOSING)
        fail_request(client, ENDED, what, now);
    else if (client->head_bytes > 0)
        fail_request(client, BROKEN, what, now);
    else
        fail_request(client, client->is_used ? LOST : NEW, what, now);
}

static bool is_expected(const struct client *client) {
    char expected[64];
    if (client->kind == STREAM) {
        uint32_t sum = 0;
        size_t length = 0;
        for (int index = 0; index < lines; index++) {
            int count = snprintf(expected, sizeof expected, "stream %u %d\n", client->number, index);
            sum = crc(sum, expected, (size_t)count);
            length += (size_t)count;
        }
        return client->body_bytes == length && client->body_crc == sum;
    }
    if (client->kind == UPLOAD) {
        uint32_t sum = 0;
        char piece[PIECE_BYTES];
        for (int index = 0; index < PIECES; index++) {
            memset(piece, 'a' + (int)((client->number + (unsigned)index) % 26), sizeof piece);
            sum = crc(sum, piece, sizeof piece);
        }
        snprintf(expected, sizeof expected, "upload %u %d %u\n", client->number, PIECES * PIECE_BYTES, sum);
    } else {
        const char *name = client->kind == LONG ? "long" : client->kind == LEAK ? "leak" : "short";
        snprintf(expected, sizeof expected, "%s %u\n", name, client->number);
    }
    return client->body_bytes == strlen(expected) && memcmp(client->text, expected, client->body_bytes) == 0;
}

static void finish(struct client *client, double now) {
    if (strncmp(client->head, "HTTP/1.1 200", 12) != 0) {
        char what[32];
        snprintf(what, sizeof what, "%.12s", client->head + 9);
        what[strcspn(what, "\"\\\r\n")] = '\0';
        fail_request(client, WRONG, what, now);
        return;
    }
    if (!is_expected(client)) {
        fail_request(client, WRONG, "contents", now);
        return;
    }
    answers[client->kind]++;
    count_worker(client->worker);
    if (client->kind == KEPT || client->kind == IDLE || client->kind == COLD)
        count_wait(now - client->scheduled_at);
    client->is_used = true;
    if (client->kind == COLD || client->kind == LEAK) {
        disconnect(client);
    } else if (client->closes) {
        told_to_close++;
        disconnect(client);
    }
    rest(client, now);
    if (client->kind == KEPT && client->period == 0 && !is_stopping)
        begin(client, now);
}

/* --- reading an answer ------------------------------------------------------------------------------------------- */

static const char *field(const struct client *client, const char *name) {
    const char *found = strcasestr(client->head, name);
    return found == NULL ? NULL : found + strlen(name);
}

static void read_head(struct client *client) {
    const char *value = field(client, "\r\nX-Worker: ");
    if (value != NULL)
        client->worker = atoi(value);
    value = field(client, "\r\nConnection: ");
    client->closes = value != NULL && strncasecmp(value, "close", 5) == 0;
    if (strncmp(client->head, "HTTP/1.0", 8) == 0)
        client->closes = value == NULL || strncasecmp(value, "keep-alive", 10) != 0;
    client->has_head = true;
    client->body_bytes = 0;
    client->body_crc = 0;
    client->line_bytes = 0;
    client->is_last = false;
    if ((value = field(client, "\r\nContent-Length: ")) != NULL) {
        client->body = BY_LENGTH;
        client->remaining = atol(value);
    } else if (field(client, "\r\nTransfer-Encoding: chunked") != NULL) {
        client->body = CHUNKED;
        client->remaining = -1;
    } else {
        client->body = BY_END;
        client->closes = true;
    }
}

static void eat(struct client *client, const char *bytes, size_t count) {
    for (size_t index = 0; index < count && client->body_bytes + index < sizeof client->text; index++)
        client->text[client->body_bytes + index] = bytes[index];
    client->body_bytes += count;
    client->body_crc = crc(client->body_crc, bytes, count);
}

/* Takes a part of a chunked body; true at its end. */
static bool eat_chunked(struct client *client, const char *bytes, size_t count) {
    for (size_t index = 0; index < count;) {
        if (client->remaining > 0) {
            size_t part = count - index < (size_t)client->remaining ? count - index : (size_t)client->remaining;
            eat(client, bytes + index, part);
            index += part;
            client->remaining -= (long)part;
            if (client->remaining == 0)
                client->remaining = -2;
            continue;
        }
        char byte = bytes[index++];
        if (byte != '\n') {
            if (client->line_bytes < sizeof client->line - 1)
                client->line[client->line_bytes++] = byte;
            continue;
        }
        client->line[client->line_bytes] = '\0';
        client->line_bytes = 0;
        if (client->is_last)
            return true;
        client->remaining = client->remaining == -2 ? -1 : strtol(client->line, NULL, 16);
        client->is_last = client->remaining == 0;
    }
    return false;
}

static void take(struct client *client, const char *bytes, size_t count, double now) {
    if (!client->has_head) {
        size_t before = client->head_bytes;
        size_t part = count < HEAD_BYTES - before ? count : HEAD_BYTES - before;
        memcpy(client->head + before, bytes, part);
        client->head_bytes += part;
        client->head[client->head_bytes] = '\0';
        char *blank = strstr(client->head, "\r\n\r\n");
        if (blank == NULL) {
            if (client->head_bytes == HEAD_BYTES)
                fail_request(client, WRONG, "a head without an end", now);
            return;
        }
        size_t head = (size_t)(blank - client->head) + 4;
        client->head[head - 2] = '\0';
        client->head_bytes = head;
        bytes += head - before;
        count -= head - before;
        read_head(client);
        if (client->kind == WEBSOCKET && strncmp(client->head, "HTTP/1.1 101", 12) == 0) {
            client->state = OPEN;
            client->messages = (int)random_between(5, 60);
            client->step_at = now;
            client->awaits_echo = false;
            answers[WEBSOCKET]++;
            receive_frames(client, bytes, count, now);
            return;
        }
    }
    bool is_whole = false;
    if (client->body == BY_LENGTH) {
        eat(client, bytes, count);
        is_whole = (long)client->body_bytes >= client->remaining;
    } else if (client->body == CHUNKED) {
        is_whole = eat_chunked(client, bytes, count);
    } else {
        eat(client, bytes, count);
    }
    if (is_whole)
        finish(client, now);
}

/* --- WebSockets -------------------------------------------------------------------------------------------------- */

static void send_frame(struct client *client, int opcode, const char *payload, size_t count) {
    unsigned char frame[128] = {(unsigned char)(0x80 | opcode), (unsigned char)(0x80 | count), 1, 2, 3, 4};
    for (size_t index = 0; index < count; index++)
        frame[6 + index] = (unsigned char)payload[index] ^ frame[2 + index % 4];
    /* An error shows at the next read. */
    (void)!send(client->descriptor, frame, 6 + count, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void send_message(struct client *client, double now) {
    char text[64];
    if (client->messages == 0 || is_stopping) {
        send_frame(client, 8, "\x03\xe8", 2);
        client->state = CLOSING;
        client->deadline = now + CLOSE_SECONDS;
        return;
    }
    int count = snprintf(text, sizeof text, "message %u %d", client->number, client->messages);
    send_frame(client, 1, text, (size_t)count);
    client->messages--;
    client->awaits_echo = true;
    client->step_at = now + MESSAGE_SECONDS;
    client->deadline = now + PATIENCE_SECONDS;
}

static void end_websocket(struct client *client, double now) {
    disconnect(client);
    rest(client, now);
    client->next_at = now + random_between(0.0, 0.1);
}

static void receive_frame(struct client *client, int opcode, const char *payload, size_t count, double now) {
    char text[64];
    if (opcode == 1 && client->state == OPEN) {
        int length = snprintf(text, sizeof text, "message %u %d", client->number, client->messages + 1);
        if (count != (size_t)length || memcmp(payload, text, count) != 0) {
            fail_request(client, WRONG, "an echo", now);
            return;
        }
        client->awaits_echo = false;
        messages++;
    } else if (opcode == 8) {
        int code = count >= 2 ? (unsigned char)payload[0] << 8 | (unsigned char)payload[1] : 1005;
        int index = code == 1001 ? 1 : code == 1012 ? 2 : code == 1000 && client->state == CLOSING ? 0 : -1;
        if (index < 0) {
            snprintf(text, sizeof text, "closed with code %d", code);
            fail_request(client, ENDED, text, now);
            return;
        }
        closes[index]++;
        if (client->state == OPEN)
            send_frame(client, 8, payload, 2);
        end_websocket(client, now);
    } else if (opcode == 9) {
        send_frame(client, 10, payload, count);
    }
}

/* Frames of the server have less than 126 bytes here, and no mask. */
static void receive_frames(struct client *client, const char *bytes, size_t count, double now) {
    for (size_t index = 0; index < count && (client->state == OPEN || client->state == CLOSING); index++) {
        if (client->line_bytes == sizeof client->line) {
            fail_request(client, WRONG, "a long frame", now);
            return;
        }
        client->line[client->line_bytes++] = bytes[index];
        if (client->line_bytes >= 2 && client->line_bytes == 2 + (size_t)client->line[1]) {
            client->line_bytes = 0;
            receive_frame(client, client->line[0] & 15, client->line + 2, (size_t)client->line[1], now);
        }
    }
}

/* --- sending ----------------------------------------------------------------------------------------------------- */

static void await(struct client *client, uint32_t events) {
    struct epoll_event event = {.events = events, .data.u32 = (unsigned)(client - clients)};
    if (epoll_ctl(poller, EPOLL_CTL_MOD, client->descriptor, &event) < 0)
        fail("epoll_ctl");
}

static void connect_anew(struct client *client, double now) {
    static unsigned turn;
    connects++;
    client->descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->descriptor < 0)
        fail("socket");
    int on = 1; /* the port is chosen by connect(), which may share it between destinations */
    setsockopt(client->descriptor, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    setsockopt(client->descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + turn++ % SOURCES);
    if (bind(client->descriptor, (struct sockaddr *)&address, sizeof address) < 0)
        fail("bind");
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((unsigned short)port);
    client->state = CONNECTING;
    strcpy(client->source, "");
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.u32 = (unsigned)(client - clients)};
    if (connect(client->descriptor, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        lose(client, strerror(errno), now);
    else if (epoll_ctl(poller, EPOLL_CTL_ADD, client->descriptor, &event) < 0)
        fail("epoll_ctl");
}

static void note_source(struct client *client) {
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    if (getsockname(client->descriptor, (struct sockaddr *)&address, &length) == 0)
        snprintf(client->source, sizeof client->source, "127.0.0.%u:%u", ntohl(address.sin_addr.s_addr) & 0xff,
                 ntohs(address.sin_port));
}

static void write_head(struct client *client) {
    const char *extra = client->kind == COLD && client->number % 2 ? "Connection: close\r\n" : "";
    const char *name = client->kind == LONG       ? "long"
                       : client->kind == STREAM   ? "stream"
                       : client->kind == UPLOAD   ? "upload"
                       : client->kind == LEAK     ? "leak"
                       : client->kind == WEBSOCKET ? "websocket"
                                                   : "short";
    char parameters[64] = "", framing[64] = "";
    if (client->kind == LONG)
        snprintf(parameters, sizeof parameters, "&seconds=%.3f", random_between(longest_request / 3, longest_request));
    else if (client->kind == STREAM)
        snprintf(parameters, sizeof parameters, "&lines=%d", lines);
    else if (client->kind == UPLOAD && client->is_chunked)
        strcpy(framing, "Transfer-Encoding: chunked\r\n");
    else if (client->kind == UPLOAD)
        snprintf(framing, sizeof framing, "Content-Length: %d\r\n", PIECES * PIECE_BYTES);
    else if (client->kind == WEBSOCKET)
        extra = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                "Sec-WebSocket-Version: 13\r\n";
    client->out_bytes = (size_t)sprintf(client->out, "%s /%s?number=%u%s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s%s\r\n",
                                        client->kind == UPLOAD ? "POST" : "GET", name, client->number, parameters, framing,
                                        extra);
    client->out_sent = 0;
}

static void write_piece(struct client *client) {
    size_t length = 0;
    if (client->is_chunked)
        length = (size_t)sprintf(client->out, "%x\r\n", PIECE_BYTES);
    memset(client->out + length, 'a' + (int)((client->number + (unsigned)(PIECES - client->pieces)) % 26), PIECE_BYTES);
    length += PIECE_BYTES;
    client->pieces--;
    if (client->is_chunked)
        length += (size_t)sprintf(client->out + length, client->pieces ? "\r\n" : "\r\n0\r\n\r\n");
    client->out_bytes = length;
    client->out_sent = 0;
}

/* Sends what is to be sent. The first bytes on a used connection decide whether the request had been sent. */
static void send_out(struct client *client, double now) {
    char byte;
    bool is_first = client->is_used && !client->has_sent;
    ssize_t sent = send(client->descriptor, client->out + client->out_sent, client->out_bytes - client->out_sent,
                        MSG_NOSIGNAL);
    int error = errno;
    if (is_first) {
        ssize_t seen = sent < 0 ? -1 : recv(client->descriptor, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        bool has_ended = sent < 0 ? error == EPIPE || error == ECONNRESET : seen == 0 || (seen < 0 && errno == ECONNRESET);
        if (has_ended) {
            crossed++;
            disconnect(client);
            connect_anew(client, now);
            return;
        }
    }
    if (sent < 0 && error != EAGAIN) {
        lose(client, strerror(error), now);
        return;
    }
    if (sent > 0) {
        client->has_sent = true;
        client->out_sent += (size_t)sent;
    }
    if (client->out_sent == client->out_bytes) {
        client->state = client->pieces > 0 ? SENDING : WAITING;
        client->step_at = now + PIECE_SECONDS;
        await(client, EPOLLIN);
    } else {
        await(client, EPOLLIN | EPOLLOUT);
    }
}

static void send_request(struct client *client, double now) {
    client->state = SENDING;
    client->has_head = client->has_sent = false;
    client->head_bytes = 0;
    client->pieces = client->kind == UPLOAD ? PIECES : 0;
    client->deadline = now + PATIENCE_SECONDS;
    client->line_bytes = 0;
    write_head(client);
    send_out(client, now);
}

static void begin(struct client *client, double now) {
    char byte;
    client->scheduled_at = client->period > 0 || client->kind == IDLE ? client->next_at : now;
    client->number = ++numbers;
    client->is_chunked = !is_plain && client->number % 2;
    client->deadline = now + PATIENCE_SECONDS;
    client->head_bytes = 0;
    client->pieces = 0;
    if (client->descriptor >= 0 && recv(client->descriptor, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0) {
        closed_idle++;
        disconnect(client);
    }
    if (client->descriptor >= 0)
        send_request(client, now);
    else
        connect_anew(client, now);
}

/* --- events ------------------------------------------------------------------------------------------------------ */

static void receive(struct client *client, double now) {
    static char buffer[65536];
    ssize_t count = recv(client->descriptor, buffer, sizeof buffer, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (client->state == RESTING) {
        closed_idle++; /* or an answer to nothing, such as 408: the connection is of no use either way */
        disconnect(client);
    } else if (count > 0 && (client->state == OPEN || client->state == CLOSING)) {
        receive_frames(client, buffer, (size_t)count, now);
    } else if (count > 0) {
        take(client, buffer, (size_t)count, now);
    } else if (count == 0 && client->has_head && client->body == BY_END && client->state != OPEN &&
               client->state != CLOSING) {
        finish(client, now);
    } else {
        lose(client, count == 0 ? "end of the connection" : strerror(errno), now);
    }
}

static void handle(struct client *client, uint32_t events, double now) {
    if (client->state == CONNECTING) {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(client->descriptor, SOL_SOCKET, SO_ERROR, &error, &length);
        if (error != 0) {
            lose(client, strerror(error), now);
        } else if (events & EPOLLOUT) {
            note_source(client);
            send_request(client, now);
        }
        return;
    }
    if (client->state == SENDING && (events & EPOLLOUT) && client->out_sent < client->out_bytes)
        send_out(client, now);
    if (client->descriptor >= 0 && client->state != CONNECTING && (events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
        receive(client, now);
}

static void step(struct client *client, double now) {
    if (client->state == RESTING) {
        if (now >= client->next_at && !is_stopping)
            begin(client, now);
    } else if (now > client->deadline) {
        if (client->state == CLOSING)
            fail_request(client, ENDED, "no closing frame in reply", now);
        else
            fail_request(client, TIMEOUT, "no answer in time", now);
    } else if (client->state == SENDING && client->out_sent == client->out_bytes && now >= client->step_at) {
        write_piece(client);
        send_out(client, now);
    } else if (client->state == OPEN && !client->awaits_echo && (now >= client->step_at || is_stopping)) {
        send_message(client, now);
    }
}

/* The lines on stdin; false at its end. */
static bool obey(void) {
    static char line[256];
    static size_t length;
    ssize_t count = read(0, line + length, sizeof line - length);
    if (count <= 0)
        return false;
    length += (size_t)count;
    for (char *end; (end = memchr(line, '\n', length)) != NULL;) {
        if (strncmp(line, "report", 6) == 0)
            report();
        else if (strncmp(line, "workers", 7) == 0)
            report_workers();
        else
            is_stopping = true;
        length -= (size_t)(end + 1 - line);
        memmove(line, end + 1, length);
    }
    return true;
}

static double setting(int count, char **arguments, const char *name) {
    size_t length = strlen(name);
    for (int index = 2; index < count; index++)
        if (strncmp(arguments[index], name, length) == 0 && arguments[index][length] == '=')
            return atof(arguments[index] + length + 1);
    return 0;
}

static void add_clients(enum kind kind, int count, double period) {
    clients = realloc(clients, (size_t)(total + count) * sizeof *clients);
    if (count > 0 && clients == NULL)
        fail("realloc");
    double now = now_seconds();
    for (int index = 0; index < count; index++) {
        struct client *client = &clients[total++];
        memset(client, 0, sizeof *client);
        client->kind = kind;
        client->descriptor = -1;
        client->period = period;
        client->next_at = now + (period > 0 ? random_between(0, period) : random_between(0, 0.1));
        client->out = malloc(kind == UPLOAD ? PIECE_BYTES + 512 : 512);
    }
}

int main(int count, char **arguments) {
    if (count < 2 || (port = atoi(arguments[1])) <= 0) {
        fprintf(stderr, "usage: service_client PORT [kept=N] [kept_rate=R] [idle=N] [cold_rate=R] [long=N] ...\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    make_crc_table();
    is_plain = setting(count, arguments, "plain") > 0;
    longest_request = setting(count, arguments, "longest");
    longest_request = longest_request > 0 ? longest_request : 3;
    lines = (int)setting(count, arguments, "lines");
    lines = lines > 0 ? lines : 20;
    int kept = (int)setting(count, arguments, "kept");
    double kept_rate = setting(count, arguments, "kept_rate"), cold_rate = setting(count, arguments, "cold_rate");
    double leak_rate = setting(count, arguments, "leak_rate");
    add_clients(KEPT, kept, kept_rate > 0 ? kept / kept_rate : 0);
    add_clients(IDLE, (int)setting(count, arguments, "idle"), 0);
    int cold = cold_rate > 0 ? (int)(cold_rate / COLD_PER_CLIENT) + 1 : 0;
    add_clients(COLD, cold, cold_rate > 0 ? cold / cold_rate : 0);
    add_clients(LONG, (int)setting(count, arguments, "long"), 0);
    add_clients(STREAM, (int)setting(count, arguments, "streams"), 0);
    add_clients(UPLOAD, (int)setting(count, arguments, "uploads"), 0);
    add_clients(WEBSOCKET, (int)setting(count, arguments, "websockets"), 0);
    int leaks = leak_rate > 0 ? (int)(leak_rate / COLD_PER_CLIENT) + 1 : 0;
    add_clients(LEAK, leaks, leak_rate > 0 ? leaks / leak_rate : 0);
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event commands = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, 0, &commands) < 0)
        fail("epoll");
    bool is_over = false;
    double end_by = 0, last = now_seconds();
    struct epoll_event events[MAX_EVENTS];
    while (!is_over) {
        int ready = epoll_wait(poller, events, MAX_EVENTS, 1);
        double now = now_seconds();
        if (now - last > longest_lag)
            longest_lag = now - last;
        last = now;
        for (int index = 0; index < ready; index++) {
            if (events[index].data.u32 != UINT32_MAX)
                handle(&clients[events[index].data.u32], events[index].events, now);
            else if (!obey())
                return 1; /* the parent has ended */
        }
        is_over = is_stopping;
        for (int index = 0; index < total; index++) {
            step(&clients[index], now);
            is_over = is_over && clients[index].state == RESTING;
        }
        if (is_stopping && end_by == 0)
            end_by = now + PATIENCE_SECONDS + 1;
        is_over = is_over || (end_by > 0 && now > end_by);
    }
    report();
    return 0;
}
