/* SPDX-License-Identifier: MIT */
/*
 * Reads from a URL as the library does, for test-http.sh.
 *
 *   http-client [OPTION...] URL COMMAND...
 *
 *   --timeout MS --retries N --connections N --ca FILE --user TEXT --password TEXT --bearer TEXT
 *   --reference FILE    what the file must contain
 *
 *   size                       prints "size N"
 *   read OFFSET LENGTH         reads, compares with the reference
 *   random COUNT BYTES THREADS that many reads of up to so many bytes by each thread, in up to
 *                              5 buffers; the environment variable SEED seeds them
 *   run COMMAND                runs a shell command
 *   stats                      prints "requests N bytes N"
 *   name                       prints the name as messages show it
 *
 * An error is printed as "ESTALE MESSAGE", and the exit status is then 1; for a read, the buffers
 * must be all zero.  Bytes that are not those of the reference are "DIFFERENT", exit status 3.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "storage/storage.h"
#include "util/iov.h"

#define BUFFERS_MAX 5

enum {
    OK,
    FAILED,
    USAGE,
    DIFFERENT
};

static struct vd_storage *storage;
static uint64_t size;
static int reference = -1;

static int report(const struct vdisk_error *err)
{
    printf("%s %s\n", strerrorname_np(err->code), err->message);
    return FAILED;
}

static bool is_zero(const struct iovec *iov, int entries)
{
    for (int i = 0; i < entries; i++)
        if (!vd_buffer_is_zero(iov[i].iov_base, iov[i].iov_len))
            return false;
    return true;
}

static bool is_as_reference(const struct iovec *iov, int entries, uint64_t offset)
{
    bool same = true;
    for (int i = 0; i < entries && same; i++) {
        char *wanted = malloc(iov[i].iov_len + 1);
        same = pread(reference, wanted, iov[i].iov_len, (off_t)offset) == (ssize_t)iov[i].iov_len &&
               memcmp(wanted, iov[i].iov_base, iov[i].iov_len) == 0;
        offset += iov[i].iov_len;
        free(wanted);
    }
    return same;
}

/* Buffers are filled with something that is not zero first. */
static int read_into(const struct iovec *iov, int entries, uint64_t offset)
{
    struct vdisk_error err = {0};
    for (int i = 0; i < entries; i++)
        memset(iov[i].iov_base, 0xa5, iov[i].iov_len);
    if (vd_storage_preadv(storage, iov, entries, offset, &err) < 0) {
        if (!is_zero(iov, entries)) {
            printf("DIRTY buffers after a failure\n");
            return DIFFERENT;
        }
        return report(&err);
    }
    if (reference >= 0 && !is_as_reference(iov, entries, offset)) {
        printf("DIFFERENT offset %" PRIu64 " length %zu\n", offset, vd_iov_length(iov, entries));
        return DIFFERENT;
    }
    return OK;
}

static int read_one(uint64_t offset, size_t length)
{
    struct iovec iov = {.iov_base = malloc(length + 1), .iov_len = length};
    int status = read_into(&iov, 1, offset);
    free(iov.iov_base);
    return status;
}

struct reader {
    pthread_t thread;
    unsigned seed;
    unsigned count;
    size_t bytes;
    int status;
};

static void *read_randomly(void *opaque)
{
    struct reader *reader = opaque;
    uint8_t *memory = malloc(reader->bytes + 1);
    for (unsigned i = 0; i < reader->count && reader->status == OK; i++) {
        /* Lengths of every magnitude, so that small ones are as frequent as large ones. */
        size_t limit = reader->bytes >> ((unsigned)rand_r(&reader->seed) % 20);
        size_t length = (size_t)rand_r(&reader->seed) % (limit + 1);
        length = length < size ? length : (size_t)size;
        uint64_t place = (uint64_t)rand_r(&reader->seed) << 31 | (unsigned)rand_r(&reader->seed);
        uint64_t offset = place % (size - length + 1);
        struct iovec iov[BUFFERS_MAX];
        int entries = 1 + rand_r(&reader->seed) % BUFFERS_MAX;
        size_t used = 0;
        for (int b = 0; b < entries; b++) {
            size_t rest = length - used;
            size_t step = b == entries - 1 ? rest : (size_t)rand_r(&reader->seed) % (rest + 1);
            iov[b] = (struct iovec){.iov_base = memory + used, .iov_len = step};
            used += step;
        }
        reader->status = read_into(iov, entries, offset);
    }
    free(memory);
    return NULL;
}

static int read_random(unsigned count, size_t bytes, unsigned threads)
{
    const char *seed = getenv("SEED");
    struct reader *readers = calloc(threads, sizeof(*readers));
    int status = OK;
    for (unsigned i = 0; i < threads; i++) {
        unsigned base = seed ? (unsigned)strtoul(seed, NULL, 10) : 1;
        readers[i] = (struct reader){.seed = base + i, .count = count, .bytes = bytes};
        if (pthread_create(&readers[i].thread, NULL, read_randomly, &readers[i]) != 0)
            abort();
    }
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(readers[i].thread, NULL);
        status = readers[i].status > status ? readers[i].status : status;
    }
    free(readers);
    return status;
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);
    if (!*text || *end) {
        fprintf(stderr, "http-client: not a number: %s\n", text);
        exit(USAGE);
    }
    return value;
}

/* Runs the command at @argv; *used tells how many words it is. */
static int run_command(char **argv, int words, int *used)
{
    const char *command = argv[0];
    *used = 1;
    if (strcmp(command, "size") == 0)
        return printf("size %" PRIu64 "\n", size) < 0;
    if (strcmp(command, "name") == 0)
        return printf("name %s\n", vd_storage_name(storage)) < 0;
    if (strcmp(command, "stats") == 0) {
        struct vd_storage_stats stats;
        vd_storage_stats(storage, &stats);
        return printf("requests %" PRIu64 " bytes %" PRIu64 "\n", stats.requests, stats.bytes) < 0;
    }
    if (strcmp(command, "run") == 0 && words >= 2) {
        *used = 2;
        fflush(stdout);
        return system(argv[1]) == 0 ? OK : USAGE;
    }
    if (strcmp(command, "read") == 0 && words >= 3) {
        *used = 3;
        return read_one(number(argv[1]), (size_t)number(argv[2]));
    }
    if (strcmp(command, "random") == 0 && words >= 4) {
        *used = 4;
        return read_random((unsigned)number(argv[1]), (size_t)number(argv[2]),
                           (unsigned)number(argv[3]));
    }
    fprintf(stderr, "http-client: bad command: %s\n", command);
    return USAGE;
}

/* True if @name is an option, which is then set. */
static bool set_option(struct vdisk_network_options *network, const char *name, const char *value)
{
    if (strcmp(name, "--timeout") == 0)
        network->timeout_ms = (uint32_t)number(value);
    else if (strcmp(name, "--retries") == 0)
        network->retries = number(value) ? (uint32_t)number(value) : VDISK_NO_RETRIES;
    else if (strcmp(name, "--connections") == 0)
        network->connections = (uint32_t)number(value);
    else if (strcmp(name, "--ca") == 0)
        network->ca_file = value;
    else if (strcmp(name, "--user") == 0)
        network->user = value;
    else if (strcmp(name, "--password") == 0)
        network->password = value;
    else if (strcmp(name, "--bearer") == 0)
        network->bearer = value;
    else if (strcmp(name, "--reference") == 0)
        reference = open(value, O_RDONLY | O_CLOEXEC);
    else
        return false;
    return true;
}

int main(int argc, char **argv)
{
    struct vdisk_network_options network = {.struct_bytes = sizeof(network)};
    struct vd_storage_options options = {.network = &network};
    struct vdisk_error err = {0};
    int at = 1;
    while (at + 1 < argc && set_option(&network, argv[at], argv[at + 1]))
        at += 2;
    if (at >= argc)
        return USAGE;
    if (vd_storage_open(argv[at++], &options, &storage, &err) < 0)
        return report(&err);

    int status = vd_storage_size(storage, &size, &err) < 0 ? report(&err) : OK;
    int used;
    for (; at < argc && status == OK; at += used)
        status = run_command(argv + at, argc - at, &used);
    vd_storage_close(storage);
    if (reference >= 0)
        close(reference);
    return status;
}
