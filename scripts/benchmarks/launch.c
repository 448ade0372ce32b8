/* Start a program on one core: launch CORE PROGRAM ARGUMENT...
 *
 * It may open as many files as the system allows, and ends when the benchmark does, however that ends.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "wire.h"

int main(int count, char **arguments) {
    if (count < 3) fail("usage: launch CORE PROGRAM ARGUMENT...");
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(atoi(arguments[1]), &cores);
    if (sched_setaffinity(0, sizeof cores, &cores)) fail("core %s: %s", arguments[1], strerror(errno));
    raise_file_limit();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execvp(arguments[2], arguments + 2);
    fail("%s: %s", arguments[2], strerror(errno));
}
