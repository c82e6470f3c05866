/* SPDX-License-Identifier: MIT */
/* The files that the commands work on. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"
#include "drivers/random.h"

/* A copy in which zeros are holes. */
void vt_fault_copy_file(const char *from, const char *to)
{
    static uint8_t buf[65536];
    static const uint8_t zeros[sizeof(buf)];
    int in = open(from, O_RDONLY);
    int out = open(to, O_CREAT | O_TRUNC | O_WRONLY, 0666);
    off_t offset = 0;
    ssize_t got;
    if (in < 0 || out < 0)
        vt_fault_die(from);
    while ((got = read(in, buf, sizeof(buf))) > 0) {
        if (memcmp(buf, zeros, (size_t)got) != 0 && pwrite(out, buf, (size_t)got, offset) != got)
            vt_fault_die(to);
        offset += got;
    }
    if (got < 0 || ftruncate(out, offset) < 0)
        vt_fault_die(to);
    close(in);
    close(out);
}

void vt_fault_must(struct bench *bench, const char *const *args)
{
    if (vt_fault_succeeds(bench, args))
        return;
    char text[1024];
    vt_fault_read_text("../stderr", text, sizeof(text));
    fprintf(stderr, "vdisk-fault: making fixtures: vdisk %s: %s", args[0], text);
    exit(99);
}

#define MUST VT_FAULT_MUST

void vt_fault_make_file(const char *path, const void *bytes, size_t length, size_t file_bytes)
{
    int fd = open(path, O_CREAT | O_WRONLY, 0666);
    if (fd < 0 || pwrite(fd, bytes, length, 0) != (ssize_t)length ||
        ftruncate(fd, (off_t)file_bytes) < 0 || close(fd) < 0)
        vt_fault_die(path);
}

static void make_raw(const char *path)
{
    struct vt_random random = {1};
    uint8_t *bytes = calloc(1, FAULT_DISK_BYTES);
    int fd = open(path, O_CREAT | O_WRONLY, 0666);
    if (!bytes || fd < 0)
        vt_fault_die(path);
    vt_random_fill(&random, bytes, 150000);
    vt_random_fill(&random, bytes + 400000, 5000);
    if (pwrite(fd, bytes, 262144, 0) < 0 || pwrite(fd, bytes + 393216, 65536, 393216) < 0 ||
        ftruncate(fd, FAULT_DISK_BYTES) < 0)
        vt_fault_die(path);
    close(fd);
    free(bytes);
}

void vt_fault_poke(const char *path, off_t offset, const void *bytes, size_t length)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0 || pwrite(fd, bytes, length, offset) != (ssize_t)length || close(fd) < 0)
        vt_fault_die(path);
}

void vt_fault_peek(const char *path, off_t offset, void *bytes, size_t length)
{
    int fd = open(path, O_RDONLY);
    if (fd < 0 || pread(fd, bytes, length, offset) != (ssize_t)length || close(fd) < 0)
        vt_fault_die(path);
}

/* With a leaked cluster, and as a writer that died leaves it. */
static void make_leaky(const char *path)
{
    struct stat st;
    uint8_t features;
    if (stat(path, &st) < 0 || truncate(path, st.st_size + 65536) < 0)
        vt_fault_die(path);
    vt_fault_peek(path, 16, &features, 1);
    features |= 2;
    vt_fault_poke(path, 16, &features, 1);
}

/* With the header of the first draft: L1 table, size and backing file stand 8 bytes earlier. */
static void make_draft(const char *path)
{
    uint8_t fields[32];
    vt_fault_peek(path, 32, fields, sizeof(fields));
    memmove(fields, fields + 8, 24);
    memset(fields + 24, 0, 8);
    vt_fault_poke(path, 32, fields, sizeof(fields));
}

/* One that has disk.raw as a snapshot, and something else since. */
static void make_snapshots(struct bench *bench)
{
    MUST(bench, "convert", "-f", "raw", "-O", "qcow2", "disk.raw", "snaps.qcow2");
    MUST(bench, "snapshot", "-c", "one", "snaps.qcow2");
    MUST(bench, "io", "-c", "write -P 6 64k 100k", "-c", "write -z 0 64k", "snaps.qcow2");
    MUST(bench, "convert", "-O", "raw", "snaps.qcow2", "snaps.raw");
}

static void make_chains(struct bench *bench)
{
    MUST(bench, "convert", "-f", "raw", "-O", "qed", "disk.raw", "disk.qed");
    MUST(bench, "create", "-q", "-f", "qed", "-b", "disk.qed", "-F", "qed", "mid.qed");
    MUST(bench, "io", "-f", "qed", "-c", "write -P 4 100k 70k", "-c", "write -z 0 20k", "mid.qed");
    MUST(bench, "create", "-q", "-f", "qed", "-b", "mid.qed", "-F", "qed", "top.qed");
    MUST(bench, "io", "-f", "qed", "-c", "write -P 9 256k 5k", "-c", "write -z 128k 64k",
         "top.qed");
    MUST(bench, "convert", "-f", "qed", "-O", "raw", "top.qed", "top.raw");
    MUST(bench, "create", "-q", "-f", "qed", "-b", "disk.raw", "-F", "raw", "over.qed");
    MUST(bench, "io", "-f", "qed", "-c", "write -P 6 10k 90k", "-c", "write -P 5 767k 1k",
         "over.qed");
    MUST(bench, "convert", "-f", "qed", "-O", "raw", "over.qed", "over.raw");
    MUST(bench, "create", "-q", "-f", "add-cow", "-b", "disk.raw", "-F", "raw", "-o",
         "image_file=cow.data", "cow");
    MUST(bench, "io", "-f", "add-cow", "-c", "write -P 8 256k 5k", "-c", "write -z 64k 64k", "cow");
    MUST(bench, "convert", "-f", "add-cow", "-O", "raw", "cow", "cow.raw");
    vt_fault_copy_file("disk.qed", "leaky.qed");
    make_leaky("leaky.qed");
    vt_fault_copy_file("disk.qed", "draft.qed");
    make_draft("draft.qed");
}

static void make_bitmaps(struct bench *bench)
{
    MUST(bench, "convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k", "disk.raw",
         "bm.qcow2");
    MUST(bench, "bitmap", "--add", "bm.qcow2", "b");
    MUST(bench, "bitmap", "--add", "-g", "512", "--disable", "bm.qcow2", "off");
    MUST(bench, "io", "-f", "qcow2", "-c", "write -P 4 100k 70k", "bm.qcow2");
    MUST(bench, "bitmap", "--merge", "b", "bm.qcow2", "off");
    MUST(bench, "convert", "-f", "qcow2", "-O", "raw", "bm.qcow2", "bm.raw");
}

/* With small clusters, so that there are many tables. */
static void make_qcow2(struct bench *bench)
{
    MUST(bench, "create", "-q", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", "-o",
         "cluster_size=1k,refcount_bits=64", "over.qcow2");
    MUST(bench, "io", "-f", "qcow2", "-c", "write -P 6 10k 90k", "-c", "write -P 5 767k 1k",
         "over.qcow2");
    MUST(bench, "convert", "-f", "qcow2", "-O", "raw", "over.qcow2", "overq.raw");
}

void vt_fault_make_fixtures(struct bench *bench)
{
    const char *base = getenv("TMPDIR");
    if (!base) /* memory is faster than a disk that flushes for real */
        base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(bench->folder, sizeof(bench->folder), "%s/vdisk-fault-XXXXXX", base);
    if (!mkdtemp(bench->folder) || chdir(bench->folder) < 0 || mkdir("work", 0777) < 0 ||
        mkdir("pristine", 0777) < 0 || chdir("work") < 0)
        vt_fault_die(bench->folder);
    make_raw("disk.raw");
    MUST(bench, "convert", "-f", "raw", "-O", "gow1", "disk.raw", "disk.gow1");
    MUST(bench, "convert", "-f", "raw", "-O", "gow3", "disk.raw", "master.gow3");
    MUST(bench, "sync", "-q", "master.gow3", "replica.gow3");
    MUST(bench, "io", "-f", "gow3", "-c", "write -P 5 100k 200k", "-c", "discard 0 64k",
         "master.gow3");
    vt_fault_copy_file("disk.gow1", "work.gow1");
    make_chains(bench);
    make_bitmaps(bench);
    make_snapshots(bench);
    make_qcow2(bench);
    vt_fault_make_qcow2_fixtures(bench);
    for (size_t i = 0; i < vt_fault_fixture_entries; i++) {
        char path[64];
        snprintf(path, sizeof(path), "../pristine/%s", vt_fault_fixtures[i]);
        vt_fault_copy_file(vt_fault_fixtures[i], path);
    }
}
