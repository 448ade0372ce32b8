/* The load: many subscribers, devices that send, and the clock. One thread, so that it disturbs itself as little as it can.
 *
 * Commands, one per line on standard input; each is answered with one line of JSON on standard output:
 *   subscribe PORT N PATH FIRST     N WebSockets on PATH; FIRST is 1 where the server sends a first message
 *   raw PORT N                      N plain connections, to the limit loop
 *   receive RUN ROUNDS TIMEOUT      read what the limit loop sends: one frame per round and connection
 *   device PORT                     the device's connection, and a few events to warm up
 *   events RATE BURSTS SIZE TIMEOUT
 *                                   RATE times a second one send() with SIZE events; until every subscriber has each of them
 *   ingest PORT CONNECTIONS WINDOW COUNT TIMEOUT
 *                                   COUNT events over CONNECTIONS, each with at most WINDOW unanswered
 *   closing TIMEOUT                 until every subscriber was closed by the server
 *   drop                            close everything
 * TIMEOUT in seconds. Ends with its input.
 *
 * Events are recognised by their description, `bench-RUN-INDEX`; the run's number keeps snapshots and old events out.
 * Sends are paced by a timer on CLOCK_MONOTONIC that wakes the same epoll. The server's pings are read and not answered:
 * measurements are shorter than its patience.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "wire.h"

enum { MOST_SOCKETS = 20000, MOST_DEVICES = 512, BUFFER = 1 << 20, EVENTS_AT_ONCE = 256, LINE = 1024, HANDSHAKES_AT_ONCE = 200 };
enum state { HANDSHAKE, FIRST, LIVE, GONE };

struct subscriber {
    int fd;
    enum state state;
    bool wants_first, saw_shutdown;
    uint16_t close_code;
    uint32_t next; /* index of the event that is due */
    unsigned char *rest;
    size_t rest_size;
};

struct device {
    int fd;
    uint32_t left, answered;
};

static struct subscriber *subscribers;
static struct device devices[MOST_DEVICES];
static uint32_t subscriber_count, device_count;
static int poller, timer;
static unsigned char buffer[BUFFER];
static int64_t boot;
static unsigned runs;

/* What is being measured. */
static struct {
    unsigned run;
    uint32_t events;       /* per subscriber */
    uint64_t expected, delivered, misordered, frames, frame_bytes, answers, refused;
    int64_t *sent_at;      /* of each event; NULL where the frame tells */
    float *times;          /* of each delivery, in us */
    float *last;           /* of each event: the slowest delivery */
    uint32_t ready, gone;
    int64_t last_answer_at;
    char problem[256];
} now;

/* Tags in epoll's data: subscribers by index, devices above, the timer on top. */
enum { DEVICE_TAG = 1 << 24, TIMER_TAG = 1 << 25 };

static void watch(int fd, uint32_t tag) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = tag};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl: %s", strerror(errno));
}

static int connect_to(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0) fail("socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) fail("connect to port %d: %s", port, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static void send_all(int fd, const char *bytes, size_t size) {
    while (size) {
        ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) fail("send: %s", strerror(errno));
        bytes += sent;
        size -= (size_t)sent;
    }
}

/* -- what the server sends ------------------------------------------------------------------------------------------ */

static void note_event(struct subscriber *subscriber, uint32_t index, int64_t began, int64_t at) {
    if (index >= now.events) return;
    if (index != subscriber->next) now.misordered++;
    subscriber->next = index + 1;
    if (now.times && now.delivered < now.expected) {
        float us = (float)(at - (began ? began : now.sent_at[index])) / 1e3f;
        now.times[now.delivered] = us;
        if (us > now.last[index]) now.last[index] = us;
    }
    now.delivered++;
}

/* Count the events of this run in one message: `bench-RUN-INDEX`, and `-BEGAN` where the sender tells when. */
static bool note_events(struct subscriber *subscriber, const unsigned char *text, size_t size, int64_t at) {
    static const char mark[] = "\"bench-", early[] = "\"volatile\":true}";
    const unsigned char *end = text + size;
    bool found = false;
    /* Where a disk is slow an event is shown before it is stored; it is told again then, in order. */
    if (size >= sizeof early - 1 && !memcmp(end - (sizeof early - 1), early, sizeof early - 1)) return false;
    while ((text = memmem(text, (size_t)(end - text), mark, sizeof mark - 1))) {
        uint64_t numbers[3] = {0, 0, 0};
        text += sizeof mark - 1;
        for (int i = 0; i < 3; i++) {
            while (text < end && *text >= '0' && *text <= '9') numbers[i] = numbers[i] * 10 + (uint64_t)(*text++ - '0');
            if (text >= end || *text != '-') break;
            text++;
        }
        if (numbers[0] != now.run) continue;
        found = true;
        note_event(subscriber, (uint32_t)numbers[1], (int64_t)numbers[2], at);
    }
    return found;
}

static void lose(struct subscriber *subscriber) {
    if (subscriber->state == GONE) return;
    close(subscriber->fd);
    free(subscriber->rest);
    subscriber->rest = NULL;
    subscriber->rest_size = 0;
    subscriber->state = GONE;
    now.gone++;
}

static void take_frame(struct subscriber *subscriber, unsigned opcode, const unsigned char *payload, size_t size, size_t whole,
                       int64_t at) {
    if (opcode == 0x8) {
        subscriber->close_code = size >= 2 ? (uint16_t)(payload[0] << 8 | payload[1]) : 1005;
        unsigned char reply[8] = {0x88, 0x82, 0, 0, 0, 0, size >= 2 ? payload[0] : 3, size >= 2 ? payload[1] : 0xe8};
        (void)!send(subscriber->fd, reply, sizeof reply, MSG_NOSIGNAL | MSG_DONTWAIT);
        return;
    }
    if (opcode != 0x1) return;
    if (subscriber->state == FIRST) {
        subscriber->state = LIVE;
        now.ready++;
        return;
    }
    if (note_events(subscriber, payload, size, at)) {
        now.frames++;
        now.frame_bytes += whole;
    } else if (memmem(payload, size < 64 ? size : 64, "\"type\":\"shutdown\"", 17)) {
        subscriber->saw_shutdown = true;
    }
}

/* Take what is whole; return how many bytes that was. */
static size_t take_bytes(struct subscriber *subscriber, const unsigned char *bytes, size_t size, int64_t at) {
    size_t taken = 0;
    if (subscriber->state == HANDSHAKE) {
        const unsigned char *end = memmem(bytes, size, "\r\n\r\n", 4);
        if (!end) return 0;
        if (size < 12 || memcmp(bytes, "HTTP/1.1 101", 12)) {
            snprintf(now.problem, sizeof now.problem, "handshake refused: %.*s", (int)(size < 40 ? size : 40), bytes);
            return size;
        }
        taken = (size_t)(end - bytes) + 4;
        subscriber->state = subscriber->wants_first ? FIRST : LIVE;
        if (!subscriber->wants_first) now.ready++;
    }
    while (size - taken >= 2) {
        const unsigned char *frame = bytes + taken;
        size_t header = 2, payload = frame[1] & 0x7f;
        if (payload == 126) {
            header = 4;
            if (size - taken < header) break;
            payload = (size_t)frame[2] << 8 | frame[3];
        } else if (payload == 127) {
            header = 10;
            if (size - taken < header) break;
            payload = 0;
            for (int i = 2; i < 10; i++) payload = payload << 8 | frame[i];
        }
        if (payload > BUFFER / 2) fail("a message of %zu bytes", payload);
        if (size - taken < header + payload) break;
        take_frame(subscriber, frame[0] & 0xf, frame + header, payload, header + payload, at);
        taken += header + payload;
    }
    return taken;
}

static void read_subscriber(struct subscriber *subscriber) {
    if (subscriber->state == GONE) return;
    size_t kept = subscriber->rest_size;
    if (kept) memcpy(buffer, subscriber->rest, kept);
    ssize_t got = recv(subscriber->fd, buffer + kept, BUFFER - kept, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        lose(subscriber);
        return;
    }
    int64_t at = now_ns();
    size_t size = kept + (size_t)got, taken = take_bytes(subscriber, buffer, size, at);
    if (kept || taken < size) {
        free(subscriber->rest);
        subscriber->rest_size = size - taken;
        subscriber->rest = subscriber->rest_size ? allocate(subscriber->rest_size) : NULL;
        if (subscriber->rest) memcpy(subscriber->rest, buffer + taken, subscriber->rest_size);
    }
}

/* -- devices ---------------------------------------------------------------------------------------------------------- */

static size_t event_line(char *line, uint32_t index, const char *word) {
    return (size_t)snprintf(line, LINE,
                            "{\"msg_type\":\"Event\",\"id\":\"%llx-%u-%u\",\"type\":\"CALL\",\"severity\":\"INFO\","
                            "\"description\":\"%s-%u-%u\"}\n",
                            (unsigned long long)boot, now.run, index, word, now.run, index);
}

static void read_device(struct device *device) {
    static const char success[] = "{\"status\":\"success\"";
    ssize_t got = recv(device->fd, buffer, BUFFER, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) fail("the server closed the device's connection");
    const unsigned char *at = buffer, *end = buffer + got;
    /* An answer may come in two pieces: lines are counted, and what is no success is looked for at their beginnings. */
    for (const unsigned char *line = at; at < end; at++) {
        if (*at != '\n') continue;
        if ((size_t)(at - line) >= sizeof success - 1 && line[0] == '{' && memcmp(line, success, sizeof success - 1)) {
            now.refused++;
            snprintf(now.problem, sizeof now.problem, "answer: %.*s", (int)(at - line < 200 ? at - line : 200), line);
        }
        device->answered++;
        now.answers++;
        line = at + 1;
    }
    now.last_answer_at = now_ns();
}

/* -- the loop --------------------------------------------------------------------------------------------------------- */

static bool timer_rang;

/* Read what is there, or comes within `wait_ms`. */
static void turn(int wait_ms) {
    struct epoll_event events[EVENTS_AT_ONCE];
    int count = epoll_wait(poller, events, EVENTS_AT_ONCE, wait_ms);
    for (int i = 0; i < count; i++) {
        uint32_t tag = events[i].data.u32;
        if (tag == TIMER_TAG) {
            uint64_t rang;
            timer_rang = read(timer, &rang, sizeof rang) == sizeof rang;
        } else if (tag >= DEVICE_TAG) {
            read_device(&devices[tag - DEVICE_TAG]);
        } else {
            read_subscriber(&subscribers[tag]);
        }
    }
}

static void set_timer(int64_t at) {
    struct itimerspec when = {.it_value = to_timespec(at)};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void begin(uint32_t events, bool timed, bool by_frame) {
    free(now.sent_at);
    free(now.times);
    free(now.last);
    memset(&now, 0, sizeof now);
    now.run = ++runs;
    now.events = events;
    now.expected = (uint64_t)events * subscriber_count;
    if (timed) {
        if (!by_frame) now.sent_at = allocate(events * sizeof *now.sent_at);
        now.times = allocate(now.expected * sizeof *now.times);
        now.last = allocate(events * sizeof *now.last);
    }
    for (uint32_t i = 0; i < subscriber_count; i++) subscribers[i].next = 0;
}

static void print_result(int64_t took) {
    printf("{\"run\": %u, \"expected\": %llu, \"delivered\": %llu, \"misordered\": %llu, "
           "\"frames\": %llu, \"frame_bytes\": %.2f, "
           "\"answers\": %llu, \"refused\": %llu, \"gone\": %u, \"seconds\": %.6f",
           now.run, (unsigned long long)now.expected, (unsigned long long)now.delivered, (unsigned long long)now.misordered,
           (unsigned long long)now.frames, now.frames ? (double)now.frame_bytes / (double)now.frames : 0.0,
           (unsigned long long)now.answers, (unsigned long long)now.refused, now.gone, (double)took / 1e9);
    if (now.times) {
        size_t count = now.delivered < now.expected ? now.delivered : now.expected;
        sort_times(now.times, count);
        sort_times(now.last, now.events);
        printf(", \"p50_us\": %.1f, \"p99_us\": %.1f, \"last_p50_us\": %.1f, \"last_p99_us\": %.1f", percentile(now.times, count, 0.5),
               percentile(now.times, count, 0.99), percentile(now.last, now.events, 0.5), percentile(now.last, now.events, 0.99));
    }
    for (char *at = now.problem; *at; at++)
        if (*at == '"' || *at == '\\' || (unsigned char)*at < ' ') *at = '\'';
    printf(", \"problem\": \"%s\"}\n", now.problem);
}

/* -- commands --------------------------------------------------------------------------------------------------------- */

static void add_subscriber(int port, const char *path, bool wants_first) {
    if (subscriber_count >= MOST_SOCKETS) fail("too many subscribers");
    struct subscriber *subscriber = &subscribers[subscriber_count];
    memset(subscriber, 0, sizeof *subscriber);
    subscriber->fd = connect_to(port);
    subscriber->wants_first = wants_first;
    subscriber->state = path ? HANDSHAKE : LIVE;
    watch(subscriber->fd, subscriber_count++);
    if (!path) return;
    char request[LINE];
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                        path, port);
    send_all(subscriber->fd, request, (size_t)size);
}

static void subscribe(int port, uint32_t count, const char *path, bool wants_first) {
    begin(0, false, false);
    int64_t began = now_ns(), until = began + 60000000000;
    for (uint32_t i = 0; i < count; i++) {
        add_subscriber(port, path, wants_first);
        while (now.ready + HANDSHAKES_AT_ONCE <= i && now_ns() < until && !now.gone && !now.problem[0]) turn(100);
    }
    while (now.ready < count && now_ns() < until && !now.gone && !now.problem[0]) turn(100);
    if (now.ready < count && !now.problem[0]) snprintf(now.problem, sizeof now.problem, "%u of %u were let in", now.ready, count);
    print_result(now_ns() - began);
}

static void receive(unsigned run, uint32_t rounds, double timeout) {
    begin(rounds, true, true);
    now.run = run;
    int64_t began = now_ns(), until = began + (int64_t)(timeout * 1e9);
    while (now.delivered < now.expected && now_ns() < until && !now.gone) turn(100);
    print_result(now_ns() - began);
}

static void open_devices(int port, uint32_t count) {
    if (count > MOST_DEVICES) fail("too many devices");
    for (device_count = 0; device_count < count; device_count++) {
        devices[device_count] = (struct device){.fd = connect_to(port)};
        watch(devices[device_count].fd, DEVICE_TAG + device_count);
    }
}

static void close_devices(void) {
    for (uint32_t i = 0; i < device_count; i++) close(devices[i].fd);
    device_count = 0;
}

/* Devices say one event each before it counts, so that accepting and finding the framing are no part of a measurement. */
static void warm_up(void) {
    char line[LINE];
    for (uint32_t i = 0; i < device_count; i++) send_all(devices[i].fd, line, event_line(line, i, "warm"));
    int64_t until = now_ns() + 10000000000;
    while (now.answers < device_count && now_ns() < until) turn(100);
    if (now.answers < device_count) fail("devices got no answer: %s", now.problem);
    for (int i = 0; i < 3; i++) turn(20);
}

static void device(int port) {
    close_devices();
    begin(0, false, false);
    open_devices(port, 1);
    warm_up();
    print_result(0);
}

static void events(double rate, uint32_t bursts, uint32_t size, double timeout) {
    char *lines = allocate((size_t)size * LINE);
    begin(bursts * size, true, false);
    int64_t period = (int64_t)(1e9 / rate), began = now_ns(), start = began + 1000000, until = began + (int64_t)(timeout * 1e9);
    uint32_t sent = 0;
    set_timer(start);
    while ((now.delivered < now.expected || now.answers < now.events) && now_ns() < until && !now.gone) {
        turn(100);
        if (!timer_rang || sent == bursts) continue;
        timer_rang = false;
        size_t length = 0;
        for (uint32_t i = 0; i < size; i++) length += event_line(lines + length, sent * size + i, "bench");
        int64_t at = now_ns();
        for (uint32_t i = 0; i < size; i++) now.sent_at[sent * size + i] = at;
        send_all(devices[0].fd, lines, length);
        if (++sent < bursts) set_timer(start + sent * period);
    }
    print_result(now_ns() - began);
    free(lines);
}

static void ingest(int port, uint32_t count, uint32_t window, uint32_t total, double timeout) {
    close_devices();
    begin(0, false, false);
    open_devices(port, count);
    warm_up();
    begin(total, false, false);
    char *lines = allocate((size_t)window * LINE);
    uint32_t index = 0;
    int64_t began = now_ns(), until = began + (int64_t)(timeout * 1e9);
    for (uint32_t i = 0; i < count; i++) {
        devices[i].left = total / count + (i < total % count);
        devices[i].answered = window; /* as if a whole window had been answered: room for one */
    }
    while ((now.delivered < now.expected || now.answers < total) && now_ns() < until && !now.gone) {
        for (uint32_t i = 0; i < count; i++) {
            struct device *device = &devices[i];
            uint32_t room = device->answered < device->left ? device->answered : device->left;
            if (!room) continue;
            size_t length = 0;
            device->answered = 0;
            device->left -= room;
            for (uint32_t line = 0; line < room; line++) length += event_line(lines + length, index++, "bench");
            send_all(device->fd, lines, length);
        }
        turn(100);
    }
    print_result(now.last_answer_at - began);
    free(lines);
    close_devices();
}

static void closing(double timeout) {
    begin(0, false, false);
    int64_t began = now_ns(), until = began + (int64_t)(timeout * 1e9);
    while (now.gone < subscriber_count && now_ns() < until) turn(100);
    int64_t took = now_ns() - began;
    uint32_t told = 0, away = 0;
    for (uint32_t i = 0; i < subscriber_count; i++) {
        told += subscribers[i].saw_shutdown;
        away += subscribers[i].close_code == 1001;
    }
    printf("{\"connections\": %u, \"told\": %u, \"closed_1001\": %u, \"gone\": %u, \"seconds\": %.6f}\n", subscriber_count, told, away,
           now.gone, (double)took / 1e9);
}

static void drop(void) {
    close_devices();
    for (uint32_t i = 0; i < subscriber_count; i++) lose(&subscribers[i]);
    subscriber_count = 0;
    printf("{}\n");
}

int main(void) {
    raise_file_limit();
    setvbuf(stdout, NULL, _IOLBF, 0);
    subscribers = allocate(MOST_SOCKETS * sizeof *subscribers);
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    boot = clock_ns(CLOCK_REALTIME);
    watch(timer, TIMER_TAG);
    char line[LINE], path[512];
    while (fgets(line, sizeof line, stdin)) {
        int port, first;
        uint32_t count, size, total, run;
        double rate, timeout;
        if (sscanf(line, "subscribe %d %u %511s %d", &port, &count, path, &first) == 4)
            subscribe(port, count, path, first);
        else if (sscanf(line, "raw %d %u", &port, &count) == 2) {
            for (uint32_t i = 0; i < count; i++) add_subscriber(port, NULL, false);
            printf("{}\n");
        } else if (sscanf(line, "receive %u %u %lf", &run, &count, &timeout) == 3)
            receive(run, count, timeout);
        else if (sscanf(line, "device %d", &port) == 1)
            device(port);
        else if (sscanf(line, "events %lf %u %u %lf", &rate, &count, &size, &timeout) == 4)
            events(rate, count, size, timeout);
        else if (sscanf(line, "ingest %d %u %u %u %lf", &port, &count, &size, &total, &timeout) == 5)
            ingest(port, count, size, total, timeout);
        else if (sscanf(line, "closing %lf", &timeout) == 1)
            closing(timeout);
        else if (!strncmp(line, "drop", 4))
            drop();
        else
            fail("unknown command: %s", line);
    }
    return 0;
}
