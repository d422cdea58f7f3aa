/* The script under test: says when it is up, as a line "index pid nanoseconds", and sleeps for ever.
   The index is its argument, else the name of its folder (runit gives no arguments). */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char folder[4096] = "", line[128];
    const char *births = getenv("BENCH_BIRTHS");
    const char *name = argc > 1 ? argv[1] : strrchr(getcwd(folder, sizeof folder) ? folder : "/", '/') + 1;
    struct timespec now;
    int fd = births ? open(births, O_WRONLY | O_APPEND) : -1;

    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(line, sizeof line, "%.64s %d %lld\n", name, (int)getpid(), now.tv_sec * 1000000000LL + now.tv_nsec);
    if (fd < 0 || write(fd, line, strlen(line)) < 0)
        return 1;
    close(fd);
    for (;;)
        pause();
}
