/* Open-loop load generator: one request after another on each of many kept-alive connections, on schedule.
 *
 *   loadgen PROTOCOL PORT CONNECTIONS REQUEST SCHEDULE SECONDS RECORDS BODY
 *
 * PROTOCOL is http (HTTP/1.1) or grpc (HTTP/2, one unary call at a time per connection). REQUEST holds the bytes of
 * every request: the whole of it for http; for grpc the length of the HPACK block (32 bits), the block, and the
 * message with its gRPC prefix. SCHEDULE holds arrival times, 64-bit nanoseconds from the start, in order; an empty one
 * means closed loop: every connection sends again as soon as it is answered, for SECONDS. With a schedule, SECONDS is
 * how long to wait for answers after the last arrival. RECORDS takes one `struct record` per request, BODY the body of
 * the last answer.
 *
 * A request that finds all connections busy waits here, and its latency counts from its scheduled time all the same. Lateness
 * is what the generator itself adds: from the later of its arrival and the time a connection became free to the sending.
 * The process spins: it wants a core of its own.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 65536, EVENTS = 32, FRAME_HEAD = 9, NO_ANSWER = 0, LOST = -1 };
enum { DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW_UPDATE = 8 };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4 };

struct record {
    int64_t scheduled_ns, ready_ns, sent_ns, done_ns; /* done_ns 0: never answered */
    int32_t status, bytes;                            /* HTTP status; gRPC: 200 with a message, 500 without */
};

struct connection {
    int fd;
    int64_t request; /* index into records, -1: idle */
    int64_t free_ns; /* since when it is idle */
    uint32_t stream; /* grpc: of the request under way */
    int64_t window;  /* grpc: bytes that the server still accepts */
    int message;     /* grpc: bytes of the answer so far */
    size_t used;
    char buffer[BUFFER];
};

static int is_grpc, port, epoll_fd;
static char *request, *schedule_bytes;
static size_t request_size, schedule_size;
static struct connection *connections;
static int *idle, idle_count;
static struct record *records;
static int64_t record_count, record_room, answered, start_ns;
static char *last_body;
static size_t last_body_size;
static int64_t reconnects;

static void fail(const char *what) {
    fprintf(stderr, "loadgen: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    fseek(file, 0, SEEK_END);
    *size = ftell(file);
    rewind(file);
    char *data = malloc(*size + 1);
    if (!data || fread(data, 1, *size, file) != *size) fail(path);
    fclose(file);
    return data;
}

/* Requests are small and the connection is idle: the socket's buffer takes them whole, or nearly. */
static int send_all(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd wait = {fd, POLLOUT, 0};
            if (poll(&wait, 1, 1000) < 1) return 0;
        } else if (sent < 0) {
            return 0;
        } else {
            data += sent;
            size -= sent;
        }
    }
    return 1;
}

static void put_frame_head(char *at, uint32_t length, int type, int flags, uint32_t stream) {
    char head[FRAME_HEAD] = {length >> 16, length >> 8, length, type, flags, stream >> 24, stream >> 16, stream >> 8, stream};
    memcpy(at, head, FRAME_HEAD);
}

static uint32_t big_endian(const char *at) {
    uint32_t value;
    memcpy(&value, at, 4);
    return ntohl(value);
}

/* ---- connections */

static void connect_to_server(struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0) fail("socket");
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->used = 0;
    if (is_grpc) { /* preface, settings with stream windows of 1 GiB, and as much for the connection */
        char hello[128];
        size_t size = 24;
        memcpy(hello, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
        put_frame_head(hello + size, 6, SETTINGS, 0, 0);
        memcpy(hello + size + FRAME_HEAD, "\0\4\100\0\0\0", 6);
        size += FRAME_HEAD + 6;
        put_frame_head(hello + size, 4, WINDOW_UPDATE, 0, 0);
        memcpy(hello + size + FRAME_HEAD, "\100\0\0\0", 4);
        size += FRAME_HEAD + 4;
        c->stream = (uint32_t)-1;
        c->window = 65535;
        if (!send_all(c->fd, hello, size)) fail("hello");
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event)) fail("epoll_ctl");
}

static void reconnect(struct connection *c) {
    close(c->fd);
    connect_to_server(c);
    reconnects++;
}

static void set_idle(struct connection *c, int64_t now) {
    c->request = -1;
    c->free_ns = now;
    idle[idle_count++] = (int)(c - connections);
}

static int send_grpc(struct connection *c) {
    static char frames[BUFFER];
    uint32_t block, message;
    memcpy(&block, request, 4);
    message = request_size - 4 - block;
    c->stream += 2;
    c->message = 0;
    c->window -= message;
    if (c->window < 0) {
        fprintf(stderr, "loadgen: the server's flow control window is used up\n");
        exit(1);
    }
    put_frame_head(frames, block, HEADERS, END_HEADERS, c->stream);
    memcpy(frames + FRAME_HEAD, request + 4, block);
    put_frame_head(frames + FRAME_HEAD + block, message, DATA, END_STREAM, c->stream);
    memcpy(frames + 2 * FRAME_HEAD + block, request + 4 + block, message);
    return send_all(c->fd, frames, 2 * FRAME_HEAD + block + message);
}

static int send_on(struct connection *c) {
    return is_grpc ? send_grpc(c) : send_all(c->fd, request, request_size);
}

static void send_request(struct connection *c, int64_t index, int64_t now) {
    c->request = index;
    records[index].ready_ns = records[index].scheduled_ns > c->free_ns ? records[index].scheduled_ns : c->free_ns;
    records[index].sent_ns = now;
    if (!send_on(c)) { /* the server closed an idle connection: once more on a new one */
        reconnect(c);
        if (!send_on(c)) fail("send");
    }
}

static void finish(struct connection *c, int status, int bytes, int64_t now) {
    struct record *r = &records[c->request];
    r->done_ns = now;
    r->status = status;
    r->bytes = bytes;
    answered++;
    set_idle(c, now);
}

/* ---- HTTP/1.1 answers */

static const char *find_header(const char *head, const char *end, const char *name) {
    size_t length = strlen(name);
    for (const char *line = head; line + length < end; line++) {
        line = memchr(line, '\n', end - line);
        if (!line) return NULL;
        if (line + 1 + length < end && !strncasecmp(line + 1, name, length)) return line + 1 + length;
    }
    return NULL;
}

/* Bytes of a chunked body up to its end, 0 if that is not there yet. */
static size_t chunked_size(const char *body, size_t size) {
    size_t at = 0;
    for (;;) {
        const char *line_end = memmem(body + at, size - at, "\r\n", 2);
        if (!line_end) return 0;
        size_t chunk = strtoul(body + at, NULL, 16);
        at = (line_end - body) + 2 + chunk + 2;
        if (at > size) return 0;
        if (chunk == 0) return at;
    }
}

static void on_http(struct connection *c, int64_t now) {
    char *head_end = memmem(c->buffer, c->used, "\r\n\r\n", 4);
    if (!head_end) return;
    char *body = head_end + 4;
    size_t have = c->buffer + c->used - body, size;
    const char *length = find_header(c->buffer, head_end + 2, "content-length:");
    const char *encoding = find_header(c->buffer, head_end + 2, "transfer-encoding:");
    if (length) {
        size = strtoul(length, NULL, 10);
        if (have < size) return;
    } else if (!encoding || !(size = chunked_size(body, have))) {
        if (!encoding) fail("an answer without a length");
        return;
    }
    const char *closing = find_header(c->buffer, head_end + 2, "connection:");
    int closes = closing && memmem(closing, 8, "close", 5) != NULL;
    int status = atoi(c->buffer + 9);
    last_body_size = size < BUFFER ? size : BUFFER;
    memcpy(last_body, body, last_body_size);
    c->used = 0;
    if (closes) reconnect(c);
    finish(c, status, (int)size, now);
}

/* ---- gRPC answers */

static void on_stream_frame(struct connection *c, int type, int flags, const char *payload, uint32_t length, int64_t now) {
    if (type == DATA) {
        if (last_body_size + length <= BUFFER && c->message) memcpy(last_body + last_body_size, payload, length);
        if (!c->message) {
            last_body_size = 0;
            memcpy(last_body, payload, length);
        }
        last_body_size += length;
        c->message += length;
    }
    if (type == RST_STREAM || (flags & END_STREAM && type <= HEADERS))
        finish(c, c->message >= 5 ? 200 : 500, c->message, now);
}

static void on_frame(struct connection *c, const char *frame, uint32_t length, int64_t now) {
    int type = frame[3], flags = frame[4];
    uint32_t stream = big_endian(frame + 5) & 0x7fffffff;
    const char *payload = frame + FRAME_HEAD;
    char answer[FRAME_HEAD + 8];
    if (stream && stream == c->stream && c->request >= 0 && (type <= HEADERS || type == RST_STREAM)) {
        on_stream_frame(c, type, flags, payload, length, now);
    } else if (type == SETTINGS && !(flags & ACK)) {
        put_frame_head(answer, 0, SETTINGS, ACK, 0);
        send_all(c->fd, answer, FRAME_HEAD);
    } else if (type == PING && !(flags & ACK)) {
        put_frame_head(answer, 8, PING, ACK, 0);
        memcpy(answer + FRAME_HEAD, payload, 8);
        send_all(c->fd, answer, FRAME_HEAD + 8);
    } else if (type == WINDOW_UPDATE && !stream) {
        c->window += big_endian(payload) & 0x7fffffff;
    } else if (type == GOAWAY) {
        fprintf(stderr, "loadgen: the server said GOAWAY\n");
    }
}

static void on_grpc(struct connection *c, int64_t now) {
    size_t at = 0;
    while (c->used - at >= FRAME_HEAD) {
        uint32_t length = big_endian(c->buffer + at) >> 8;
        if (length + FRAME_HEAD > BUFFER) fail("a frame that is too large");
        if (c->used - at < FRAME_HEAD + length) break;
        on_frame(c, c->buffer + at, length, now);
        at += FRAME_HEAD + length;
    }
    memmove(c->buffer, c->buffer + at, c->used - at);
    c->used -= at;
}

static void on_readable(struct connection *c) {
    ssize_t size = recv(c->fd, c->buffer + c->used, BUFFER - c->used, 0);
    int64_t now = now_ns();
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) { /* the server closed it */
        int was_busy = c->request >= 0;
        reconnect(c);
        if (was_busy) finish(c, LOST, 0, now);
        return;
    }
    c->used += size;
    if (is_grpc)
        on_grpc(c, now);
    else if (c->request >= 0)
        on_http(c, now);
    else
        c->used = 0; /* what nobody asked for */
}

/* ---- the two kinds of run */

static void poll_once(void) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, 0);
    for (int i = 0; i < count; i++) on_readable(events[i].data.ptr);
}

static int64_t new_record(int64_t scheduled_ns) {
    if (record_count == record_room) {
        record_room = record_room ? 2 * record_room : 1 << 16;
        records = realloc(records, record_room * sizeof *records);
        if (!records) fail("realloc");
    }
    memset(&records[record_count], 0, sizeof *records);
    records[record_count].scheduled_ns = scheduled_ns;
    return record_count++;
}

static void run_closed(double seconds) {
    int64_t end_ns = start_ns + (int64_t)(seconds * 1e9);
    for (int64_t now = start_ns; now < end_ns; now = now_ns()) {
        while (idle_count) {
            struct connection *c = &connections[idle[--idle_count]];
            now = now_ns();
            send_request(c, new_record(now), now);
        }
        poll_once();
    }
}

static void run_schedule(const int64_t *times, int64_t count, double patience_s) {
    for (int64_t i = 0; i < count; i++) new_record(start_ns + times[i]);
    int64_t next = 0, end_ns = start_ns + times[count - 1] + (int64_t)(patience_s * 1e9);
    for (int64_t now = now_ns(); answered < count && now < end_ns; now = now_ns()) {
        while (next < count && idle_count && records[next].scheduled_ns <= now) {
            send_request(&connections[idle[--idle_count]], next, now);
            next++;
            now = now_ns();
        }
        poll_once();
    }
}

static void write_file(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file)) fail(path);
}

int main(int argc, char **argv) {
    if (argc != 9) {
        fprintf(stderr, "usage: loadgen http|grpc PORT CONNECTIONS REQUEST SCHEDULE SECONDS RECORDS BODY\n");
        return 2;
    }
    is_grpc = !strcmp(argv[1], "grpc");
    port = atoi(argv[2]);
    int count = atoi(argv[3]);
    request = read_file(argv[4], &request_size);
    schedule_bytes = read_file(argv[5], &schedule_size);
    epoll_fd = epoll_create1(0);
    connections = calloc(count, sizeof *connections);
    idle = malloc(count * sizeof *idle);
    last_body = malloc(2 * BUFFER);
    if (epoll_fd < 0 || !connections || !idle || !last_body) fail("start");
    for (int i = count - 1; i >= 0; i--) {
        connect_to_server(&connections[i]);
        set_idle(&connections[i], now_ns());
    }
    for (int64_t settle_ns = now_ns() + 200000000; now_ns() < settle_ns;) poll_once();
    start_ns = now_ns();
    if (schedule_size)
        run_schedule((int64_t *)schedule_bytes, schedule_size / sizeof(int64_t), atof(argv[6]));
    else
        run_closed(atof(argv[6]));
    int64_t ended_ns = now_ns();
    for (int64_t i = 0; i < record_count; i++) { /* from the start on */
        struct record *r = &records[i];
        r->scheduled_ns -= start_ns;
        r->ready_ns = r->sent_ns ? r->ready_ns - start_ns : 0;
        r->sent_ns = r->sent_ns ? r->sent_ns - start_ns : 0;
        r->done_ns = r->done_ns ? r->done_ns - start_ns : 0;
    }
    write_file(argv[7], records, record_count * sizeof *records);
    write_file(argv[8], last_body, last_body_size);
    printf("%lld %lld\n", (long long)(ended_ns - start_ns), (long long)reconnects);
    return 0;
}
