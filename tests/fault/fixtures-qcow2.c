/* SPDX-License-Identifier: MIT */
/* The files that the commands of commands-qcow2.c work on. */
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"
#include "drivers/random.h"
#include "util/endian.h"

#define MUST    VT_FAULT_MUST
#define CLUSTER 4096u
#define OPTIONS "cluster_size=4k"

/* Where the header has them. */
#define CRYPT_METHOD_OFFSET   35
#define L1_OFFSET             40
#define REFCOUNT_TABLE_OFFSET 48
#define INCOMPATIBLE_OFFSET   79
#define AUTOCLEAR_OFFSET      95
#define ENTRY_OFFSET          UINT64_C(0x00fffffffffffe00)

/* A text that compresses, and a hole behind it. */
static void make_text(void)
{
    struct vt_random random = {2};
    uint8_t *bytes = malloc(FAULT_DISK_BYTES);
    if (!bytes)
        vt_fault_die("text");
    for (size_t i = 0; i < FAULT_DISK_BYTES; i++)
        bytes[i] = (uint8_t) "esta"[vt_random_below(&random, 4)];
    vt_fault_make_file("text.raw", bytes, 350000, FAULT_DISK_BYTES);
    free(bytes);
}

/* What the entry at @offset of @path leads to. */
static uint64_t follow(const char *path, uint64_t offset)
{
    struct be64 entry;
    vt_fault_peek(path, (off_t)offset, &entry, sizeof(entry));
    return be64_get(entry) & ENTRY_OFFSET;
}

static void set_refcount(const char *path, uint64_t cluster, uint16_t refcount)
{
    uint8_t bytes[2] = {(uint8_t)(refcount >> 8), (uint8_t)refcount};
    uint64_t block = follow(path, follow(path, REFCOUNT_TABLE_OFFSET));
    vt_fault_poke(path, (off_t)(block + 2 * cluster), bytes, sizeof(bytes));
}

/* A cluster that nothing leads to. */
static void make_leaky(const char *path)
{
    struct stat st;
    if (stat(path, &st) < 0)
        vt_fault_die(path);
    uint64_t cluster = ((uint64_t)st.st_size + CLUSTER - 1) / CLUSTER;
    set_refcount(path, cluster, 1);
    if (truncate(path, (off_t)((cluster + 1) * CLUSTER)) < 0)
        vt_fault_die(path);
}

/* Two clusters of data that do not count, and a leaked one. */
static void make_broken(const char *path)
{
    uint64_t l2 = follow(path, follow(path, L1_OFFSET));
    set_refcount(path, follow(path, l2) / CLUSTER, 0);
    set_refcount(path, follow(path, l2 + 3 * sizeof(struct be64)) / CLUSTER, 0);
    make_leaky(path);
}

static void flip(const char *path, off_t offset, uint8_t bit)
{
    uint8_t byte;
    vt_fault_peek(path, offset, &byte, 1);
    byte ^= bit;
    vt_fault_poke(path, offset, &byte, 1);
}

/* Images of what there is already, and copies with something wrong. */
static void make_plain(struct bench *bench)
{
    MUST(bench, "convert", "-f", "raw", "-O", "qcow2", "-o", OPTIONS, "disk.raw", "plain.qcow2");
    MUST(bench, "convert", "-f", "raw", "-O", "qcow2", "-o", OPTIONS ",compat=0.10", "disk.raw",
         "v2.qcow2");
    vt_fault_copy_file("plain.qcow2", "leaky.qcow2");
    make_leaky("leaky.qcow2");
    vt_fault_copy_file("plain.qcow2", "broken.qcow2");
    make_broken("broken.qcow2");
    vt_fault_copy_file("plain.qcow2", "dirty.qcow2");
    make_leaky("dirty.qcow2");
    flip("dirty.qcow2", INCOMPATIBLE_OFFSET, 1);
    vt_fault_copy_file("plain.qcow2", "frag.qcow2");
    MUST(bench, "io", "-f", "qcow2", "-c", "discard 0 100k", "-c", "write -P 3 600k 20k",
         "frag.qcow2");
    MUST(bench, "convert", "-f", "qcow2", "-O", "raw", "frag.qcow2", "frag.raw");
    vt_fault_copy_file("bm.qcow2", "hidden.qcow2");
    flip("hidden.qcow2", AUTOCLEAR_OFFSET, 1);
}

static void make_encrypted(struct bench *bench)
{
    vt_fault_make_file("key", "one", 3, 3);
    vt_fault_make_file("key2", "two", 3, 3);
    vt_fault_make_file("key3", "three", 5, 5);
    MUST(bench, "convert", "--passphrase-file", "key", "-f", "raw", "-O", "qcow2", "-o",
         OPTIONS ",encrypt.format=luks,encrypt.iter-time=10", "disk.raw", "luks.qcow2");
    MUST(bench, "amend", "--passphrase-file", "key", "--object", "secret,id=n,file=key2", "-o",
         "encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=10", "luks.qcow2");
    /* The older encryption is not made any more. */
    MUST(bench, "create", "-q", "-f", "qcow2", "-o", OPTIONS, "aes.qcow2", "768k");
    flip("aes.qcow2", CRYPT_METHOD_OFFSET, 1);
    MUST(bench, "io", "-f", "qcow2", "--passphrase-file", "key", "-c", "write -P 5 100k 70k", "-c",
         "write -P 6 500k 10k", "aes.qcow2");
}

void vt_fault_make_qcow2_fixtures(struct bench *bench)
{
    make_text();
    MUST(bench, "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", OPTIONS, "text.raw",
         "packed.qcow2");
    MUST(bench, "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", OPTIONS ",compression_type=zstd",
         "text.raw", "zpacked.qcow2");
    MUST(bench, "convert", "-f", "raw", "-O", "qcow2", "-o", OPTIONS ",data_file=datafile.data",
         "text.raw", "datafile.qcow2");
    make_plain(bench);
    make_encrypted(bench);
}
