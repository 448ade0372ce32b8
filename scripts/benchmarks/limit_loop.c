/* The limit that fan-out and latency are held against: a C loop that send()s the same bytes to the same number of sockets.
 *
 * Commands, one per line on standard input; each is answered with one line of JSON on standard output:
 *   accept N                        take N connections (they wait in the backlog already)
 *   fan ROUNDS RATE SIZE RUN        RATE times a second one frame of SIZE bytes to each of them; CPU time per send()
 *   sync ROUNDS RATE SIZE RUN FILE  the same, but first 4 KiB to FILE and one fdatasync(); the frame tells when that began
 *   drop                            close the connections
 * The first line of output is {"port": P}. Ends with its input.
 *
 * The frame is a WebSocket text frame like the server's, so that the load client reads both with the same code.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire.h"

enum { MOST_CONNECTIONS = 16384, MOST_BYTES = 65000, BLOCK = 4096, BLOCKS = 1024 };

static int connections[MOST_CONNECTIONS];
static int connection_count;
static unsigned char frame[MOST_BYTES + 4];

/* Write `{"description":"bench-RUN-ROUND-BEGAN","pad":"xxx"}` with its header; return its size, which is `size`. */
static size_t make_frame(size_t size, unsigned run, unsigned round, int64_t began) {
    size_t header = size - 2 < 126 ? 2 : 4, payload = size - header;
    frame[0] = 0x81;
    if (header == 2) {
        frame[1] = (unsigned char)payload;
    } else {
        frame[1] = 126;
        frame[2] = (unsigned char)(payload >> 8);
        frame[3] = (unsigned char)payload;
    }
    memset(frame + header, 'x', payload);
    int written = snprintf((char *)frame + header, payload, "{\"description\":\"bench-%u-%u-%lld\",\"pad\":\"", run, round,
                           (long long)began);
    if (written < 0 || (size_t)written + 2 > payload) fail("frame of %zu bytes is too small", size);
    frame[header + written] = 'x';
    memcpy(frame + size - 2, "\"}", 2);
    return size;
}

static void accept_all(int listener, int count) {
    if (count > MOST_CONNECTIONS) fail("too many connections");
    for (connection_count = 0; connection_count < count; connection_count++) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) fail("accept: %s", strerror(errno));
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connections[connection_count] = fd;
    }
    printf("{\"connections\": %d}\n", connection_count);
}

static void drop_all(void) {
    for (int i = 0; i < connection_count; i++) close(connections[i]);
    connection_count = 0;
    printf("{}\n");
}

static int open_file(const char *path) {
    static char block[BLOCK];
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) fail("%s: %s", path, strerror(errno));
    /* Blocks that exist: as in a write-ahead log that is used again, a sync need not change the file's size. */
    for (int i = 0; i < BLOCKS; i++)
        if (pwrite(file, block, BLOCK, (off_t)i * BLOCK) != BLOCK) fail("%s: %s", path, strerror(errno));
    fsync(file);
    return file;
}

static void run_rounds(unsigned rounds, double rate, size_t size, unsigned run, const char *path) {
    static char block[BLOCK];
    int file = path ? open_file(path) : -1;
    float *syncs = allocate(rounds * sizeof *syncs);
    int64_t period = (int64_t)(1e9 / rate), start = now_ns() + 1000000, cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID), sending = 0;
    for (unsigned round = 0; round < rounds; round++) {
        struct timespec due = to_timespec(start + round * period);
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR) {}
        int64_t began = now_ns();
        make_frame(size, run, round, began);
        if (path) {
            memset(block, (int)round, sizeof block);
            if (pwrite(file, block, BLOCK, (off_t)(round % BLOCKS) * BLOCK) != BLOCK || fdatasync(file))
                fail("%s: %s", path, strerror(errno));
            syncs[round] = (float)(now_ns() - began) / 1e3f;
        }
        int64_t before = now_ns();
        for (int i = 0; i < connection_count; i++)
            if (send(connections[i], frame, size, MSG_NOSIGNAL) != (ssize_t)size) fail("send: %s", strerror(errno));
        sending += now_ns() - before;
    }
    cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    sort_times(syncs, rounds);
    double sends = (double)rounds * connection_count;
    printf("{\"cpu_us_per_send\": %.4f, \"wall_us_per_send\": %.4f, \"sync_p50_us\": %.1f, \"sync_p99_us\": %.1f}\n",
           (double)cpu / 1e3 / sends, (double)sending / 1e3 / sends, path ? percentile(syncs, rounds, 0.5) : 0.0,
           path ? percentile(syncs, rounds, 0.99) : 0.0);
    free(syncs);
    if (path) close(file);
}

int main(void) {
    raise_file_limit();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 4096) ||
        getsockname(listener, (struct sockaddr *)&address, &length))
        fail("listen: %s", strerror(errno));
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("{\"port\": %d}\n", ntohs(address.sin_port));
    char line[1024], path[512];
    while (fgets(line, sizeof line, stdin)) {
        unsigned rounds, run, count;
        size_t size;
        double rate;
        if (sscanf(line, "accept %u", &count) == 1) {
            accept_all(listener, (int)count);
        } else if (sscanf(line, "fan %u %lf %zu %u", &rounds, &rate, &size, &run) == 4 && size <= MOST_BYTES) {
            run_rounds(rounds, rate, size, run, NULL);
        } else if (sscanf(line, "sync %u %lf %zu %u %511[^\n]", &rounds, &rate, &size, &run, path) == 5 && size <= MOST_BYTES) {
            run_rounds(rounds, rate, size, run, path);
        } else if (!strncmp(line, "drop", 4)) {
            drop_all();
        } else {
            fail("unknown command: %s", line);
        }
    }
    return 0;
}
